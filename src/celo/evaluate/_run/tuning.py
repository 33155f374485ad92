"""Trials: the units of work of an evaluation, independent of one another and the same wherever they run.

A contestant with a learning rate is tuned by successive halving, by one rule for all of them: every rate of
the grid for the first part of the steps, the best few from the start to the end, on a tuning seed; then the
best one on the reporting seeds. A contestant without one goes straight to the reporting seeds. Every rate is
given the schedule of the whole horizon, also where its trial stops early. A trial is all the runs of one of
these three rounds: of a suite of short tasks, seconds to a minute.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from celo._errors import CeloError
from celo._import_path import source_sha256
from celo._provenance import commit, cores, environment
from celo.evaluate._records import Record
from celo.evaluate._run import outcome
from celo.evaluate._run.baselines import PAPER_LEARNING_RATES
from celo.evaluate._run.contestants import Contestant
from celo.evaluate._run.outcome import Outcome
from celo.evaluate._run.suites import SuiteTask, load_task
from celo.evaluate._run.training import Curve, CurveProgram, curve_at, seconds_per_step
from celo.evaluate._score.metrics import best_rate, smooth
from celo.tasks import TaskFamily


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What every contestant of an evaluation is given.

    Attributes:
      rates: the grid of learning rates.
      first_share: share of the steps that all of the grid runs.
      keep: how many rates run to the end.
      tuning_seeds: seeds that rates are chosen on, apart from `seeds`.
      seeds: seeds that are reported.

    Raises:
      CeloError: for a share outside (0, 1], no rate or seed, or seeds that are both.
    """

    rates: tuple[float, ...] = PAPER_LEARNING_RATES
    first_share: float = 0.15
    keep: int = 3
    tuning_seeds: tuple[int, ...] = (1000,)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        if not 0 < self.first_share <= 1:
            raise CeloError(f"first_share must be in (0, 1], got {self.first_share}")
        for name in ("rates", "tuning_seeds", "seeds"):
            if not getattr(self, name):
                raise CeloError(f"{name} is empty: name at least one")
        if self.keep < 1:
            raise CeloError(f"keep must be at least 1, got {self.keep}")
        if both := set(self.seeds) & set(self.tuning_seeds):
            raise CeloError(f"seeds {sorted(both)} are both for tuning and for reporting; keep them apart")


@dataclasses.dataclass(frozen=True)
class Trial:
    """Runs of one contestant on one task: every rate with every seed.

    Attributes:
      stop: steps run, of the task's horizon.
      timed: whether to measure the time of a step as well, and Adam's beside it.
    """

    task: SuiteTask
    contestant: Contestant
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    stop: int
    timed: bool
    kernel: str

    def digest(self) -> str:
        """A name for the trial that changes when anything it depends on does."""
        facts = dataclasses.asdict(self)
        facts["contestant"] = (self.contestant.name, sorted(self.contestant.facts.items()))
        facts["task"] |= _source(self.task)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def run_trial(trial: Trial, kept: str | None = None) -> Outcome:
    """Run a trial in this process.

    Args:
      trial: which.
      kept: path of its file to be. Where runs go one after another each is kept beside it when it has ended,
        and not run again, if this machine sees that folder.

    Raises:
      CeloError: if the task's data or packages, or the kernel, cannot be had, or it is several tasks.
    """
    program, make_tx, family = _program(trial)
    if kept is None or program.side_by_side or not Path(kept).parent.is_dir():
        found = Outcome(program.curves(trial.rates, trial.seeds, trial.stop), _NOT_TIMED, _origin())
    else:
        found = _one_by_one(trial, program, Path(kept))
    if not trial.timed:
        return found
    # In a process bound to one core the processor's time is the step's, undisturbed by other programs.
    alone = jax.default_backend() == "cpu" and cores() == 1
    clock = time.process_time if alone else time.perf_counter
    both = (make_tx(trial.rates[0]), optax.adam(1e-3))
    times = [seconds_per_step(family, 0, tx, repeats=8, clock=clock) for tx in both]
    return found._replace(seconds=(times[0], times[1]))


def _one_by_one(trial: Trial, program: CurveProgram, path: Path) -> Outcome:
    """All runs of a trial, each kept beside `path` as soon as it has ended."""

    def run(rate: float, seed: int) -> Outcome:
        mine = path.with_name(f"{path.stem}-{rate!r}-{seed}.run")
        found = outcome.read(mine)
        if found is None:
            found = Outcome(program.curves((rate,), (seed,), trial.stop), _NOT_TIMED, _origin())
            outcome.write(mine, found)
        return found

    runs = [run(rate, seed) for rate in trial.rates for seed in trial.seeds]
    grid = (len(trial.rates), len(trial.seeds), -1)
    arrays = jax.tree.map(lambda *x: np.concatenate(x).reshape(grid), *(one.curve[1:] for one in runs))
    commits = " and ".join(dict.fromkeys(str(one.origin["commit"]) for one in runs))
    origin = _origin() if commits == str(_origin()["commit"]) else {**_origin(), "commit": commits}
    return Outcome(Curve(runs[0].curve.steps, *arrays), _NOT_TIMED, origin)


