"""From records to a leaderboard: every contestant's scores beside one of them, the reference."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from celo.errors import CeloError, unknown_name
from celo.evaluate import aggregate, look, metrics, targets
from celo.evaluate.aggregate import Interval, interval
from celo.evaluate.archive import Record
from celo.evaluate.entry import LOSSES, Entry, beside

REFERENCE = "adam"

# What a performance profile is drawn over: scores, and for "target" multiples of the shortest time.
TAUS: dict[str, np.ndarray] = {
    "ratio": np.linspace(0, 2, 81),
    "speedup": np.linspace(0, 4, 81),
    "clock": np.linspace(0, 4, 81),
    "target": np.linspace(1, targets.TOO_SLOW, 61),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
    """One contestant over the tasks.

    Attributes:
      contestant: its name.
      learned: nothing about it was tuned, on any task.
      entries: task -> Entry, wherever it has a record; aggregates may be over fewer tasks.
      counted: the tasks that its aggregates are over.
      scores: name -> interval over tasks and seeds: {ratio, speedup, clock}_{iqm, median, mean}, ratio_gap,
        improvement (the probability of a lower loss than the reference), rank, algoperf, algoperf_clock.
      profiles: name of `TAUS` -> interval of arrays.
    """

    contestant: str
    learned: bool
    entries: Mapping[str, Entry]
    counted: tuple[str, ...]
    scores: Mapping[str, Interval]
    profiles: Mapping[str, Interval]

    @property
    def cost(self) -> float:
        """Median over tasks of what a step costs, in steps of the reference."""
        return float(np.median([self.entries[task].cost for task in self.counted]))

    @property
    def runs(self) -> int:
        """How many runs were reported, on all its tasks."""
        return sum(entry.ratio.size for entry in self.entries.values())

    @property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(int(entry.record.diverged.sum()) for entry in self.entries.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Leaderboard:
    """Standings, the best first.

    Attributes:
      reference: the contestant that the others stand beside.
      tasks: every task with a record of the reference.
      counted: those that all contestants are compared on.
      set_aside: task -> why it is not among those.
      standings: by the IQM of the final-loss ratio.
      common: whether aggregates are over `counted` alone, or each over all tasks that a contestant has.
      smoothing: decay of the curves' moving average.
      loss: of `LOSSES`, what is compared.
    """

    reference: str
    tasks: tuple[str, ...]
    counted: tuple[str, ...]
    set_aside: Mapping[str, str]
    standings: tuple[Standing, ...]
    common: bool
    smoothing: float
    loss: str

    @property
    def slots(self) -> dict[str, int | None]:
        """Contestant -> its colour, as `look.slots` gives them out."""
        learned = {one.contestant for one in self.standings if one.learned}
        names = [one.contestant for one in self.standings]
        return look.slots(names, reference=self.reference, learned=learned)


def leaderboard(
    records: Sequence[Record],
    *,
    reference: str = REFERENCE,
    contestants: Sequence[str] = (),
    common: bool = True,
    smoothing: float = metrics.SMOOTHING,
    loss: str = "train",
) -> Leaderboard:
    """Score records.

    Args:
      records: one for each contestant and task.
      reference: contestant that all are scored beside.
      contestants: who is shown, besides the reference; empty for all.
      common: aggregate over the tasks that all of them have, not over all that each has.
      smoothing: decay of the curves' moving average; `metrics.SMOOTHING_VELO` is another in use.
      loss: what is compared, one of `LOSSES`; rates were tuned on the training loss in any case.

    Raises:
      CeloError: an unknown name, records that do not belong together, losses below 0, or no task that all
        share.
    """
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    table = _table(records)
    names = list(dict.fromkeys(record.contestant for record in records))
    for name in (reference, *contestants):
        if name not in names:
            raise unknown_name("contestant", name, names)
    shown = [name for name in names if name in (reference, *contestants)] if contestants else names
    tasks = tuple(sorted({task for task, name in table if name == reference}))
    elsewhere = sorted({task for task, name in table if name in shown} - set(tasks))
    entries = {
        name: {
            task: beside(table[task, name], table[task, reference], smoothing, loss)
            for task in tasks
            if (task, name) in table
        }
        for name in shown
    }
    set_aside = dict.fromkeys(elsewhere, f"no record of {reference}")
    for task in tasks:
        missing = [name for name in shown if task not in entries[name]]
        if not np.isfinite(entries[reference][task].smoothed[:, -1]).all():
            set_aside[task] = f"{reference} diverged"
        elif missing:
            set_aside[task] = f"no record of {', '.join(missing)}"
    counted = tuple(task for task in tasks if task not in set_aside)
    if not counted:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in set_aside.items())
        raise CeloError(f"no task can be compared on ({reasons}); name fewer with --contestants")
    standings = _standings(entries, reference, counted, common)
    order = sorted(standings, key=lambda one: -one.scores["ratio_iqm"].value)
    return Leaderboard(reference, tasks, counted, set_aside, tuple(order), common, smoothing, loss)


def _table(records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    if not records:
        raise CeloError("no records to report on; make some with `celo evaluate`")
    table: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.task, record.contestant)
        if key in table:
            raise CeloError(f"{record.contestant} has two records on {record.task}; leave one folder out")
        table[key] = record
    return table


def _standings(
    entries: Mapping[str, Mapping[str, Entry]], reference: str, counted: tuple[str, ...], common: bool
) -> list[Standing]:
    bad = {task for task, entry in entries[reference].items() if not np.isfinite(entry.smoothed[:, -1]).all()}
    together = _compared(entries, counted)
    standings = []
    for i, (name, mine) in enumerate(entries.items()):
        own = counted if common else tuple(task for task in mine if task not in bad)
        rows = {
            "ratio": [mine[task].ratio for task in own],
            "speedup": [mine[task].speedup for task in own],
            "clock": [mine[task].clock for task in own],
        }
        scores = {
            f"{kind}_{label}": interval(statistic, rows[kind])
            for kind in rows
            for label, statistic in _AGGREGATES.items()
        }
        scores["ratio_gap"] = interval(aggregate.optimality_gap, rows["ratio"])
        theirs = [_lowness(entries[reference][task]) for task in own]
        scores["improvement"] = interval(
            aggregate.improvement, [_lowness(mine[task]) for task in own], theirs
        )
        profiles = {kind: _profile(rows[kind], TAUS[kind]) for kind in rows}
        for label, many in together.items():
            one = Interval(*(part[i] for part in many))
            (profiles if label in TAUS else scores)[label] = one
        learned = all(entry.record.rate is None for entry in mine.values())
        standings.append(Standing(name, learned, mine, own, scores, profiles))
    return standings


_AGGREGATES: dict[str, Callable] = {
    "iqm": aggregate.iqm,
    "median": aggregate.median,
    "mean": aggregate.mean,
}


def _lowness(entry: Entry) -> np.ndarray:
    """[S] a score of the final loss alone, higher for lower; a run that diverged is below all others."""
    final = entry.smoothed[:, -1]
    return np.where(np.isfinite(final), -final, -np.inf)


def _profile(rows: list[np.ndarray], taus: np.ndarray) -> Interval:
    return interval(lambda scores: aggregate.profile(scores, taus), rows)


def _compared(entries: Mapping[str, Mapping[str, Entry]], tasks: tuple[str, ...]) -> dict[str, Interval]:
    """Scores that are about all contestants at once, over tasks that all have: arrays [contestants, ...]."""
    everyone = list(entries.values())
    steps = [[one[task].times for task in tasks] for one in everyone]
    clock = [[one[task].times * one[task].cost for task in tasks] for one in everyone]
    placed = [aggregate.ranks([_lowness(one[task]) for one in everyone]) for task in tasks]

    def ratios(*times: list[np.ndarray]) -> np.ndarray:
        return targets.ratios(np.stack([targets.typical_times(list(rows)) for rows in times], axis=-2))

    ranks = [interval(aggregate.mean, [place[i] for place in placed]) for i in range(len(everyone))]
    return {
        "rank": Interval(*(np.array(part) for part in zip(*ranks, strict=True))),
        "algoperf": interval(lambda *times: targets.score(ratios(*times)), *steps),
        "algoperf_clock": interval(lambda *times: targets.score(ratios(*times)), *clock),
        "target": interval(lambda *times: targets.profile(ratios(*times), TAUS["target"]), *steps),
    }
