"""Weights under which a network learns, of the optimizers of which none are bundled."""

import numpy as np

from celo import weights
from celo._definitions import CELO, CELO2, UNITS, VELO_INPUTS


def celo_adam():
    """Celo's schedule."""
    return {"scheduler": weights.load("celo-1").theta["scheduler"]}


def celo2():
    """A rule whose direction is that of the first momentum."""
    rule = {name: np.zeros(shape, np.float32) for name, shape in CELO2.shapes.items()}
    rule["w0"][[3, 3], [0, 1]] = 1.0, -1.0  # relu(x) and relu(-x) of the momentum with decay 0.9
    rule["w1"][[0, 1], [0, 1]] = 1.0
    rule["w2"][:2, 0] = 1.0, -1.0
    return {"update_rule": rule}


def velo(banks=4):
    """A bank of rules near Celo's, mixed by a controller of random weights, which has little say."""
    draw = np.random.default_rng(0)

    def noise(*shape, size=0.03):
        return (size * draw.normal(size=shape)).astype(np.float32)

    rule = weights.load("celo-1").theta["update_rule"]
    bank = {name: rule[name] for name in CELO.shapes}
    shapes = {"mix": (VELO_INPUTS, UNITS), "skip": (VELO_INPUTS, UNITS), "lstm": (2 * UNITS, 4 * UNITS)}
    controller = {f"{name}_w": noise(*shape, size=0.1) for name, shape in shapes.items()}
    controller |= {f"{name}_b": noise(shape[1], size=0.1) for name, shape in shapes.items()}
    controller |= {name: noise(UNITS) for name in ("h0", "c0", "step_w")}
    controller |= {"control_w": noise(UNITS, banks), "control_b": noise(banks) + 1, "step_b": np.float32(4)}
    bank = {name: np.stack([x * (1 + noise(*np.shape(x))) for _ in range(banks)]) for name, x in bank.items()}
    return {"rule_bank": bank, "controller": controller}
