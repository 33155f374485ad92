"""The published theta.state of Celo2 and of Celo2-base (arXiv 2602.19142), which look alike.

The second and third outputs of their rule have no effect: those weights are kept as unused arrays.
"""

import numpy as np

from celo._definitions import CELO2, INPUTS
from celo._published.layout import Layout, Piece, first_layer

_STACK, _UNITS = ("ff_mod_stack", "~"), CELO2.hidden
_PIECES = (
    Piece((*_STACK, "b0"), (_UNITS,), ..., "update_rule/b0"),
    Piece((*_STACK, "b1"), (_UNITS,), ..., "update_rule/b1"),
    Piece((*_STACK, "b2"), (3,), np.s_[:1], "update_rule/b2"),
    Piece((*_STACK, "b2"), (3,), np.s_[1:], "official/ff_mod_stack/b2_others"),
    # As Celo's, without the axis for several networks.
    *(
        piece._replace(shape=piece.shape[1:], part=...)
        for piece in first_layer(_STACK, tuple(INPUTS.values()), _UNITS, "update_rule/w0")
    ),
    Piece((*_STACK, "w1"), (_UNITS, _UNITS), ..., "update_rule/w1"),
    Piece((*_STACK, "w2"), (_UNITS, 3), np.s_[:, :1], "update_rule/w2"),
    Piece((*_STACK, "w2"), (_UNITS, 3), np.s_[:, 1:], "official/ff_mod_stack/w2_others"),
)

CELO2_LAYOUT, CELO2_BASE_LAYOUT = Layout("celo2", _PIECES), Layout("celo2_base", _PIECES)
