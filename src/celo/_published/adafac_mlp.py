"""The published theta.state of AdaFac-MLP (arXiv 2203.11860), and of muLO, the same with 32 hidden units."""

from celo._published.layout import Layout, Piece


def _layout(architecture: str, units: int) -> Layout:
    network = [
        Piece(("nn", "~", name), shape, ..., f"adafac_mlp/{name}")
        for name, shape in {
            "b0": (units,),
            "b1": (units,),
            "b2": (2,),
            "w0": (39, units),
            "w1": (units, units),
            "w2": (units, 2),
        }.items()
    ]
    factored = Piece(("adafactor_decays",), (3,), ..., "adafac_mlp/factored_decays")
    momentum = Piece(("momentum_decays",), (3,), ..., "adafac_mlp/momentum_decays")
    second = Piece(("rms_decays",), (1,), 0, "adafac_mlp/second_moment_decay")
    return Layout(architecture, (factored, momentum, *network, second))


ADAFAC_MLP, MULO = _layout("adafac_mlp", 4), _layout("mulo", 32)
