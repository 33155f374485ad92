"""How learning rates are chosen: by successive halving, one rule for every contestant that is tuned.

Every rate of the grid runs for the first part of the steps on tuning seeds, the best few from the start to
the end; then the best one runs on the reported seeds. Every rate is given the schedule of the whole horizon,
also where its trial stops early. A contestant with nothing to tune goes straight to the reported seeds.
Whoever has been timed may then run once more, for as many steps as fit into the time of Adam's run.
"""

import dataclasses
import datetime
import math

import numpy as np

from celo._import_path import source_sha256
from celo.evaluate._records import EqualTime, Record
from celo.evaluate._run.contestants import Contestant
from celo.evaluate._run.training import Curve, curve_at
from celo.evaluate._run.trial import Outcome, Trial
from celo.evaluate._score.metrics import best_rate, relative_cost, smooth
from celo.evaluate._settings import ADAM, Kind, Protocol, Provenance, Settings, TaskSettings


@dataclasses.dataclass(frozen=True)
class Job:
    """One contestant on one task, from the first trial to the record.

    Attributes:
      kernel: of a learned optimizer, "native" or "xla".
      imports: as of its trials.
      equal_time: whether it runs in the time of Adam's as well.
      kept: a record of the job that lacks those runs alone.
    """

    task: TaskSettings
    contestant: Contestant
    protocol: Protocol
    kernel: str
    imports: tuple[str, ...] = ()
    equal_time: bool = False
    kept: Record | None = None

    def next_trial(self, outcomes: list[Outcome]) -> Trial | None:
        """The trial after those that have these outcomes; None when the record can be made."""
        protocol, done = self.protocol, len(outcomes)
        if done == self._timed:
            return self._equal_time_trial(self._timed_record(outcomes)) if self.equal_time else None
        if done > self._timed:
            return None
        if done == self._rungs:
            return self._trial((self._rate(outcomes) or 1.0,), protocol.seeds, timed=True)
        if done == 0:
            stop = max(1, round(protocol.first_share * self.task.num_steps))
            return self._trial(protocol.rates, protocol.tuning_seeds, stop=stop)
        return self._trial(self._rates_of_rung(1, outcomes), protocol.tuning_seeds)

    def settings(self) -> Settings:
        """The settings of the job's record."""
        kernel = self.kernel if self.contestant.facts.kind == Kind.LEARNED else None
        return Settings(_with_source(self.task), self.protocol, self.contestant.facts, kernel)

    def has_record(self, outcomes: list[Outcome]) -> bool:
        """Whether these make a record that is new, if only without the runs in the time of Adam's."""
        return self.kept is None and len(outcomes) >= self._timed

    def record(self, outcomes: list[Outcome]) -> Record:
        """The record, of all trials or of those before the runs in the time of Adam's."""
        record = self._timed_record(outcomes)
        if len(outcomes) == self._timed:
            return record
        last = outcomes[-1]
        curve = curve_at(last.curve, 0)
        commits = (*record.provenance.commits_of_trials, last.origin["commit"])
        return dataclasses.replace(
            record,
            equal_time=EqualTime(curve.steps, curve.train_loss, curve.valid_loss),
            provenance=dataclasses.replace(record.provenance, commits_of_trials=commits),
        )

    def lacks(self, record: Record) -> bool:
        """Whether a record of the job wants runs in the time of Adam's."""
        wanted = self.equal_time and record.in_adams_time is None
        return wanted and self._equal_time_trial(record) is not None

    @property
    def _timed(self) -> int:
        """Trials before the one in the time of Adam's."""
        return self._rungs + 1 if self.kept is None else 0

    def _equal_time_trial(self, record: Record) -> Trial | None:
        """At the record's rate, for the steps that fit into the time of Adam's; None if that is not known.

        The task is evaluated about as often as in the record, hence more often for each step.
        """
        cost = relative_cost(record.seconds_per_step, record.adam_seconds_per_step)
        if self.contestant.name == ADAM or math.isnan(cost):
            return None
        horizon = max(1, math.floor(self.task.num_steps / cost))
        every = max(1, round(self.task.eval_every * horizon / self.task.num_steps))
        task = dataclasses.replace(self.task, num_steps=horizon, eval_every=every)
        return dataclasses.replace(self, task=task)._trial((record.rate or 1.0,), self.protocol.seeds)

    def _timed_record(self, outcomes: list[Outcome]) -> Record:
        """The record but for the runs in the time of Adam's."""
        if self.kept is not None:
            return self.kept
        outcomes = outcomes[: self._timed]
        protocol, tuned, last = self.protocol, self.contestant.tuned, outcomes[-1]
        curve = curve_at(last.curve, 0)
        losses = np.full((self._rungs, len(protocol.rates) if tuned else 0), np.nan)
        for rung in range(self._rungs):
            tried = [protocol.rates.index(rate) for rate in self._rates_of_rung(rung, outcomes)]
            losses[rung, tried] = final_losses(outcomes[rung].curve)
        environment = {name: text for name, text in last.origin.items() if name != "commit" and text}
        return Record(
            task=self.task.name,
            contestant=self.contestant.name,
            rate=self._rate(outcomes),
            steps=curve.steps,
            train_loss=curve.train_loss,
            valid_loss=curve.valid_loss,
            metrics=curve.metrics,
            rates=np.array(protocol.rates if tuned else (), np.float64),
            rung_steps=np.array([o.curve.steps[-1] for o in outcomes[:-1]], np.int64),
            rung_losses=losses,
            seconds_per_step=last.seconds[0],
            adam_seconds_per_step=last.seconds[1],
            settings=self.settings(),
            provenance=Provenance(
                date=datetime.datetime.now(datetime.UTC).date().isoformat(),
                commit=last.origin["commit"],
                environment=environment,
                commits_of_trials=tuple(outcome.origin["commit"] for outcome in outcomes),
            ),
        )

    @property
    def _rungs(self) -> int:
        """Rounds of tuning before the reported one."""
        if not self.contestant.tuned:
            return 0
        return 1 if self.protocol.first_share == 1 else 2

    def _trial(
        self, rates: tuple[float, ...], seeds: tuple[int, ...], *, stop: int = 0, timed: bool = False
    ) -> Trial:
        stop = stop or self.task.num_steps
        task = _with_source(self.task)
        return Trial(task, self.contestant, rates, seeds, stop, timed, self.kernel, self.imports)

    def _rates_of_rung(self, rung: int, outcomes: list[Outcome]) -> tuple[float, ...]:
        """All rates, then the best few of them, rising."""
        rates, keep = self.protocol.rates, self.protocol.keep
        if rung == 0:
            return rates
        order = np.argsort(final_losses(outcomes[0].curve), kind="stable")[:keep]
        return tuple(sorted(rates[i] for i in order))

    def _rate(self, outcomes: list[Outcome]) -> float | None:
        """The best one, or the one that was given; None for a learned optimizer."""
        if not self.contestant.tuned:
            return self.contestant.facts.rate
        last = self._rungs - 1
        final = smooth(outcomes[last].curve.train_loss)[..., -1]
        return self._rates_of_rung(last, outcomes)[best_rate(final)]


def _with_source(task: TaskSettings) -> TaskSettings:
    """With what tells one state of a task of your own from another; the package's have none."""
    if ":" not in task.name or task.name.startswith("celo."):
        return task
    return dataclasses.replace(task, source_sha256=source_sha256(task.name) or "none")


def final_losses(curve: Curve) -> np.ndarray:
    """[rates] smoothed training loss at the end, mean of the seeds; inf where one diverged."""
    final = smooth(curve.train_loss)[..., -1].mean(axis=-1)
    return np.where(np.isfinite(final), final, np.inf)
