"""Scores of the time to a target, as in AlgoPerf (arXiv 2306.07179), over any unit of time. NumPy only.

A time is one contestant's on one task, in steps, in seconds or in steps of Adam; inf is a target missed.
"""

import numpy as np
from numpy.typing import ArrayLike

TOO_SLOW = 4.0  # times the fastest: as good as missed


def typical_times(times: list[ArrayLike]) -> np.ndarray:
    """Median over seeds on each task: rows [..., S] -> [..., tasks]. A target most seeds miss is missed."""
    ordered = [np.sort(np.asarray(row, np.float64), axis=-1) for row in times]
    # The upper of two middle ones, for a mean of a time and inf, or of two infs, is no time.
    return np.stack([row[..., row.shape[-1] // 2] for row in ordered], axis=-1)


def ratios(times: ArrayLike, too_slow: float = TOO_SLOW) -> np.ndarray:
    """Times [..., contestants, tasks] over the shortest of each task; inf from beyond `too_slow`.

    A time that is not known, NaN, gets no ratio and does not affect the others.
    """
    times = np.asarray(times, np.float64)
    best = np.fmin.reduce(times, axis=-2)[..., None, :]
    reached = np.isfinite(times)
    ratio = np.where(reached, times, 1.0) / np.where(np.isfinite(best), best, 1.0)
    ratio = np.where(reached & (ratio <= too_slow), ratio, np.inf)
    return np.where(np.isnan(times), np.nan, ratio)


def profile(ratio: ArrayLike, taus: ArrayLike) -> np.ndarray:
    """Fraction of tasks within each of `taus` [K] of the fastest: [..., tasks] -> [..., K].

    NaN where a ratio is.
    """
    ratio, taus = np.asarray(ratio, np.float64), np.asarray(taus, np.float64)
    share = (ratio[..., None, :] <= taus[:, None]).mean(axis=-1)
    return np.where(np.isnan(ratio).any(axis=-1, keepdims=True), np.nan, share)


def score(ratio: ArrayLike, too_slow: float = TOO_SLOW) -> np.ndarray:
    """AlgoPerf's score, in [0, 1]: the mean of the profile over 1 <= tau <= `too_slow`, exactly.

    1 for a contestant that is fastest everywhere, 0 for one that reaches no target in time.

    Args:
      ratio: of `ratios`, [..., tasks].
      too_slow: where the profile ends.
    """
    # A task counts from tau = its ratio on: a step function's integral needs no grid.
    left = np.clip(too_slow - np.asarray(ratio, np.float64), 0.0, too_slow - 1)
    return left.mean(axis=-1) / (too_slow - 1)
