"""From records to a leaderboard: every contestant's scores beside one of them, the reference."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from celo._errors import CeloError, unknown_name
from celo.evaluate._records import Record
from celo.evaluate._score import aggregate, metrics
from celo.evaluate._score import time_to_target as targets
from celo.evaluate._score.aggregate import Interval, interval
from celo.evaluate._settings import ADAM, Kind, differences

REFERENCE = ADAM
LOSSES = {"train": "training", "valid": "validation"}  # what may be compared, and what it is called
MOSTLY = 0.5  # share of a smoothed final loss

# What a performance profile is drawn over: scores, and for targets multiples of the shortest time. What ends
# in "clock" is about time: everyone has that of Adam's run, or each step is charged what it takes.
_RATIOS, _SPEEDUPS = np.linspace(0, 2, 81), np.linspace(0, 4, 81)
_TIMES = np.linspace(1, targets.TOO_SLOW, 61)
TAUS: dict[str, np.ndarray] = {
    "ratio": _RATIOS,
    "ratio_clock": _RATIOS,
    "early": _SPEEDUPS,
    "speedup": _SPEEDUPS,
    "clock": _SPEEDUPS,
    "target": _TIMES,
    "target_clock": _TIMES,
}


@dataclasses.dataclass(frozen=True, eq=False)
class TaskScores:
    """One contestant on one task, beside the reference with the same seeds; S seeds, E evaluations.

    Attributes:
      record: what was measured.
      smoothed: [S, E] the loss that is compared, float64.
      final: [S] the smoothed loss at the end, inf for a run that has diverged by then.
      final_clock: [S] the same of the runs that had the time of Adam's; NaN where there are none.
      ratio: [S] `metrics.final_loss_ratio`; NaN, as the other scores, where they mean nothing.
      ratio_clock: [S] the same of `final_clock`, beside that of the reference.
      early: [S] `metrics.early_speedup`.
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
    early: np.ndarray
    speedup: np.ndarray
    cost: float
    times: np.ndarray

    @property
    def below_zero(self) -> bool:
        """Whether it begins or ends below 0, where ratios mean nothing; all its scores are NaN then."""
        return bool((self.smoothed[:, [0, -1]] < 0).any() or (self.final_clock < 0).any())

    @property
    def seeds(self) -> tuple[int, ...]:
        """[S] the seeds."""
        return self.record.seeds

    @property
    def clock(self) -> np.ndarray:
        """[S] speedup in time: each step is charged what it costs."""
        return self.speedup / self.cost


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
    """One contestant over the tasks.

    Attributes:
      contestant: its name.
      kind: what it was given; one that was not the same on all tasks is as good as tuned.
      entries: task -> TaskScores, wherever it has a record; aggregates may be over fewer tasks.
      counted: the tasks that its aggregates are over.
      scores: name -> score over tasks and seeds, and its interval over seeds: each of `SCORES` with _iqm,
        _median and _mean; ratio_gap, improvement (the probability of a lower loss than the reference), rank
        and algoperf, and each of them with _clock.
      over_tasks: ratio_iqm with its interval over tasks.
      profiles: name of `TAUS` -> interval of arrays.
      ahead: probability that its ratio_iqm stays above that of the next one below, `aggregate.ahead` on the
        tasks that both count; NaN for the last.
    """

    contestant: str
    kind: Kind
    entries: Mapping[str, TaskScores]
    counted: tuple[str, ...]
    scores: Mapping[str, Interval]
    over_tasks: Interval
    profiles: Mapping[str, Interval]
    ahead: float = float("nan")

    @property
    def learned(self) -> bool:
        """Whether nothing about it was tuned, on any task."""
        return self.kind == Kind.LEARNED

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
      left_out: contestant -> why it has no standing: it has no record that can be scored.
      too_short: tasks of which `smoothing` shows the start and not the end: more than `MOSTLY` of the
        reference's smoothed final loss is still its loss at step 0. They are set aside, unless that leaves
        none.
      standings: by the IQM of the final-loss ratio.
      common: whether aggregates are over `counted` alone, or each over all tasks that a contestant has.
      smoothing: decay of the curves' moving average.
      loss: of `LOSSES`, what is compared.
    """

    reference: str
    tasks: tuple[str, ...]
    counted: tuple[str, ...]
    set_aside: Mapping[str, str]
    left_out: Mapping[str, str]
    too_short: tuple[str, ...]
    standings: tuple[Standing, ...]
    common: bool
    smoothing: float
    loss: str


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
    """Score records. What cannot be scored is set aside with its reason, and costs nobody else anything.

    Args:
      records: one for each contestant and task.
      reference: contestant that all are scored beside.
      contestants: who is shown, besides the reference; empty for all.
      tasks: on which; empty for all.
      common: aggregate over the tasks that all of them have, not over all that each has.
      smoothing: decay of the curves' moving average; `metrics.SMOOTHING_VELO` is another in use.
      loss: what is compared, one of `LOSSES`; rates were tuned on the training loss in any case.

    Raises:
      CeloError: an unknown name, two records of one contestant on a task, or no task to compare on.
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
    entries: dict[str, dict[str, TaskScores]] = {name: {} for name in shown}
    unlike: dict[tuple[str, str], str] = {}  # records that may not stand beside the reference's, and why
    for name, task in itertools.product(shown, here):
        if (task, name) in table:
            record, beside = table[task, name], table[task, reference]
            if why := _unlike(record, beside):
                unlike[task, name] = why
            else:
                entries[name][task] = _beside(record, beside, smoothing, loss)
    useless, too_short = _useless(reference, entries, smoothing)
    left_out = {
        name: "; ".join(why for (_, whose), why in unlike.items() if whose == name)
        or f"no record beside {reference}'s that can be scored"
        for name, mine in entries.items()
        if name != reference and not set(mine) - set(useless)
    }
    entries = {name: mine for name, mine in entries.items() if name not in left_out}
    set_aside = dict.fromkeys(elsewhere, f"no record of {reference}") | useless
    for task in here:
        lacking = [name for name, mine in entries.items() if task not in mine]
        absent = [name for name in lacking if (task, name) not in unlike]
        reasons = [f"no record of {', '.join(absent)}"] if absent else []
        reasons += [unlike[task, name] for name in lacking if name not in absent]
        if reasons:
            set_aside.setdefault(task, "; ".join(reasons))
    counted = tuple(task for task in here if task not in set_aside)
    if not counted:
        told = "; ".join(f"{task}: {reason}" for task, reason in set_aside.items())
        remedy = "; name fewer contestants" if len(useless) < len(set_aside) else ""
        raise CeloError(f"no task can be compared on ({told}){remedy}")
    own = {
        name: counted if common else tuple(task for task in mine if task not in useless)
        for name, mine in entries.items()
    }
    standings = _standings(entries, reference, own, counted)
    order = _ordered(standings)
    return Leaderboard(
        reference, here, counted, set_aside, left_out, too_short, order, common, smoothing, loss
    )


