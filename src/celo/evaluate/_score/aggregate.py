"""One number for many scores, and how sure it is: the aggregates of rliable (arXiv 2108.13264). NumPy only.

Scores come as one row a task: `scores[t]` is [..., S] over the seeds of task t, and tasks may have different
numbers of seeds. A higher score is better. Leading axes, of resamples for instance, are kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0  # of the resampling

Scores = Sequence[ArrayLike] | np.ndarray
Statistic = Callable[..., Any]


class Interval(NamedTuple):
    """A statistic and its bootstrap interval, each a float64 array of the statistic's shape.

    `low` and `high` are NaN where there was nothing to resample: one seed says nothing about another.
    """

    value: Any
    low: Any
    high: Any


def iqm(scores: Scores) -> Any:
    """Interquartile mean: of all scores without the lowest and the highest quarter (each rounded down).

    NaN where a score is, which would otherwise be cut off as if it were one of the best.
    """
    ordered = np.sort(_pooled(scores), axis=-1)
    cut = ordered.shape[-1] // 4
    middle = ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(ordered[..., -1]), np.nan, middle)[()]


def mean(scores: Scores) -> Any:
    """Mean over tasks of the means over seeds."""
    return _task_means(scores).mean(axis=-1)


def median(scores: Scores) -> Any:
    """Median over tasks of the means over seeds."""
    return np.median(_task_means(scores), axis=-1)


def optimality_gap(scores: Scores, target: float = 1.0) -> Any:
    """By how much scores miss `target` on average, what exceeds it being worth nothing; lower is better."""
    return target - np.minimum(_pooled(scores), target).mean(axis=-1)


def improvement(scores: Scores, others: Scores) -> Any:
    """Probability that a run scores above one of the other's on the same task, ties half; mean over tasks.

    On each task this is the Mann-Whitney statistic divided by the number of pairs. NaN where a score is.
    """

    def on_task(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        mine, theirs = mine[..., :, None], theirs[..., None, :]
        better = (mine > theirs) + 0.5 * (mine == theirs)
        return np.where(np.isnan(mine) | np.isnan(theirs), np.nan, better).mean(axis=(-2, -1))

    pairs = zip(_rows(scores), _rows(others), strict=True)
    return np.stack([on_task(*pair) for pair in pairs], axis=-1).mean(axis=-1)


def profile(scores: Scores, taus: ArrayLike) -> Any:
    """Performance profile: the fraction of all scores at or above each of `taus` [K]; returns [..., K].

    NaN where a score is.
    """
    pooled, taus = _pooled(scores), np.asarray(taus, np.float64)
    share = (pooled[..., None, :] >= taus[:, None]).mean(axis=-1)
    return np.where(np.isnan(pooled).any(axis=-1, keepdims=True), np.nan, share)


def ranks(scores: ArrayLike) -> np.ndarray:
    """Rank of each contestant, 1 the highest score, ties sharing their mean rank, float64; NaN has none.

    Args:
      scores: [contestants, ...]; contestants are ranked at each place of the other axes.
    """
    scores = np.asarray(scores, np.float64)
    above = (scores[None, :] > scores[:, None]).sum(axis=1)
    level = (scores[None, :] == scores[:, None]).sum(axis=1)
    return np.where(np.isnan(scores), np.nan, above + (level + 1) / 2)


def interval(
    statistic: Statistic,
    *samples: Scores,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """A statistic with its stratified percentile bootstrap interval.

    Seeds are resampled within each task, since it is seeds and not tasks that one could have drawn otherwise.

    Args:
      statistic: of this module or like them: `samples` -> array, keeping a leading axis.
      samples: scores, rows [S]; several, as `improvement` takes, are resampled independently.
      resamples: how many.
      level: share of the resampled statistics inside.
      seed: of NumPy's generator: the same seed, the same interval.
    """
    value = np.asarray(statistic(*samples), np.float64)
    rows = [_rows(sample) for sample in samples]
    if max(row.shape[-1] for sample in rows for row in sample) == 1:
        return _without_ends(value)
    rng = np.random.default_rng(seed)
    drawn = [[_resample(row, resamples, rng) for row in sample] for sample in rows]
    return _between(value, statistic(*drawn), level)


def interval_over_tasks(
    statistic: Statistic,
    scores: Scores,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval:
    """A statistic with a percentile bootstrap interval that says what other tasks would have given.

    Tasks are resampled, each with its seeds as they are; the arguments are those of `interval`.
    """
    value, rows = np.asarray(statistic(scores), np.float64), _rows(scores)
    if len(rows) == 1:
        return _without_ends(value)
    drawn = [_of_tasks(rows, ids) for ids in _resampled_tasks(rows, resamples, np.random.default_rng(seed))]
    return _between(value, statistic(drawn), level)


def ahead(
    scores: Scores,
    others: Scores,
    statistic: Statistic = iqm,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> float:
    """Probability that a statistic of one is above that of the other, ties half, by a paired bootstrap.

    Tasks are resampled, and seeds within each; both sides get the same ones, so that what they share, an easy
    task or a lucky start, cancels out. NaN where a score is, or where there is one run alone.

    Args:
      scores: rows [S], one a task.
      others: the other's on the same tasks with the same seeds.
      statistic: of this module or like them.
      resamples: how many.
      seed: of NumPy's generator.

    Raises:
      ValueError: if the two differ in their tasks or seeds.
    """
    mine, theirs = _rows(scores), _rows(others)
    if [row.shape for row in mine] != [row.shape for row in theirs]:
        raise ValueError("a paired bootstrap needs the same tasks and seeds on both sides")
    if sum(row.size for row in mine) == 1 or any(np.isnan(row).any() for row in (*mine, *theirs)):
        return float("nan")
    rng = np.random.default_rng(seed)
    drawn: list[list[np.ndarray]] = [[], []]
    for ids in _resampled_tasks(mine, resamples, rng):
        count = mine[ids[0]].shape[-1]
        seeds = rng.integers(count, size=(resamples, count))
        for rows, found in zip((mine, theirs), drawn, strict=True):
            found.append(np.take_along_axis(_of_tasks(rows, ids), seeds, axis=-1))
    first, second = (np.asarray(statistic(rows)) for rows in drawn)
    return float(np.mean((first > second) + 0.5 * (first == second)))


def _without_ends(value: np.ndarray) -> Interval:
    unknown = np.full(value.shape, np.nan)
    return Interval(value[()], unknown[()], unknown[()])


def _between(value: np.ndarray, resampled: Any, level: float) -> Interval:
    # An order statistic, not an interpolation between two, which infinite scores do not allow.
    tails = ((1 - level) / 2, (1 + level) / 2)
    low, high = np.quantile(resampled, tails, axis=0, method="closest_observation")
    return Interval(value[()], low[()], high[()])


def _resampled_tasks(rows: list[np.ndarray], resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Numbers [resamples] of tasks, drawn in the place of each; only from those with as many seeds."""
    counts = np.array([row.shape[-1] for row in rows])
    alike = (np.flatnonzero(counts == count) for count in counts)
    return [rng.choice(numbers, size=resamples) for numbers in alike]


def _of_tasks(rows: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
    """[resamples, S] the scores of the tasks that were drawn; the others may have other numbers of seeds."""
    count = rows[ids[0]].shape[-1]
    table = np.stack([row if row.shape[-1] == count else np.full(count, np.nan) for row in rows])
    return table[ids]


def _resample(row: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """[S] -> [resamples, S], drawn with replacement."""
    count = row.shape[-1]
    return row[rng.integers(count, size=(resamples, count))]


def _rows(scores: Scores) -> list[np.ndarray]:
    return [np.atleast_1d(np.asarray(row, np.float64)) for row in scores]


def _pooled(scores: Scores) -> np.ndarray:
    """All scores along one last axis."""
    return np.concatenate(_rows(scores), axis=-1)


def _task_means(scores: Scores) -> np.ndarray:
    """[..., tasks]"""
    return np.stack([row.mean(axis=-1) for row in _rows(scores)], axis=-1)
