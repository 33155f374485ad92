"""The published theta.state of NN-Adam (arXiv 2203.11860), with the 64 units of Celo's authors."""

import numpy as np

from celo._published.layout import Layout, Piece, linear

_PLACES = {"beta1": 1, "beta2": 2, "epsilon": 3, "lr": 0}  # as their files are sorted; where they are in ours
_HYPERPARAMETERS = [
    Piece((f"per_layer_{name}",), (), np.newaxis, "nn_adam/hyperparameters", at=(place,))
    for name, place in _PLACES.items()
]

NN_ADAM = Layout(
    "nn_adam",
    (
        Piece(("lstm_init_state", "hidden"), (1, 64), 0, "nn_adam/h0"),
        Piece(("lstm_init_state", "cell"), (1, 64), 0, "nn_adam/c0"),
        *_HYPERPARAMETERS,
        *linear("rnn_params", "rnn/linear", 83, 256, "nn_adam/lstm_b", "nn_adam/lstm_w"),
        *linear("rnn_to_controls_params", "rnn_to_controls", 64, 4, "nn_adam/out_b", "nn_adam/out_w"),
    ),
)