def _ordered(standings: list[Standing]) -> tuple[Standing, ...]:
    """The best first, each told how surely it is ahead of the next."""
    order = sorted(standings, key=lambda one: -one.scores["ratio_iqm"].value)
    told = []
    for one, other in itertools.pairwise(order):
        shared = [task for task in one.counted if task in other.counted]
        mine, theirs = ([side.entries[task].ratio for task in shared] for side in (one, other))
        told.append(dataclasses.replace(one, ahead=aggregate.ahead(mine, theirs)))
    return (*told, order[-1])


def _unlike(record: Record, reference: Record) -> str:
    """Why the reference's record on the task may not stand beside this one; nothing if it may."""
    return "; ".join(
        f"{record.contestant} was run with {name} {ours}, {reference.contestant} with {theirs}"
        for name, ours, theirs in differences(record.settings, reference.settings)
    )


def _beside(record: Record, reference: Record, smoothing: float, loss: str) -> TaskScores:
    """A record's scores beside those of the reference on the same task.

    Args:
      record: whose.
      reference: the reference's.
      smoothing: decay of the curves' moving average.
      loss: which is compared, of `LOSSES`.
    """
    losses, against = getattr(record, f"{loss}_loss"), getattr(reference, f"{loss}_loss")
    smoothed = metrics.smooth(losses, smoothing)
    target = metrics.smooth(against, smoothing)[:, -1]
    final, final_clock = _or_lost(smoothed[:, -1]), _in_adams_time(record, smoothing, loss)
    target_clock = _in_adams_time(reference, smoothing, loss)
    ends = (smoothed[:, 0], final, final_clock, against[:, 0], target, target_clock)
    if any((x < 0).any() for x in ends):
        against, target = np.full_like(against, np.nan), np.full_like(target, np.nan)
        target_clock = np.full_like(target_clock, np.nan)
    unknown = np.isnan(final_clock) | np.isnan(target_clock)
    ratio_clock = np.where(unknown, np.nan, metrics.final_loss_ratio(final_clock, target_clock))
    return TaskScores(
        record=record,
        smoothed=smoothed,
        final=final,
        final_clock=final_clock,
        ratio=np.asarray(metrics.final_loss_ratio(final, target)),
        ratio_clock=ratio_clock,
        early=np.asarray(metrics.early_speedup(record.steps, losses, against, smoothing)),
        speedup=np.asarray(metrics.speedup(record.steps, smoothed, target)),
        cost=float(metrics.relative_cost(_adams(record), _adams(reference))),
        times=np.asarray(metrics.steps_to_target(record.steps, smoothed, target)),
    )


