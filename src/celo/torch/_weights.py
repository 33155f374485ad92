"""Weights for an optimizer: read once, checked, as float32 tensors on the CPU."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celo import weights as weights_files
from celo._definitions import CELO, SCHEDULE_INPUTS, UNITS
from celo._errors import CeloError
from celo._limits import TrainedRange

WeightsLike = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]  # bundled name, path, or θ itself

RULE, SCHEDULE = "update_rule", "scheduler"  # groups of θ
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    RULE: CELO.shapes,
    SCHEDULE: {
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
}
_OPTIONAL: dict[str, dict[str, tuple[int, ...]]] = {
    RULE: {"log_min_rms": (), "log_matrix_gain": (), "start_power": ()},
    SCHEDULE: {"horizon_w": ()},
}


@dataclasses.dataclass(frozen=True)
class BoundWeights:
    """θ of one optimizer, and the range it was meta-trained on."""

    theta: dict[str, dict[str, Tensor]]
    trained: TrainedRange


def bind(weights: WeightsLike, groups: tuple[str, ...]) -> BoundWeights:
    """The groups of θ that an optimizer reads, from a bundled name, a file or θ itself.

    Raises:
      CeloError: if the file cannot be read, or a group is missing or does not fit.
    """
    if not isinstance(weights, str | os.PathLike | Mapping):
        raise CeloError(f"weights must be a bundled name, a path or θ itself, got {weights!r}")
    if isinstance(weights, Mapping):
        theta, source, trained = weights, "weights=", TrainedRange("θ")
    else:
        loaded = weights_files.load(weights)
        theta, source, trained = loaded.theta, str(weights), TrainedRange.of(loaded, str(weights))
    read = {
        group: {name: np.asarray(array) for name, array in theta[group].items()}
        for group in groups
        if group in theta
    }
    expected = {
        f"{group}/{name}": shape
        for group in groups
        for name, shape in (_SHAPES[group] | _OPTIONAL[group]).items()
        if name in _SHAPES[group] or name in read.get(group, {})
    }
    weights_files.check_theta(read, expected, source=source)
    return BoundWeights(
        {group: {n: torch.from_numpy(a.copy()) for n, a in arrays.items()} for group, arrays in read.items()},
        trained,
    )
