"""From records to a leaderboard: every contestant's scores beside one of them, the reference."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from celo import _plotting as look
from celo._errors import CeloError, unknown_name
from celo.evaluate._records import Record
from celo.evaluate._score import aggregate, metrics
from celo.evaluate._score import time_to_target as targets
from celo.evaluate._score.aggregate import Interval, interval
from celo.evaluate._score.entry import ADAM, LOSSES, Entry, beside

REFERENCE = ADAM
MOSTLY = 0.5  # share of a smoothed final loss

# What a performance profile is drawn over: scores, and for targets multiples of the shortest time. What ends
# in "clock" charges each step what it takes.
_RATIOS, _SPEEDUPS = np.linspace(0, 2, 81), np.linspace(0, 4, 81)
_TIMES = np.linspace(1, targets.TOO_SLOW, 61)
TAUS: dict[str, np.ndarray] = {
    "ratio": _RATIOS,
    "ratio_clock": _RATIOS,
    "speedup": _SPEEDUPS,
    "clock": _SPEEDUPS,
    "target": _TIMES,
    "target_clock": _TIMES,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
    """One contestant over the tasks.

    Attributes:
      contestant: its name.
      learned: nothing about it was tuned, on any task.
      entries: task -> Entry, wherever it has a record; aggregates may be over fewer tasks.
      counted: the tasks that its aggregates are over.
      scores: name -> interval over tasks and seeds: {ratio, ratio_clock, speedup, clock}_{iqm, median, mean};
        ratio_gap, improvement (the probability of a lower loss than the reference), rank and algoperf, and
        each of them with _clock.
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
      early: tasks of which `smoothing` shows the start and not the end: more than `MOSTLY` of the reference's
        smoothed final loss is still its loss at step 0. They are set aside, unless that leaves none.
      standings: by the IQM of the final-loss ratio.
      common: whether aggregates are over `counted` alone, or each over all tasks that a contestant has.
      smoothing: decay of the curves' moving average.
      loss: of `LOSSES`, what is compared.
    """

    reference: str
    tasks: tuple[str, ...]
    counted: tuple[str, ...]
    set_aside: Mapping[str, str]
    early: tuple[str, ...]
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
    tasks: Sequence[str] = (),
    common: bool = True,
    smoothing: float = metrics.SMOOTHING,
    loss: str = "train",
) -> Leaderboard:
    """Score records.

    Args:
      records: one for each contestant and task.
      reference: contestant that all are scored beside.
      contestants: who is shown, besides the reference; empty for all.
      tasks: on which; empty for all.
      common: aggregate over the tasks that all of them have, not over all that each has.
      smoothing: decay of the curves' moving average; `metrics.SMOOTHING_VELO` is another in use.
      loss: what is compared, one of `LOSSES`; rates were tuned on the training loss in any case.

    Raises:
      CeloError: an unknown name, records that do not belong together, losses below 0, or no task that all
        share.
    """
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    known = list(dict.fromkeys(record.task for record in records))
    for task in tasks:
        if task not in known:
            raise unknown_name("task", task, known)
    records = [record for record in records if not tasks or record.task in tasks]
    table = _table(records)
    names = list(dict.fromkeys(record.contestant for record in records))
    for name in (reference, *contestants):
        if name not in names:
            raise unknown_name("contestant", name, names)
    shown = [name for name in names if name in (reference, *contestants)] if contestants else names
    here = tuple(sorted({task for task, name in table if name == reference}))
    elsewhere = sorted({task for task, name in table if name in shown} - set(here))
    entries = {
        name: {
            task: beside(table[task, name], table[task, reference], smoothing, loss)
            for task in here
            if (task, name) in table
        }
        for name in shown
    }
    set_aside = dict.fromkeys(elsewhere, f"no record of {reference}")
    useless, early = _useless(reference, entries[reference], smoothing)
    set_aside |= useless
    for task in here:
        missing = [name for name in shown if task not in entries[name]]
        if missing and task not in set_aside:
            set_aside[task] = f"no record of {', '.join(missing)}"
    counted = tuple(task for task in here if task not in set_aside)
    if not counted:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in set_aside.items())
        raise CeloError(f"no task can be compared on ({reasons}); name fewer with --contestants")
    own = {
        name: counted if common else tuple(task for task in mine if task not in useless)
        for name, mine in entries.items()
    }
    standings = _standings(entries, reference, own, counted)
    order = sorted(standings, key=lambda one: -one.scores["ratio_iqm"].value)
    return Leaderboard(reference, here, counted, set_aside, early, tuple(order), common, smoothing, loss)


def _useless(
    name: str, entries: Mapping[str, Entry], smoothing: float
) -> tuple[dict[str, str], tuple[str, ...]]:
    """({task: why nobody can be compared on it}, `Leaderboard.early`), of the reference."""
    why, share = {}, {}
    for task, entry in entries.items():
        first, last = entry.smoothed[:, 0], entry.smoothed[:, -1]
        if not np.isfinite(last).all():
            why[task] = f"{name} diverged"
        elif last.all():
            share[task] = float((smoothing ** (entry.smoothed.shape[1] - 1) * first / last).mean())
    early = [task for task, part in share.items() if part > MOSTLY]
    if len(early) + len(why) < len(entries):
        for task in early:
            why[task] = (
                f"{share[task]:.0%} of {name}'s smoothed final loss is the loss at the start; compared with "
                "--smoothing 0"
            )
    return why, tuple(early)


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
    entries: Mapping[str, Mapping[str, Entry]],
    reference: str,
    own: Mapping[str, tuple[str, ...]],
    counted: tuple[str, ...],
) -> list[Standing]:
    """Each one's aggregates over its `own` tasks, and what is about all at once over `counted`."""
    together = _compared(entries, counted)
    standings = []
    for i, (name, mine) in enumerate(entries.items()):
        tasks = own[name]
        rows = {kind: [getattr(mine[task], kind) for task in tasks] for kind in SCORES}
        scores = {
            f"{kind}_{label}": interval(statistic, rows[kind])
            for kind in rows
            for label, statistic in _AGGREGATES.items()
        }
        theirs = [-entries[reference][task].final for task in tasks]  # a lower loss is a higher score
        for clock in ("", "_clock"):
            scores[f"ratio_gap{clock}"] = interval(aggregate.optimality_gap, rows[f"ratio{clock}"])
            ours = [-getattr(mine[task], f"final{clock}") for task in tasks]
            scores[f"improvement{clock}"] = interval(aggregate.improvement, ours, theirs)
        profiles = {kind: _profile(rows[kind], TAUS[kind]) for kind in rows}
        for label, many in together.items():
            one = Interval(*(part[i] for part in many))
            (profiles if label in TAUS else scores)[label] = one
        learned = all(entry.record.rate is None for entry in mine.values())
        standings.append(Standing(name, learned, mine, tasks, scores, profiles))
    return standings


