"""The published theta.state of VeLO (arXiv 2211.09760), in its small size and in that of its authors.

A mixing layer's output is overwritten, and the third output of the rules is never read: those weights are
kept as unused arrays.
"""

import numpy as np

from celo._definitions import HIDDEN, INPUTS, VELO_INPUTS
from celo._published.layout import Layout, Piece, first_layer, linear

_STACK = ("ff_mod_stack", "~")


def _velo(architecture: str, units: int, banks: int) -> Layout:
    def layer(module: str, inputs: int, outputs: int, name: str) -> list[Piece]:
        return linear("rnn_params", module, inputs, outputs, f"{name}b", f"{name}w")

    return Layout(
        architecture,
        (
            Piece((*_STACK, "b0"), (banks, HIDDEN), ..., "rule_bank/b0"),
            Piece((*_STACK, "b1"), (banks, HIDDEN), ..., "rule_bank/b1"),
            Piece((*_STACK, "b2"), (banks, 3), np.s_[:, :2], "rule_bank/b2"),
            Piece((*_STACK, "b2"), (banks, 3), np.s_[:, 2], "official/ff_mod_stack/b2_third"),
            *first_layer(_STACK, tuple(INPUTS.values()), HIDDEN, "rule_bank/w0", banks),
            Piece((*_STACK, "w1"), (banks, HIDDEN, HIDDEN), ..., "rule_bank/w1"),
            Piece((*_STACK, "w2"), (banks, HIDDEN, 3), np.s_[:, :, :2], "rule_bank/w2"),
            Piece((*_STACK, "w2"), (banks, HIDDEN, 3), np.s_[:, :, 2], "official/ff_mod_stack/w2_third"),
            Piece(("lstm_init_state", "hidden"), (1, units), 0, "controller/h0"),
            Piece(("lstm_init_state", "cell"), (1, units), 0, "controller/c0"),
            *layer("linear", VELO_INPUTS, units, "official/rnn_params/linear/"),
            *layer("linear_1", VELO_INPUTS, units, "controller/mix_"),
            *layer("linear_2", VELO_INPUTS, units, "controller/skip_"),
            *layer("rnn/linear", 2 * units, 4 * units, "controller/lstm_"),
            *layer("rnn_to_controls", units, banks, "controller/control_"),
            Piece(("rnn_params", "step_size", "b"), (1,), 0, "controller/step_b"),
            Piece(("rnn_params", "step_size", "w"), (units, 1), np.s_[:, 0], "controller/step_w"),
        ),
    )


VELO_S = _velo("velo_s", 64, 32)
# Files of these two look alike. The weights that VeLO's authors released are of the first.
VELO_4000 = _velo("velo_4000", 512, 256)
VELO = _velo("velo", 512, 256)
