"""The published theta.state of Celo and Celo-Adam (arXiv 2501.12670).

Their first mixing layer's output is overwritten, their control head is a softmax over one number, and the
third output of their update rule is never read: those weights are kept as unused arrays.
"""

import numpy as np

from celo._definitions import HIDDEN, INPUTS, SCHEDULE_INPUTS, UNITS
from celo._published.layout import Layout, Piece, first_layer, linear

_STACK = ("ff_mod_stack", "~")
_UPDATE_RULE = [
    Piece((*_STACK, "b0"), (1, HIDDEN), 0, "update_rule/b0"),
    Piece((*_STACK, "b1"), (1, HIDDEN), 0, "update_rule/b1"),
    Piece((*_STACK, "b2"), (1, 3), np.s_[0, :2], "update_rule/b2"),
    Piece((*_STACK, "b2"), (1, 3), np.s_[0, 2], "official/ff_mod_stack/b2_third"),
    *first_layer(_STACK, tuple(INPUTS.values()), HIDDEN, "update_rule/w0"),
    Piece((*_STACK, "w1"), (1, HIDDEN, HIDDEN), 0, "update_rule/w1"),
    Piece((*_STACK, "w2"), (1, HIDDEN, 3), np.s_[0, :, :2], "update_rule/w2"),
    Piece((*_STACK, "w2"), (1, HIDDEN, 3), np.s_[0, :, 2], "official/ff_mod_stack/w2_third"),
]


def _layer(module: str, inputs: int, outputs: int, b: str, w: str) -> list[Piece]:
    return linear("rnn_params", module, inputs, outputs, b, w)


def _unused_layer(module: str, inputs: int, outputs: int) -> list[Piece]:
    name = f"official/rnn_params/{module}"
    return _layer(module, inputs, outputs, f"{name}/b", f"{name}/w")


_STATE_AND_LSTM = [
    Piece(("lstm_init_state", "hidden"), (1, UNITS), 0, "scheduler/h0"),
    Piece(("lstm_init_state", "cell"), (1, UNITS), 0, "scheduler/c0"),
    *_unused_layer("linear", SCHEDULE_INPUTS, UNITS),
    *_layer("linear_1", SCHEDULE_INPUTS, UNITS, "scheduler/mix_b", "scheduler/mix_w"),
    *_layer("linear_2", SCHEDULE_INPUTS, UNITS, "scheduler/skip_b", "scheduler/skip_w"),
    *_layer("rnn/linear", 2 * UNITS, 4 * UNITS, "scheduler/lstm_b", "scheduler/lstm_w"),
]
_STEP_SIZE = [
    Piece(("rnn_params", "step_size", "b"), (1,), 0, "scheduler/out_b"),
    Piece(("rnn_params", "step_size", "w"), (UNITS, 1), np.s_[:, 0], "scheduler/out_w"),
]

CELO = Layout(
    "celo", (*_UPDATE_RULE, *_STATE_AND_LSTM, *_unused_layer("rnn_to_controls", UNITS, 1), *_STEP_SIZE)
)
CELO_ADAM = Layout("celo_adam", (*_STATE_AND_LSTM, *_STEP_SIZE))
