"""Recorded numbers of AdaFac-MLP, RNN-MLP and NN-Adam, and the copy of them that is committed.

python tests/golden/mlps_data.py ../shared/golden      # makes mlps.npz again
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "golden"
FILE = HERE / "mlps.npz"

STEMS = ("adafac_mlp", "rnn_mlp", "nnadam")
KINDS = ("init", "noisy")  # of θ
HORIZONS = ("n30", "n1000")  # which have no effect on these


def collect(source: Path) -> dict[str, np.ndarray]:
    """θ, trajectories and last states from a folder of golden numbers, by "file/array"."""
    names = [f"theta/{stem}__{kind}" for stem in STEMS for kind in KINDS]
    names += [f"traj/{stem}__{kind}__n30" for stem in STEMS for kind in KINDS]
    collected = {}
    for name in names:
        with np.load(source / f"{name}.npz") as arrays:
            collected |= {f"{name}/{key}": arrays[key] for key in arrays.files}
    return collected


def load() -> dict[str, np.ndarray]:
    with np.load(FILE) as arrays:
        return dict(arrays)


def published(stem: str, kind: str) -> dict[str, np.ndarray]:
    """θ in the published layout, by flat name."""
    prefix = f"theta/{stem}__{kind}/"
    return {name[len(prefix) :]: array for name, array in load().items() if name.startswith(prefix)}


def to_theta(stem: str, official: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The published layout -> ours. Written apart from celo.convert, so that each checks the other."""
    z = official
    if stem == "adafac_mlp":
        own = {name: z[f"nn/~/{name}"] for name in ("w0", "b0", "w1", "b1", "w2", "b2")}
        own["momentum_decays"], own["factored_decays"] = z["momentum_decays"], z["adafactor_decays"]
        own["second_moment_decay"] = z["rms_decays"][0]
        return {"adafac_mlp": own}
    own = {
        "lstm_w": z["rnn_params/rnn/linear/w"],
        "lstm_b": z["rnn_params/rnn/linear/b"],
        "h0": z["lstm_init_state/hidden"][0],
        "c0": z["lstm_init_state/cell"][0],
    }
    if stem == "nnadam":
        own["out_w"] = z["rnn_to_controls_params/rnn_to_controls/w"]
        own["out_b"] = z["rnn_to_controls_params/rnn_to_controls/b"]
        names = ("lr", "beta1", "beta2", "epsilon")
        own["hyperparameters"] = np.stack([z[f"per_layer_{name}"] for name in names])
        return {"nn_adam": own}
    for layer in range(3):
        for name in "wb":
            own[f"{name}{layer}"] = z[f"ffmod_params/mlp/~/linear_{layer}/{name}"]
    for ours, theirs in {"to_network": "rnn_to_ff", "across": "rnn_to_in"}.items():
        for name in "wb":
            own[f"{ours}_{name}"] = z[f"{theirs}_params/{theirs}/{name}"]
    own["first_across"], own["first_from_network"] = z["initial_from_lstm"], z["initial_from_mlp"]
    return {"rnn_mlp": own}


if __name__ == "__main__":
    np.savez_compressed(FILE, **collect(Path(sys.argv[1])))