def _in_adams_time(record: Record, smoothing: float, loss: str) -> np.ndarray:
    """[S] the smoothed loss at the end of the runs that had the time of Adam's; NaN if there were none."""
    runs = record.in_adams_time
    if runs is None:
        return np.full(len(record.seeds), np.nan)
    return _or_lost(metrics.smooth(getattr(runs, f"{loss}_loss"), smoothing)[:, -1])


def _or_lost(losses: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(losses), losses, np.inf)


def _adams(record: Record) -> float:
    """A step in steps of the Adam that was timed beside it: the machine cancels out.

    Adam's own, the same program twice, is 1, whatever the clock said.
    """
    if record.contestant == ADAM and record.seconds_per_step > 0:
        return 1.0
    return float(metrics.relative_cost(record.seconds_per_step, record.adam_seconds_per_step))


def _useless(
    name: str, entries: Mapping[str, Mapping[str, TaskScores]], smoothing: float
) -> tuple[dict[str, str], tuple[str, ...]]:
    """({task: why nobody can be compared on it}, `Leaderboard.too_short`), of the reference `name`."""
    why, share = {}, {}
    for task, entry in entries[name].items():
        first, last = entry.smoothed[:, 0], entry.smoothed[:, -1]
        below = [one for one, mine in entries.items() if task in mine and mine[task].below_zero]
        if below:
            why[task] = (
                f"losses below 0 of {', '.join(below)}, whose ratios mean nothing; add a constant to the loss"
            )
        elif not np.isfinite(last).all():
            why[task] = f"{name} diverged" if entry.record.diverged.any() else f"{name}'s loss is not finite"
        elif (entry.smoothed == first[:, None]).all():
            why[task] = f"{name}'s loss never changes"
        elif last.all():
            share[task] = float((smoothing ** (entry.smoothed.shape[1] - 1) * first / last).mean())
    too_short = [task for task, part in share.items() if part > MOSTLY]
    if len(too_short) + len(why) < len(entries[name]):
        for task in too_short:
            why[task] = (
                f"{share[task]:.0%} of {name}'s smoothed final loss is the loss at the start; compared with "
                "smoothing 0"
            )
    return why, tuple(too_short)


def _table(records: Sequence[Record]) -> dict[tuple[str, str], Record]:
    if not records:
        raise CeloError("no records to report on; make some with `celo evaluate`")
    table: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.task, record.contestant)
        if key in table:
            raise CeloError(f"{record.contestant} has two records on {record.task}; leave one archive out")
        table[key] = record
    return table


def _standings(
    entries: Mapping[str, Mapping[str, TaskScores]],
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
        over_tasks = aggregate.interval_over_tasks(aggregate.iqm, rows["ratio"])
        standings.append(Standing(name, _kind(mine.values()), mine, tasks, scores, over_tasks, profiles))
    return standings


def _kind(entries: Iterable[TaskScores]) -> Kind:
    """What one contestant was given: whatever differs from task to task was chosen by somebody."""
    facts = {entry.record.settings.contestant for entry in entries}
    return next(iter(facts)).kind if len(facts) == 1 else Kind.TUNED


# Of `TaskScores`, aggregated over tasks and seeds.
SCORES = ("ratio", "ratio_clock", "early", "speedup", "clock")
_AGGREGATES: dict[str, Callable] = {
    "iqm": aggregate.iqm,
    "median": aggregate.median,
    "mean": aggregate.mean,
}


def _profile(rows: list[np.ndarray], taus: np.ndarray) -> Interval:
    return interval(lambda scores: aggregate.profile(scores, taus), rows)


def _compared(entries: Mapping[str, Mapping[str, TaskScores]], tasks: tuple[str, ...]) -> dict[str, Interval]:
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
