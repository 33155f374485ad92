"""Weights as PyLO has them (arXiv 2506.10315): safetensors files of PyTorch modules.

Such a file holds a network alone. What else makes the optimizer is in PyLO's code, and in `constants` here.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from celo._errors import CeloError
from celo._published.layout import Layout, Piece


def metadata(data: bytes) -> dict[str, str] | None:
    """That of a safetensors file; None for a file that is something else."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > len(data) - 8:
        return None
    try:
        return json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except ValueError:
        return None


def decode(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a file, matrices transposed: [inputs, outputs].

    Raises:
      CeloError: if it is damaged, or not float32.
    """
    try:
        arrays = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type NumPy does not have
        raise CeloError(f"damaged: {error}") from error
    return {name: array.T for name, array in arrays.items()}


def encode(tree: Mapping[str, Any]) -> bytes:
    """Nested dicts of float32 arrays as PyTorch's safetensors writes a module's state."""

    def flat(node: Mapping[str, Any], path: str = "") -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for key, value in node.items():
            name = f"{path}{key}"
            is_group = isinstance(value, Mapping)
            arrays |= flat(value, f"{name}.") if is_group else {name: np.ascontiguousarray(value.T)}
        return arrays

    return save(flat(tree), metadata={"format": "pt"})


def _layer(module: str, inputs: int, outputs: int, number: int) -> list[Piece]:
    return [
        Piece(("network", module, "weight"), (inputs, outputs), ..., f"adafac_mlp/w{number}"),
        Piece(("network", module, "bias"), (outputs,), ..., f"adafac_mlp/b{number}"),
    ]


MULO = Layout(
    "mulo",
    (*_layer("input", 39, 32, 0), *_layer("linear_0", 32, 32, 1), *_layer("output", 32, 2, 2)),
    constants={
        "adafac_mlp/momentum_decays": (0.15216392, 0.14245212, 0.06812963),
        "adafac_mlp/second_moment_decay": 0.01079706,
        "adafac_mlp/factored_decays": (0.18621896, -0.10864615, -0.06185547),
        "adafac_mlp/log_step": math.log(10.0),  # steps of 0.01 instead of 0.001
    },
    note="PyLO's files hold the network alone; the decays and the step of 0.01 are those of its code",
)
LAYOUTS = (MULO,)
