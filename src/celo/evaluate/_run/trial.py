"""Trials: the units of work of an evaluation, independent of one another and the same wherever they run.

A trial is one contestant on one task at some rates with some seeds: of a suite of short tasks, seconds to a
minute. What it found is kept in a file until the record is made, so that nothing is run twice.
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from celo._errors import CeloError, in_a_line
from celo._files import write_file
from celo._import_path import definition, import_modules, top_level
from celo._provenance import commit, cores, environment
from celo.evaluate._records import pack_arrays, unpack_arrays
from celo.evaluate._run.contestants import Contestant
from celo.evaluate._run.training import Curve, CurveProgram, seconds_per_step
from celo.evaluate._settings import TaskSettings
from celo.tasks._base import TaskFamily
from celo.tasks._registry import make_task


@dataclasses.dataclass(frozen=True)
class Trial:
    """Runs of one contestant on one task: every rate with every seed.

    Attributes:
      stop: steps run, of the task's horizon.
      timed: whether to measure the time of a step as well, and Adam's beside it.
      kernel: of a learned optimizer, "native" or "xla".
      imports: modules that a worker imports first, which register what the trial names.
    """

    task: TaskSettings
    contestant: Contestant
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    stop: int
    timed: bool
    kernel: str
    imports: tuple[str, ...] = ()

    def digest(self) -> str:
        """A name for the trial that changes when anything it depends on does."""
        facts = {name: getattr(self, name) for name in ("rates", "seeds", "stop", "timed", "kernel")}
        facts["task"] = dataclasses.asdict(self.task)
        facts["contestant"] = (self.contestant.name, dataclasses.asdict(self.contestant.facts))
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


class Outcome(NamedTuple):
    """What a trial found.

    Attributes:
      curve: arrays [rates, seeds, E].
      seconds: of a step, this contestant's and Adam's; NaN if not timed.
      origin: commit, versions and machine of the process that ran it.
    """

    curve: Curve
    seconds: tuple[float, float]
    origin: Mapping[str, str | None]


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Keep an outcome in a file, whole or not at all.

    Raises:
      CeloError: it cannot be written.
    """
    arrays = outcome.curve._asdict()
    metrics = arrays.pop("metrics")
    origin = np.array(json.dumps(outcome.origin))
    write_file(path, pack_arrays(metrics, seconds=np.array(outcome.seconds), origin=origin, **arrays))


def read_outcome(path: Path) -> Outcome | None:
    """The outcome in a file, if it is there and whole; one that is not is deleted, to be run again."""
    if not path.exists():
        return None
    try:
        arrays, metrics = unpack_arrays(path.read_bytes())
        seconds, origin = arrays.pop("seconds").tolist(), json.loads(str(arrays.pop("origin")))
        return Outcome(Curve(**arrays, metrics=metrics), tuple(seconds), origin)
    except Exception:  # of a dozen types, depending on where the damage is
        path.unlink()
        return None


def run_trial(trial: Trial, kept: str | None = None) -> Outcome:
    """Run a trial in this process.

    Args:
      trial: which.
      kept: path of its file to be. Where runs go one after another each is kept beside it when it has ended,
        and not run again, if this machine sees that folder.

    Raises:
      CeloError: whatever fails, in words that any process can be sent: a task or an optimizer of one's own
        with the line of its file, data or packages that are missing, a kernel that does not work here, a name
        that stands for several tasks.
    """
    try:
        return _run(trial, kept)
    except (Exception, SystemExit) as error:
        places = (trial.task.name, trial.contestant.optimizer, *trial.imports)
        own = {top_level(place) for place in places if ":" in place or place in trial.imports} - {"celo"}
        raise CeloError(in_a_line(error, own, otherwise=definition(trial.contestant.optimizer))) from error


def _run(trial: Trial, kept: str | None) -> Outcome:
    import_modules(trial.imports)
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
        found = read_outcome(mine)
        if found is None:
            found = Outcome(program.curves((rate,), (seed,), trial.stop), _NOT_TIMED, _origin())
            write_outcome(mine, found)
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
    key = (task, one.name, one.facts, trial.kernel)
    if key in _kept:
        return _kept[key]
    family = make_task(task.name)
    if len(family.members) > 1:
        raise CeloError(
            f"{task.name!r} is {len(family.members)} tasks ({', '.join(family.members)}); name a single one"
        )
    _kept.clear()
    if multiprocessing.parent_process() is not None:
        jax.clear_caches()  # a worker runs hundreds of programs and would keep them all
    make_tx = one.transform(task.num_steps, trial.kernel)
    program = CurveProgram(
        family, 0, make_tx, num_steps=task.num_steps, eval_every=task.eval_every, answer=one.answer
    )
    return _kept.setdefault(key, (program, make_tx, family))
