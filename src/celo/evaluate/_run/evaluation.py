"""An evaluation as one call: optimizers over a suite of tasks, here or on a cluster."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celo._errors import CeloError
from celo._files import held, make_folder
from celo._import_path import import_modules
from celo._kernels import native
from celo._types import Progress
from celo.evaluate._run import executors
from celo.evaluate._run.contestants import Contestant, resolve_contestants
from celo.evaluate._run.runner import run_jobs
from celo.evaluate._run.suites import suite_tasks
from celo.evaluate._run.tuning import Job
from celo.evaluate._settings import Protocol


def evaluate(
    contestants: Sequence[str | Contestant],
    *,
    out: Path | str,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    num_steps: int | None = None,
    num_evaluations: int | None = None,
    protocol: Protocol | None = None,
    resume: bool = False,
    equal_time: bool = True,
    imports: Sequence[str] = (),
    scheduler: Any = None,
    workers: int | None = None,
    kernel: str = "auto",
    progress: Progress | None = None,
) -> list[str]:
    """Run every contestant on every task and keep a record of each in an archive.

    Args:
      contestants: as `celo evaluate` takes them: bundled weights, files of weights, baselines, "baselines"
        for all of these, or "package.module:attribute" of your own; NAME= in front names one.
      out: the archive's folder; `load_records` reads it.
      suite: whose tasks; "laptop" if no tasks are named either.
      tasks: some of the suite's alone, or any without a suite.
      num_steps: training steps, if not the tasks' own.
      num_evaluations: how often each curve is evaluated after step 0, about; None: as the tasks have it.
      protocol: rates, seeds and how rates are chosen; None: `Protocol()`.
      resume: add to an archive that is there.
      equal_time: whether everyone runs once more in the time of Adam's, for the steps that fit into it; a
        record that lacks only this is completed.
      imports: modules that register optimizers or tasks of your own; imported here and by every worker.
      scheduler: address of a Dask scheduler, or a cluster of `distributed` or `dask_jobqueue`; None: this
        machine.
      workers: processes on this machine, one a core by default.
      kernel: of learned optimizers, "auto", "native" or "xla"; "auto" is decided on this machine.
      progress: is told how far the evaluation is; None tells nobody.

    Returns:
      One line for each contestant and task that failed; all others have records.

    Raises:
      CeloError: a name is unknown, the folder holds something and is not to be added to, another process is
        at work in it, or nothing can be run.
    """
    import_modules(imports)
    kernel = native.resolve(kernel)
    out = Path(out)
    chosen, who = suite_tasks(suite, tasks, num_steps), resolve_contestants(contestants)
    if num_evaluations is not None:
        if num_evaluations < 1:
            raise CeloError(f"num_evaluations must be at least 1, got {num_evaluations}")
        chosen = tuple(
            dataclasses.replace(task, eval_every=max(1, task.num_steps // num_evaluations)) for task in chosen
        )
    if out.exists() and not out.is_dir():
        raise CeloError(f"{out} is a file: out must be a folder")
    if out.exists() and any(out.iterdir()) and not resume:
        raise CeloError(f"{out} already holds results; add to them with resume=True, or choose another out")
    protocol = protocol or Protocol()
    jobs = [Job(task, one, protocol, kernel, tuple(imports), equal_time) for task in chosen for one in who]
    make_folder(out)
    pools = executors.local(workers) if scheduler is None else executors.dask(scheduler)
    with held(out, "wait for it, or choose another out"), pools as pool:
        return run_jobs(jobs, out, pool.executor, width=pool.width, progress=progress)
