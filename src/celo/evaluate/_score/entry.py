"""One contestant on one task, scored beside the reference."""

import dataclasses
from typing import Any

import numpy as np

from celo._errors import CeloError
from celo.evaluate._records import Record
from celo.evaluate._score import metrics

ADAM = "adam"  # the optimizer whose step is timed beside everyone's

LOSSES = {"train": "training", "valid": "validation"}  # what may be compared, and how it is called


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One contestant on one task, beside the reference with the same seeds; S seeds, E evaluations.

    Attributes:
      record: what was measured.
      smoothed: [S, E] the loss that is compared, float64.
      final: [S] the smoothed loss at the end, inf for a run that has diverged by then.
      final_clock: [S] the same when the reference's time is up, `metrics.loss_in_time`; NaN where a step's
        cost was not measured.
      ratio: [S] `metrics.final_loss_ratio`.
      ratio_clock: [S] the same of `final_clock`.
      speedup: [S] `metrics.speedup`.
      cost: what a step costs, in steps of the reference; NaN if it was not measured.
      times: [S] steps until the reference's final loss, inf if never.
    """

    record: Record
    smoothed: np.ndarray
    final: np.ndarray
    final_clock: np.ndarray
    ratio: np.ndarray
    ratio_clock: np.ndarray
    speedup: np.ndarray
    cost: float
    times: np.ndarray

    @property
    def seeds(self) -> list[int]:
        """[S] the seeds."""
        return _seeds(self.record)

    @property
    def clock(self) -> np.ndarray:
        """[S] speedup in time: each step is charged what it costs."""
        return self.speedup / self.cost


def beside(record: Record, reference: Record, smoothing: float, loss: str) -> Entry:
    """A record's scores beside those of the reference on the same task.

    Args:
      record: whose.
      reference: the reference's.
      smoothing: decay of the curves' moving average.
      loss: which is compared, of `LOSSES`.

    Raises:
      CeloError: the two were not evaluated, tuned or seeded alike, or losses are below 0.
    """
    where = f"{record.contestant} on {record.task}"
    if not np.array_equal(record.steps, reference.steps):
        raise CeloError(
            f"{where} was evaluated up to step {record.steps[-1]} at {len(record.steps)} points, "
            f"{reference.contestant} up to {reference.steps[-1]} at {len(reference.steps)}; run one again"
        )
    if _seeds(record) != _seeds(reference):
        raise CeloError(
            f"{where} has the seeds {_seeds(record)}, {reference.contestant} has {_seeds(reference)}; "
            "run one again"
        )
    both_tuned = record.rate is not None and reference.rate is not None
    if both_tuned and _protocol(record) != _protocol(reference):
        raise CeloError(
            f"{where} was tuned by {_protocol(record)}, {reference.contestant} by {_protocol(reference)}; "
            "run one again"
        )
    losses, against = getattr(record, f"{loss}_loss"), getattr(reference, f"{loss}_loss")
    smoothed = metrics.smooth(losses, smoothing)
    target = metrics.smooth(against, smoothing)[:, -1]
    if (smoothed[:, -1] < 0).any() or (target < 0).any():
        raise CeloError(
            f"{record.task} has losses below 0, whose ratios mean nothing: add a constant to its loss, or "
            "leave it out"
        )
    cost = float(metrics.relative_cost(_adams(record), _adams(reference)))
    final = _or_lost(smoothed[:, -1])
    final_clock = _or_lost(metrics.loss_in_time(record.steps, smoothed, cost))
    unknown = np.full(len(final), np.nan)
    return Entry(
        record=record,
        smoothed=smoothed,
        final=final,
        final_clock=unknown if np.isnan(cost) else final_clock,
        ratio=np.asarray(metrics.final_loss_ratio(final, target)),
        ratio_clock=unknown if np.isnan(cost) else np.asarray(metrics.final_loss_ratio(final_clock, target)),
        speedup=np.asarray(metrics.speedup(record.steps, smoothed, target)),
        cost=cost,
        times=np.asarray(metrics.steps_to_target(record.steps, smoothed, target)),
    )


def _or_lost(losses: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(losses), losses, np.inf)


def _protocol(record: Record) -> dict[str, Any]:
    """How rates are tuned, as far as the record tells."""
    return {key: value for key, value in record.config.get("protocol", {}).items() if key != "seeds"}


def _seeds(record: Record) -> list[int]:
    """Seeds by name where the record tells them, else by number."""
    protocol = record.config.get("protocol", {})
    return list(protocol.get("seeds", range(len(record.train_loss))))


def _adams(record: Record) -> float:
    """A step in steps of the Adam that was timed beside it: the machine cancels out.

    Adam's own, the same program twice, is 1, whatever the clock said.
    """
    if record.contestant == ADAM and record.seconds_per_step > 0:
        return 1.0
    return float(metrics.relative_cost(record.seconds_per_step, record.adam_seconds_per_step))