SCORES = ("ratio", "ratio_clock", "speedup", "clock")  # of an `Entry`, aggregated over tasks and seeds
_AGGREGATES: dict[str, Callable] = {
    "iqm": aggregate.iqm,
    "median": aggregate.median,
    "mean": aggregate.mean,
}


def _profile(rows: list[np.ndarray], taus: np.ndarray) -> Interval:
    return interval(lambda scores: aggregate.profile(scores, taus), rows)


def _compared(entries: Mapping[str, Mapping[str, Entry]], tasks: tuple[str, ...]) -> dict[str, Interval]:
    """Scores that are about all contestants at once, over tasks that all have: arrays [contestants, ...]."""
    everyone = list(entries.values())
    steps = [[one[task].times for task in tasks] for one in everyone]
    timed = [[one[task].times * one[task].cost for task in tasks] for one in everyone]

    def ranks(clock: str) -> Interval:
        placed = [
            aggregate.ranks([-getattr(one[task], f"final{clock}") for one in everyone]) for task in tasks
        ]
        each = [interval(aggregate.mean, [place[i] for place in placed]) for i in range(len(everyone))]
        return Interval(*(np.array(part) for part in zip(*each, strict=True)))

    def ratios(*times: list[np.ndarray]) -> np.ndarray:
        return targets.ratios(np.stack([targets.typical_times(list(rows)) for rows in times], axis=-2))

    found: dict[str, Interval] = {}
    for clock, times in (("", steps), ("_clock", timed)):
        found[f"rank{clock}"] = ranks(clock)
        found[f"algoperf{clock}"] = interval(lambda *times: targets.score(ratios(*times)), *times)
        found[f"target{clock}"] = interval(lambda *times: targets.profile(ratios(*times), _TIMES), *times)
    return found
