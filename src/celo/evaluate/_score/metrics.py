"""Scores of training curves against a reference, as in Celo (arXiv 2501.12670). NumPy only.

Both scores put a method beside tuned Adam on the same task and seed: above 1 is better than Adam. Curves are
training losses at evaluation points, smoothed (in the paper by `smooth`); the reference is the last point of
Adam's smoothed curve at its best learning rate.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SMOOTHING = 0.9  # the paper's
SMOOTHING_VELO = 0.95  # learned_optimization's, for curves of more points


def smooth(curve: ArrayLike, decay: float = SMOOTHING) -> np.ndarray:
    """Exponential moving average along the last axis, float64, beginning at the first value.

    A non-finite value makes everything after it non-finite: a run that has diverged stays diverged.

    Args:
      curve: losses [..., E] at the evaluation points.
      decay: weight of the past at each point.
    """
    smoothed = np.array(curve, np.float64)
    with np.errstate(invalid="ignore"):  # 0 times an infinite loss
        for i in range(1, smoothed.shape[-1]):
            smoothed[..., i] = decay * smoothed[..., i - 1] + (1 - decay) * smoothed[..., i]
    return smoothed


def best_rate(final: ArrayLike, *, per_seed: bool = False) -> Any:
    """Index of the learning rate that ends lowest: int64, [] by the mean of the seeds, [S] for each of them.

    What is not finite counts as infinite; of equals the first wins. Both ways are in use for
    the reference: learned_optimization has one rate for all, a harness of Celo's protocol one for each seed.

    Args:
      final: last smoothed losses [rates, S].
      per_seed: whether each seed has its own.
    """
    final = np.asarray(final, np.float64)
    final = np.where(np.isfinite(final), final, np.inf)
    return np.argmin(final if per_seed else final.mean(axis=1), axis=0)


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


def steps_to_target(steps: ArrayLike, smoothed: ArrayLike, target: ArrayLike) -> Any:
    """The first step at which a smoothed curve is at or below `target`, float64 [...]; inf if none is.

    A hit at step 0 counts as one at the end, so that a target that is worth nothing earns nothing; a run that
    has diverged at its end has reached nothing; NaN where the target is not finite.

    Args:
      steps: the evaluation points [E], rising; the last is the horizon T.
      smoothed: smoothed losses [..., E].
      target: [...] or a scalar.
    """
    steps, smoothed = np.asarray(steps, np.float64), np.asarray(smoothed, np.float64)
    target = np.broadcast_to(np.asarray(target, np.float64), smoothed.shape[:-1])
    hit = smoothed <= target[..., None]
    first = steps[np.argmax(hit, axis=-1)]
    first = np.where(first == 0, steps[-1], first)
    reached = hit.any(axis=-1) & np.isfinite(smoothed[..., -1])
    return np.where(np.isfinite(target), np.where(reached, first, np.inf), np.nan)[()]


def speedup(steps: ArrayLike, smoothed: ArrayLike, reference: ArrayLike) -> Any:
    """T / the first step at which a smoothed curve is at or below the reference, float64 [...].

    0 for a curve that never gets there or has diverged at its end; a hit at step 0 counts as one at T; NaN
    where the reference diverged.

    Args:
      steps: the evaluation points [E], rising; the last is T.
      smoothed: smoothed losses [..., E].
      reference: last smoothed loss of tuned Adam, [...] or a scalar.
    """
    return np.asarray(steps, np.float64)[-1] / steps_to_target(steps, smoothed, reference)


def early_speedup(steps: ArrayLike, losses: ArrayLike, reference: ArrayLike, decay: float = SMOOTHING) -> Any:
    """The reference's steps to a loose target / a curve's own, float64 [...].

    The target lies halfway down, on a log scale, from the reference's first loss to its last smoothed one.
    Steps to it are read off the curves as they are, with straight lines between evaluations: so early, moving
    averages are made of the first value and all alike. 0 for a curve that never gets there or has diverged,
    NaN where the reference has; if the target is no lower than the start, it is reached at the end.

    Args:
      steps: the evaluation points [E], rising; the last is T.
      losses: [..., E], not smoothed.
      reference: those of tuned Adam, of the same shape.
      decay: of `smooth`, for the reference's last loss.
    """
    losses, reference = np.asarray(losses, np.float64), np.asarray(reference, np.float64)
    last = smooth(reference, decay)[..., -1]
    last = np.where(np.isfinite(last), last, np.nan)
    target = np.sqrt(reference[..., 0]) * np.sqrt(last)
    return _crossing(steps, reference, target) / _crossing(steps, losses, target)


def _crossing(steps: ArrayLike, losses: np.ndarray, target: np.ndarray) -> Any:
    """Steps [...], a fraction among them, until a curve [..., E] is at or below `target`; else as above."""
    steps = np.asarray(steps, np.float64)
    hit = losses <= target[..., None]
    first = np.argmax(hit, axis=-1)
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(losses, i[..., None], axis=-1)[..., 0] for i in (before, first))
    inside = (first > 0) & np.isfinite(losses).all(axis=-1)
    part = np.where(inside, high - target, 0.0) / np.where(inside, high - low, 1.0)
    found = np.where(first == 0, steps[-1], steps[before] + part * (steps[first] - steps[before]))
    reached = hit.any(axis=-1) & np.isfinite(losses).all(axis=-1)
    return np.where(np.isfinite(target), np.where(reached, found, np.inf), np.nan)


def relative_cost(seconds: ArrayLike, reference_seconds: ArrayLike) -> Any:
    """How many steps of the reference one step takes the time of, float64; NaN where a time is not known.

    A speedup divided by it is the speedup in time, a number of steps multiplied by it the steps of the
    reference that fit in the same time.

    Args:
      seconds: of one training step, batch and gradient included.
      reference_seconds: the same of the reference, on the same machine and task.
    """
    seconds, reference_seconds = np.asarray(seconds, np.float64), np.asarray(reference_seconds, np.float64)
    known = (seconds > 0) & (reference_seconds > 0)
    return np.where(known, seconds / np.where(known, reference_seconds, 1.0), np.nan)[()]


def envelope(curves: ArrayLike) -> np.ndarray:
    """The lowest loss that any of several references has had by each evaluation: learned_optimization's.

    Its references are Adam at every learning rate or, with "multiple baselines", also Adam under decays and
    RAdam; each curve is a mean over seeds, smoothed with `SMOOTHING_VELO`.

    Args:
      curves: [references, E]; what is not finite counts as infinite.

    Returns:
      [E] float64, falling.
    """
    curves = np.asarray(curves, np.float64)
    return np.minimum.accumulate(np.where(np.isfinite(curves), curves, np.inf).min(axis=0))


def equivalent_speedup(
    losses: ArrayLike, steps: float, reference_steps: ArrayLike, envelope: ArrayLike, cap: float = np.inf
) -> Any:
    """Steps that a reference needs for a loss / those it took, float64: VeLO's speedup.

    Unlike `speedup` it tells apart those that never reach the reference's last loss. learned_optimization
    reports runs of 10,000 steps beside an envelope of 100,000 with a cap of 10, of 300,000 with one of 30.

    Args:
      losses: smoothed, any shape.
      steps: how many training steps they took.
      reference_steps: [E], as `equivalent_steps`.
      envelope: [E], as `equivalent_steps`.
      cap: the most that counts.
    """
    return np.minimum(equivalent_steps(losses, reference_steps, envelope) / steps, cap)


def equivalent_steps(losses: ArrayLike, steps: ArrayLike, envelope: ArrayLike) -> Any:
    """Steps in which a reference first gets as low as each loss, interpolated, float64: VeLO's yardstick.

    It ends at the last step of the reference, which should therefore run for longer than what is judged by
    it. 0 for a loss that is not finite.

    Args:
      losses: any shape.
      steps: [E] of the reference, rising.
      envelope: [E] finite smoothed losses of the reference, as of `envelope`; their running minimum counts.
    """
    losses, envelope = np.asarray(losses, np.float64), np.asarray(envelope, np.float64)
    lowest = np.minimum.accumulate(envelope)
    new = np.append(True, lowest[1:] < lowest[:-1])
    found = np.interp(-losses, -lowest[new], np.asarray(steps, np.float64)[new])
    return np.where(np.isfinite(losses), found, 0.0)[()]
