"""Scores of training curves against a reference, as in Celo (arXiv 2501.12670). NumPy only.

Both scores put a method beside tuned Adam on the same task and seed: above 1 is better than Adam. Curves are
training losses at evaluation points, smoothed (in the paper by `smooth`); the reference is the last point of
Adam's smoothed curve at its best learning rate.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SMOOTHING = 0.9  # the paper's
WINDOW = 5  # evaluations in a trailing mean: the last 5% of a race


def smooth(curve: ArrayLike, decay: float = SMOOTHING) -> np.ndarray:
    """Exponential moving average along the last axis, float64, beginning at the first value.

    A non-finite value makes everything after it non-finite: a run that has diverged stays diverged.

    Args:
      curve: losses [..., E] at the evaluation points.
      decay: weight of the past at each point.
    """
    smoothed = np.array(curve, np.float64)
    for i in range(1, smoothed.shape[-1]):
        smoothed[..., i] = decay * smoothed[..., i - 1] + (1 - decay) * smoothed[..., i]
    return smoothed


def trailing_mean(curve: ArrayLike, window: int = WINDOW) -> np.ndarray:
    """Mean of the last `window` points up to each point (of all there are, near the start), float64.

    Unlike `smooth` it forgets. Where a loss falls by many powers of ten, the exponential average is still
    made of the first values when the loss has long reached its floor: after n points 0.9^n of the loss at the
    start is left, so that no optimizer, however fast, gets below that.

    Args:
      curve: losses [..., E]; a non-finite value makes everything after it NaN, as in `smooth`.
      window: how many points, positive.
    """
    values = np.asarray(curve, np.float64)
    diverged = np.logical_or.accumulate(~np.isfinite(values), axis=-1)
    values = np.where(diverged, np.nan, values)
    ends = range(1, values.shape[-1] + 1)
    return np.stack([values[..., max(0, end - window) : end].mean(axis=-1) for end in ends], axis=-1)


def final_loss_ratio(final: ArrayLike, reference: ArrayLike) -> Any:
    """reference / final, float64: how many times lower than the reference a run ended.

    0 for a run that diverged, NaN where the reference itself did, 1 where both are equal (also at 0).

    Args:
      final: last smoothed losses, any shape.
      reference: last smoothed losses of tuned Adam, broadcast against `final`.
    """
    final, reference = np.broadcast_arrays(np.asarray(final, np.float64), np.asarray(reference, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(final == reference, 1.0, reference / final)
    ratio = np.where(np.isfinite(final), ratio, 0.0)
    return np.where(np.isfinite(reference), ratio, np.nan)[()]


def speedup(steps: ArrayLike, smoothed: ArrayLike, reference: ArrayLike) -> Any:
    """T / the first step at which a smoothed curve is at or below the reference, float64 [...].

    0 for a curve that never gets there or has diverged at its end; a hit at step 0 counts as one at T; NaN
    where the reference diverged.

    Args:
      steps: the evaluation points [E], rising; the last is T.
      smoothed: smoothed losses [..., E].
      reference: last smoothed loss of tuned Adam, [...] or a scalar.
    """
    steps, smoothed = np.asarray(steps, np.float64), np.asarray(smoothed, np.float64)
    reference = np.broadcast_to(np.asarray(reference, np.float64), smoothed.shape[:-1])
    hit = smoothed <= reference[..., None]
    first = steps[np.argmax(hit, axis=-1)]
    first = np.where(first == 0, steps[-1], first)
    reached = hit.any(axis=-1) & np.isfinite(smoothed[..., -1])
    score = np.where(reached, steps[-1] / first, 0.0)
    return np.where(np.isfinite(reference), score, np.nan)[()]


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter (rounded down) of all scores.

    Args:
      scores: at least one number, any shape; the paper pools tasks and seeds.
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))
