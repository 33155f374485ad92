"""An evaluation as one call: optimizers over a suite of tasks, here or on a cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from celo._errors import CeloError, unknown_name
from celo._kernels.native import KERNELS
from celo.evaluate._run import executors as pools
from celo.evaluate._run.contestants import contestants as named
from celo.evaluate._run.runner import run_jobs
from celo.evaluate._run.suites import suite_tasks
from celo.evaluate._run.tuning import Job, Protocol


def evaluate(
    contestants: Sequence[str],
    *,
    out: Path | str,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    num_steps: int | None = None,
    protocol: Protocol | None = None,
    resume: bool = False,
    scheduler: Any = None,
    workers: int | None = None,
    kernel: str = "xla",
    console: Console | None = None,
) -> list[str]:
    """Run every contestant on every task and keep a record of each in an archive.

    Args:
      contestants: as `celo evaluate` takes them: bundled weights, files of weights, baselines, "baselines"
        for all of these, or "package.module:attribute" of your own.
      out: the archive's folder (`celo.evaluate._records` reads it).
      suite: whose tasks; "laptop" if no tasks are named either.
      tasks: some of the suite's alone, or any without a suite.
      num_steps: training steps, if not the tasks' own.
      protocol: rates, seeds and how rates are chosen; None: `Protocol()`.
      resume: add to an archive that is there.
      scheduler: address of a Dask scheduler, or a cluster of `distributed` or `dask_jobqueue`; None: this
        machine.
      workers: processes on this machine, one a core by default.
      kernel: of learned update rules, "xla" or "native".
      console: for the progress bar.

    Returns:
      One line for each contestant and task that failed; all others have records.

    Raises:
      CeloError: a name is unknown, the folder holds something and is not to be added to, or nothing can be
        run.
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    out = Path(out)
    chosen, who = suite_tasks(suite, tasks, num_steps), named(list(contestants))
    if out.exists() and not out.is_dir():
        raise CeloError(f"{out} is a file: --out is a folder")
    if out.exists() and any(out.iterdir()) and not resume:
        raise CeloError(f"{out} already holds results; add to them with --resume or choose another --out")
    jobs = [Job(task, one, protocol or Protocol(), kernel) for task in chosen for one in who]
    with pools.local(workers) if scheduler is None else pools.dask(scheduler) as pool:
        return run_jobs(jobs, out, pool.executor, width=pool.width, console=console or Console())