@functools.cache
def _origin() -> dict[str, str | None]:
    return {"commit": commit(), **environment()}


_NOT_TIMED = (float("nan"), float("nan"))
_kept: dict[tuple[Any, ...], Any] = {}  # the last program: a worker mostly gets all trials of a job


def _program(trial: Trial) -> tuple[CurveProgram, Any, TaskFamily]:
    """(program, learning rate -> optimizer, family) of a trial's task and contestant."""
    task, one = trial.task, trial.contestant
    key = (task, one.name, tuple(sorted(one.facts.items())), trial.kernel)
    if key in _kept:
        return _kept[key]
    family = load_task(task.name)
    if len(family.members) > 1:
        raise CeloError(f"{task.name!r} is {len(family.members)} tasks; name a single one")
    _kept.clear()
    if multiprocessing.parent_process() is not None:
        jax.clear_caches()  # a worker runs hundreds of programs and would keep them all
    make_tx = one.transform(task.num_steps, trial.kernel)
    program = CurveProgram(
        family, 0, make_tx, num_steps=task.num_steps, eval_every=task.eval_every, answer=one.answer
    )
    return _kept.setdefault(key, (program, make_tx, family))


@dataclasses.dataclass(frozen=True)
class Job:
    """One contestant on one task, from the first trial to the record."""

    task: SuiteTask
    contestant: Contestant
    protocol: Protocol
    kernel: str

    def next_trial(self, outcomes: list[Outcome]) -> Trial | None:
        """The trial after those that have these outcomes; None when the record can be made."""
        protocol, done = self.protocol, len(outcomes)
        if not self.contestant.tuned:
            return self._trial((1.0,), protocol.seeds, timed=True) if done == 0 else None
        if done == 0:
            stop = max(1, round(protocol.first_share * self.task.num_steps))
            return self._trial(protocol.rates, protocol.tuning_seeds, stop=stop)
        if done == 1:
            order = np.argsort(final_losses(outcomes[0].curve), kind="stable")[: protocol.keep]
            rates = tuple(sorted(protocol.rates[i] for i in order))
            return self._trial(rates, protocol.tuning_seeds)
        return self._trial((self._best_rate(outcomes),), protocol.seeds, timed=True) if done == 2 else None

    def settings(self) -> dict[str, Any]:
        """What a record of the job must agree in; plain JSON."""
        settings = {
            "task": dataclasses.asdict(self.task) | _source(self.task),
            "protocol": dataclasses.asdict(self.protocol),
            "contestant": self.contestant.facts,
            "kernel": None if self.contestant.tuned else self.kernel,
        }
        return json.loads(json.dumps(settings))

    def record(self, outcomes: list[Outcome]) -> Record:
        """The record, when there is no further trial."""
        protocol, tuned, last = self.protocol, self.contestant.tuned, outcomes[-1]
        curve = curve_at(last.curve, 0)
        rungs = np.full((2, len(protocol.rates)) if tuned else (0, 0), np.nan)
        for rung in range(len(rungs)):
            tried = protocol.rates if rung == 0 else self._second_rates(outcomes)
            rungs[rung, [protocol.rates.index(rate) for rate in tried]] = final_losses(outcomes[rung].curve)
        config = {
            **self.settings(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            **last.origin,
            "commits_of_trials": [outcome.origin["commit"] for outcome in outcomes],
        }
        return Record(
            task=self.task.name,
            contestant=self.contestant.name,
            rate=self._best_rate(outcomes) if tuned else None,
            steps=curve.steps,
            train_loss=curve.train_loss,
            valid_loss=curve.valid_loss,
            metrics=curve.metrics,
            rates=np.array(protocol.rates if tuned else (), np.float64),
            rung_steps=np.array([o.curve.steps[-1] for o in outcomes[:-1]], np.int64),
            rung_losses=rungs,
            seconds_per_step=last.seconds[0],
            adam_seconds_per_step=last.seconds[1],
            config=config,
        )

    def _trial(
        self, rates: tuple[float, ...], seeds: tuple[int, ...], *, stop: int = 0, timed: bool = False
    ) -> Trial:
        stop = stop or self.task.num_steps
        return Trial(self.task, self.contestant, rates, seeds, stop, timed, self.kernel)

    def _second_rates(self, outcomes: list[Outcome]) -> tuple[float, ...]:
        trial = self.next_trial(outcomes[:1])
        assert trial is not None
        return trial.rates

    def _best_rate(self, outcomes: list[Outcome]) -> float:
        return self._second_rates(outcomes)[best_rate(smooth(outcomes[1].curve.train_loss)[..., -1])]


def _source(task: SuiteTask) -> dict[str, str]:
    """What tells one state of a task of one's own from another; nothing for those of the package."""
    if ":" not in task.name or task.name.startswith("celo."):
        return {}
    return {"source_sha256": source_sha256(task.name) or "none"}


def final_losses(curve: Curve) -> np.ndarray:
    """[rates] smoothed training loss at the end, mean of the seeds; inf where one diverged."""
    final = smooth(curve.train_loss)[..., -1].mean(axis=-1)
    return np.where(np.isfinite(final), final, np.inf)
