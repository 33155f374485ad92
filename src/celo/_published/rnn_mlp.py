"""The published theta.state of RNN-MLP (arXiv 2009.11243)."""

from celo._published.layout import Layout, Piece, linear


def _own(*names: str) -> tuple[str, ...]:
    return tuple(f"rnn_mlp/{name}" for name in names)


_NETWORK = [
    piece
    for layer, sizes in enumerate([(54, 32), (32, 32), (32, 18)])
    for piece in linear("ffmod_params", f"mlp/~/linear_{layer}", *sizes, *_own(f"b{layer}", f"w{layer}"))
]

RNN_MLP = Layout(
    "rnn_mlp",
    (
        *_NETWORK,
        Piece(("initial_from_lstm",), (18,), ..., "rnn_mlp/first_across"),
        Piece(("initial_from_mlp",), (16,), ..., "rnn_mlp/first_from_network"),
        Piece(("lstm_init_state", "hidden"), (1, 64), 0, "rnn_mlp/h0"),
        Piece(("lstm_init_state", "cell"), (1, 64), 0, "rnn_mlp/c0"),
        *linear("rnn_params", "rnn/linear", 116, 256, *_own("lstm_b", "lstm_w")),
        *linear("rnn_to_ff_params", "rnn_to_ff", 64, 17, *_own("to_network_b", "to_network_w")),
        *linear("rnn_to_in_params", "rnn_to_in", 64, 18, *_own("across_b", "across_w")),
    ),
)
