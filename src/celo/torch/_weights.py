"""Weights for an optimizer: read once, checked, as float32 tensors on the CPU."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from celo import weights as weights_files
from celo._definitions import CELO, CELO2, SCHEDULE_INPUTS, UNITS
from celo._errors import CeloError
from celo._limits import TrainedRange

WeightsLike = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]  # bundled name, path, or θ itself
Shapes = Mapping[str, tuple[int, ...]]

RULE, SCHEDULE = "update_rule", "scheduler"  # groups of θ


class Part(NamedTuple):
    """A group of θ that an optimizer reads."""

    group: str
    shapes: Shapes
    optional: Shapes = MappingProxyType({})  # of weights that need not be there


CELO_RULE = Part(RULE, CELO.shapes, {"log_min_rms": (), "log_matrix_step": (), "start_power": ()})
CELO2_RULE = Part(RULE, CELO2.shapes)
CELO_SCHEDULE = Part(
    SCHEDULE,
    {
        "mix_w": (SCHEDULE_INPUTS, UNITS),
        "mix_b": (UNITS,),
        "skip_w": (SCHEDULE_INPUTS, UNITS),
        "skip_b": (UNITS,),
        "lstm_w": (2 * UNITS, 4 * UNITS),
        "lstm_b": (4 * UNITS,),
        "out_w": (UNITS,),
        "out_b": (),
        "h0": (UNITS,),
        "c0": (UNITS,),
    },
    {"horizon_w": ()},
)


@dataclasses.dataclass(frozen=True)
class BoundWeights:
    """θ of one optimizer, and what is known of it."""

    theta: dict[str, dict[str, Tensor]]
    trained: TrainedRange
    architecture: str | None = None  # the name in its file; None for θ itself


def bind(
    weights: WeightsLike, parts: tuple[Part, ...] | Callable[[Mapping[str, Any]], tuple[Part, ...]]
) -> BoundWeights:
    """What an optimizer reads of θ, from a bundled name, a file or θ itself.

    Args:
      weights: any of these.
      parts: what is read, or a function of θ that says so where sizes differ.

    Raises:
      CeloError: if the file cannot be read, or a group is missing or does not fit.
    """
    if not isinstance(weights, str | os.PathLike | Mapping):
        raise CeloError(f"weights must be a bundled name, a path or θ itself, got {weights!r}")
    if isinstance(weights, Mapping):
        theta, source, trained, architecture = weights, "weights=", TrainedRange("θ"), None
    else:
        loaded = weights_files.load(weights)
        theta, source, trained = loaded.theta, str(weights), TrainedRange.of(loaded, str(weights))
        architecture = loaded.metadata["architecture"]
    parts = parts(theta) if callable(parts) else parts
    read = {
        part.group: {name: np.asarray(array) for name, array in theta[part.group].items()}
        for part in parts
        if part.group in theta
    }
    expected = {
        f"{part.group}/{name}": shape
        for part in parts
        for name, shape in {**part.shapes, **part.optional}.items()
        if name in part.shapes or name in read.get(part.group, {})
    }
    weights_files.check_theta(read, expected, source=source)
    return BoundWeights(
        {group: {n: torch.from_numpy(a.copy()) for n, a in arrays.items()} for group, arrays in read.items()},
        trained,
        architecture,
    )
