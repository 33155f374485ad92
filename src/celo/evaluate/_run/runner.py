"""An evaluation: jobs over a pool of workers, every finished trial kept, so that nothing is run twice.

The pool is any `concurrent.futures.Executor`: processes on this machine, or Dask's client for a cluster.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from celo._errors import CeloError, in_a_line
from celo._files import make_folder
from celo._types import Progress
from celo.evaluate._records import load_records, path_of, read_record, write_record
from celo.evaluate._run.trial import Outcome, Trial, read_outcome, run_trial, write_outcome
from celo.evaluate._run.tuning import Job
from celo.evaluate._settings import differences, same_run

TRIALS = "trials"  # folder of trials whose job has no record yet


def run_jobs(
    jobs: list[Job],
    out: Path,
    pool: Executor,
    *,
    width: Callable[[], int],
    progress: Progress | None = None,
) -> list[str]:
    """Run what no record in `out` has yet; every record and, until it is there, every trial is kept.

    Args:
      jobs: what to evaluate.
      out: the archive, made if it is not there.
      pool: runs trials.
      width: how many jobs at a time to give to it; asked again whenever there is something to decide.
      progress: is told how many jobs are done and which are running.

    Returns:
      One line for each job that failed; all others have records, and so has one that failed only in the time
      of Adam's run.

    Raises:
      CeloError: the folder cannot be written, it has a record of one of the jobs or of their tasks with other
        settings, or the pool's processes died.
    """
    _check_comparable(jobs, out)
    waiting = [left for job in jobs if (left := _left(job, out)) is not None]
    make_folder(out / TRIALS)
    failures: list[str] = []
    outcomes: dict[int, list[Outcome]] = {}
    running: dict[Future[Outcome], tuple[int, Trial]] = {}
    done = len(jobs) - len(waiting)
    ahead: Iterator[int] = iter(range(len(waiting)))

    def tell() -> None:
        if progress is not None:
            progress("evaluating", done, len(jobs), _doing(running))

    def go_on(number: int) -> None:
        """Submit the job's next trial that is not kept already, or write its record."""
        job, found = waiting[number], outcomes.setdefault(number, [])
        while (trial := job.next_trial(found)) is not None:
            kept = read_outcome(_trial_path(out, trial))
            if kept is None:
                place = str(_trial_path(out, trial).absolute())
                running[pool.submit(run_trial, trial, place)] = (number, trial)
                return
            found.append(kept)
        keep_record(number)
        end(number)

    def keep_record(number: int) -> None:
        """In the place of the trials it is made of."""
        job, found = waiting[number], outcomes[number]
        write_record(out, job.record(found))
        for i in range(len(found)):
            trial = job.next_trial(found[:i])
            if trial is not None:
                _trial_path(out, trial).unlink(missing_ok=True)

    def end(number: int) -> None:
        nonlocal done
        outcomes.pop(number, None)
        done += 1

    try:
        while True:
            while len(outcomes) < width() and (number := next(ahead, None)) is not None:
                go_on(number)
            tell()
            if not running:
                break
            for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                number, trial = running.pop(future)
                try:
                    found = future.result()
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    failures.append(f"{trial.contestant.name} on {trial.task.name}: {in_a_line(error)}")
                    if waiting[number].has_record(outcomes[number]):
                        keep_record(number)
                    end(number)
                    continue
                _keep(out, trial, found)
                outcomes[number].append(found)
                go_on(number)
    except BrokenProcessPool as error:
        raise CeloError(
            "a worker process died: it ran out of memory perhaps, or a script that calls `evaluate` lacks "
            f'its `if __name__ == "__main__":`; what has finished is kept in {out}, go on with resume and '
            "fewer workers"
        ) from error
    finally:
        for future, (_, trial) in running.items():
            if not future.cancel() and future.done() and future.exception() is None:
                _keep(out, trial, future.result())
    if not any((out / TRIALS).iterdir()):
        (out / TRIALS).rmdir()
    return failures


def _check_comparable(jobs: list[Job], out: Path) -> None:
    """CeloError if the archive has records of a job's task that may not stand beside it."""
    records = load_records(out) if out.is_dir() else []
    for job in jobs:
        for record in records:
            if record.task != job.task.name:
                continue
            for name, theirs, ours in differences(record.settings, job.settings()):
                raise CeloError(
                    f"{out} has {record.contestant} on {record.task} with {name} {theirs}, asked for is "
                    f"{ours}: ask for the same steps, seeds and suite, or choose another out"
                )


def _left(job: Job, out: Path) -> Job | None:
    """What the archive has no record of yet; CeloError if the record it has was made with other settings."""
    path = path_of(out, job.task.name, job.contestant.name)
    if not path.exists():
        return job
    record = read_record(path)
    for name, theirs, ours in same_run(record.settings, job.settings()):
        raise CeloError(
            f"{path} was made with the {name} {theirs}, asked for is {ours}: delete it, give the contestant "
            "another name (NAME= in front of it), or choose another out"
        )
    return dataclasses.replace(job, kept=record) if job.lacks(record) else None


def _doing(running: dict[Future[Outcome], tuple[int, Trial]]) -> str:
    names = [f"{trial.contestant.name} on {trial.task.name}" for _, trial in running.values()]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _trial_path(out: Path, trial: Trial) -> Path:
    return out / TRIALS / f"{trial.digest()}.trial"


def _keep(out: Path, trial: Trial, found: Outcome) -> None:
    """Writes the outcome of a trial in the place of those of its runs."""
    path = _trial_path(out, trial)
    write_outcome(path, found)
    for run in path.parent.glob(f"{path.stem}-*"):
        run.unlink(missing_ok=True)
