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
VELO = HERE / "velo.npz"
CELO2 = HERE / "celo2.npz"
COPIED_AS_THEY_ARE = ("pes_grad.npz", "outer_adamw.npz")

OPTIMIZERS = {"celo_phase1": "celo", "celo": "celo", "celo_adam": "celo_adam"}  # and the file of its θ
KINDS = ("init", "noisy")  # of θ
# Horizon, and what the names of the gradients and losses begin with.
CASES = {"n30": (30, ""), "n1000": (1000, ""), "stress": (30, "stress_")}
TRAJECTORIES = [
    *(f"{o}__{kind}__{case}" for o in OPTIMIZERS for kind in KINDS for case in ("n30", "n1000")),
    *(f"{o}__noisy__stress" for o in ("celo", "celo_adam")),
]
# Without n1000: Celo2 has no horizon.
CELO2_TRAJECTORIES = [
    f"{optimizer}__{kind}__n30"
    for optimizer in ("celo2base", "celo2", "celo2_optax_noortho", "celo2_optax_ortho")
    for kind in KINDS
]
VELO_TRAJECTORIES = [f"velo_s__{kind}__{case}" for kind in KINDS for case in ("n30", "n1000")]


def collect(source: Path) -> dict[str, np.ndarray]:
    """Everything the tests of Celo need from a folder of golden numbers, by "file/array"."""
    thetas = (f"theta/{of}__{kind}" for of in set(OPTIMIZERS.values()) for kind in KINDS)
    return _read(source, ["problem", *thetas, *(f"traj/{name}" for name in TRAJECTORIES)])


def collect_velo(source: Path) -> dict[str, np.ndarray]:
    """The same for VeLO; the problem is Celo's."""
    return _read(source, [*(f"theta/velo_s__{k}" for k in KINDS), *(f"traj/{n}" for n in VELO_TRAJECTORIES)])


def collect_celo2(source: Path) -> dict[str, np.ndarray]:
    """The same for Celo2, without the updates: the parameters show them."""
    files = [*(f"theta/celo2__{k}" for k in KINDS), *(f"traj/{n}" for n in CELO2_TRAJECTORIES)]
    return {name: array for name, array in _read(source, files).items() if "/updates/" not in name}


def _read(source: Path, files: list[str]) -> dict[str, np.ndarray]:
    collected = {}
    for file in files:
        with np.load(source / f"{file}.npz") as arrays:
            collected |= {f"{file}/{key}": arrays[key] for key in arrays.files}
    return collected


def load(file: Path = CELO) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
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
            **_lstm(official),
            "out_w": net["step_size/w"][:, 0],
            "out_b": net["step_size/b"][0],
        },
    }


def _lstm(official: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What feeds the LSTM of Celo's scheduler and of VeLO's controller, its weights and its first state."""
    net = below(official, "rnn_params")
    return {
        "mix_w": net["linear_1/w"],
        "mix_b": net["linear_1/b"],
        "skip_w": net["linear_2/w"],
        "skip_b": net["linear_2/b"],
        "lstm_w": net["rnn/linear/w"],
        "lstm_b": net["rnn/linear/b"],
        "h0": official["lstm_init_state/hidden"][0],
        "c0": official["lstm_init_state/cell"][0],
    }


def to_velo_theta(official: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """`to_theta` of VeLO."""
    bank, net = below(official, "ff_mod_stack/~"), below(official, "rnn_params")
    return {
        "rule_bank": {
            "w0": np.concatenate([bank[f"w0__{group}"] for group in range(14)], axis=1),
            **{name: bank[name] for name in ("b0", "w1", "b1")},
            **{name: bank[name][..., :2] for name in ("w2", "b2")},
        },
        "controller": {
            **_lstm(official),
            "control_w": net["rnn_to_controls/w"],
            "control_b": net["rnn_to_controls/b"],
            "step_w": net["step_size/w"][:, 0],
            "step_b": net["step_size/b"][0],
        },
    }


def to_celo2_theta(official: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """`to_theta` of Celo2, of which one output counts."""
    rule = below(official, "ff_mod_stack/~")
    return {
        "update_rule": {
            "w0": np.concatenate([rule[f"w0__{group}"] for group in range(14)]),
            **{name: rule[name] for name in ("b0", "w1", "b1")},
            **{name: rule[name][..., :1] for name in ("w2", "b2")},
        }
    }


def main(source: Path) -> None:
    np.savez_compressed(CELO, **collect(source))
    np.savez_compressed(VELO, **collect_velo(source))
    np.savez_compressed(CELO2, **collect_celo2(source))
    for name in COPIED_AS_THEY_ARE:
        shutil.copyfile(source / name, HERE / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
