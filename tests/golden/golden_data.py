"""Golden numbers as the tests read them, and the copy of them that is committed.

python tests/golden/golden_data.py ../shared/golden      # makes the files of this folder again
"""

import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "golden"
CELO = HERE / "celo.npz"
COPIED_AS_THEY_ARE = ("pes_grad.npz", "outer_adamw.npz")

OPTIMIZERS = {"celo_phase1": "celo", "celo": "celo", "celo_adam": "celo_adam"}  # and the file of its θ
KINDS = ("init", "noisy")  # of θ
# Horizon, and what the names of the gradients and losses begin with.
CASES = {"n30": (30, ""), "n1000": (1000, ""), "stress": (30, "stress_")}
TRAJECTORIES = [
    *(f"{o}__{kind}__{case}" for o in OPTIMIZERS for kind in KINDS for case in ("n30", "n1000")),
    *(f"{o}__noisy__stress" for o in ("celo", "celo_adam")),
]


def collect(source: Path) -> dict[str, np.ndarray]:
    """Everything the tests of Celo need from a folder of golden numbers, by "file/array"."""
    files = {
        "problem": "problem",
        **{
            name: name
            for name in (f"theta/{of}__{kind}" for of in set(OPTIMIZERS.values()) for kind in KINDS)
        },
        **{f"traj/{name}": f"traj/{name}" for name in TRAJECTORIES},
    }
    collected = {}
    for prefix, file in files.items():
        with np.load(source / f"{file}.npz") as arrays:
            collected |= {f"{prefix}/{key}": arrays[key] for key in arrays.files}
    return collected


def load() -> dict[str, np.ndarray]:
    with np.load(CELO) as arrays:
        return dict(arrays)


def below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with "prefix/", by the rest of their names."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def to_theta(official: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The published layout -> ours. Written apart from celo.convert, so that each checks the other."""
    rule = below(official, "ff_mod_stack/~")
    net = below(official, "rnn_params")
    of_rule = {}
    if rule:  # Celo-Adam has none
        of_rule["update_rule"] = {
            "w0": np.concatenate([rule[f"w0__{group}"][0] for group in range(14)]),
            "b0": rule["b0"][0],
            "w1": rule["w1"][0],
            "b1": rule["b1"][0],
            "w2": rule["w2"][0][:, :2],
            "b2": rule["b2"][0][:2],
        }
    return of_rule | {
        "scheduler": {
            "mix_w": net["linear_1/w"],
            "mix_b": net["linear_1/b"],
            "skip_w": net["linear_2/w"],
            "skip_b": net["linear_2/b"],
            "lstm_w": net["rnn/linear/w"],
            "lstm_b": net["rnn/linear/b"],
            "out_w": net["step_size/w"][:, 0],
            "out_b": net["step_size/b"][0],
            "h0": official["lstm_init_state/hidden"][0],
            "c0": official["lstm_init_state/cell"][0],
        },
    }


def main(source: Path) -> None:
    np.savez_compressed(CELO, **collect(source))
    for name in COPIED_AS_THEY_ARE:
        shutil.copyfile(source / name, HERE / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
