"""An evaluation: jobs over a pool of workers, every finished trial kept, so that nothing is run twice.

The pool is any `concurrent.futures.Executor`: processes on this machine, or Dask's client for a cluster.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich import progress as rich_progress
from rich.console import Console

from celo._errors import CeloError
from celo.evaluate import _records as archive
from celo.evaluate._run import outcome
from celo.evaluate._run.outcome import Outcome
from celo.evaluate._run.tuning import Job, Trial, run_trial

TRIALS = "trials"  # folder of trials whose job has no record yet


def run_jobs(
    jobs: list[Job], out: Path, pool: Executor, *, width: Callable[[], int], console: Console
) -> list[str]:
    """Run what has no record in `out` yet; every record and, until it is there, every trial is kept.

    Args:
      jobs: what to evaluate.
      out: the archive, made if it is not there.
      pool: runs trials.
      width: how many jobs at a time to give to it; asked again whenever there is something to decide.
      console: for the progress bar.

    Returns:
      One line for each job that failed; the others have records.

    Raises:
      CeloError: the folder cannot be written, it has a record of one of the jobs or of their tasks with other
        settings, or the pool's processes died.
    """
    _check_alike(jobs, out)
    waiting = [job for job in jobs if not _has_record(job, out)]
    _make_folder(out / TRIALS)
    failures: list[str] = []
    outcomes: dict[int, list[Outcome]] = {}
    running: dict[Future[Outcome], tuple[int, Trial]] = {}
    with _bar(console) as bar:
        shown = bar.add_task("evaluating", total=len(jobs), completed=len(jobs) - len(waiting), now="")
        ahead: Iterator[int] = iter(range(len(waiting)))

        def go_on(number: int) -> None:
            """Submit the job's next trial that is not kept already, or write its record."""
            job, found = waiting[number], outcomes.setdefault(number, [])
            while (trial := job.next_trial(found)) is not None:
                kept = outcome.read(_trial_path(out, trial))
                if kept is None:
                    place = str(_trial_path(out, trial).absolute())
                    running[pool.submit(run_trial, trial, place)] = (number, trial)
                    return
                found.append(kept)
            archive.write(out, job.record(found))
            for i in range(len(found)):
                trial = job.next_trial(found[:i])
                if trial is not None:
                    _trial_path(out, trial).unlink(missing_ok=True)
            end(number)

        def end(number: int) -> None:
            outcomes.pop(number, None)
            bar.update(shown, advance=1)

        try:
            while True:
                while len(outcomes) < width() and (number := next(ahead, None)) is not None:
                    go_on(number)
                if not running:
                    break
                bar.update(shown, now=_doing(running))
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    number, trial = running.pop(future)
                    try:
                        found = future.result()
                    except BrokenProcessPool:
                        raise
                    except Exception as error:
                        failures.append(f"{trial.contestant.name} on {trial.task.name}: {error}")
                        end(number)
                        continue
                    _keep(out, trial, found)
                    outcomes[number].append(found)
                    go_on(number)
        except BrokenProcessPool as error:
            raise CeloError(
                "a worker process died, for want of memory perhaps, or since a script that calls `evaluate` "
                'lacks its `if __name__ == "__main__":`; go on with --resume and fewer --workers (what has '
                f"finished is kept in {out})"
            ) from error
        finally:
            for future, (_, trial) in running.items():
                if not future.cancel() and future.done() and future.exception() is None:
                    _keep(out, trial, future.result())
    if not any((out / TRIALS).iterdir()):
        (out / TRIALS).rmdir()
    return failures


def _check_alike(jobs: list[Job], out: Path) -> None:
    """CeloError if the archive has records of a job's task that could not stand beside it."""
    asked = {job.task.name: job.settings() for job in jobs}
    for record in archive.read_all(out):
        for part in ("task", "protocol"):
            theirs, ours = record.config.get(part, {}), asked.get(record.task, {}).get(part, {})
            for name in sorted(theirs.keys() & ours.keys()):
                if theirs[name] != ours[name]:
                    raise CeloError(
                        f"{out} has {record.contestant} on {record.task} with {name} {theirs[name]}, "
                        f"asked for is {ours[name]}: ask for the same (--steps, --seeds, --suite), or choose "
                        "another --out"
                    )


def _has_record(job: Job, out: Path) -> bool:
    """Whether the archive has the job's record; CeloError if what it has was made with other settings."""
    path = archive.path_of(out, job.task.name, job.contestant.name)
    if not path.exists():
        return False
    config, settings = archive.read(path).config, job.settings()
    for name, value in settings.items():
        if config.get(name) != value:
            raise CeloError(
                f"{path} was made with the {name} {config.get(name)}, asked for is {value}: delete it, "
                "call the contestant otherwise (NAME= in front of it), or choose another --out"
            )
    return True


def _doing(running: dict[Future[Outcome], tuple[int, Trial]]) -> str:
    names = [f"{trial.contestant.name} on {trial.task.name}" for _, trial in running.values()]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from error


def _trial_path(out: Path, trial: Trial) -> Path:
    return out / TRIALS / f"{trial.digest()}.trial"


def _keep(out: Path, trial: Trial, found: Outcome) -> None:
    """Writes the outcome of a trial in the place of those of its runs."""
    path = _trial_path(out, trial)
    outcome.write(path, found)
    for run in path.parent.glob(f"{path.stem}-*"):
        run.unlink(missing_ok=True)


def _bar(console: Console) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("ETA"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[now]}"),
        console=console,
        speed_estimate_period=math.inf,  # jobs may be minutes apart
    )
