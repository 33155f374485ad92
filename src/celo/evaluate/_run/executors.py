"""Where trials run: a process on each core of this machine, its accelerator, or a Dask cluster."""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from celo._errors import CeloError
from celo._provenance import cores

LEAST_JOBS = 8  # given to a cluster that has no workers yet: an adaptive one grows with what there is to do
CONNECT_SECONDS = 10


class Pool(NamedTuple):
    """An executor of trials.

    Attributes:
      executor: runs them.
      width: how many jobs at a time keep it busy; this may change.
    """

    executor: Executor
    width: Callable[[], int]


@contextmanager
def local(workers: int | None = None) -> Iterator[Pool]:
    """`workers` processes, one a core by default, each bound to its core and with one thread.

    With an accelerator it is this process by itself, which runs all parts of a trial at once.

    Raises:
      CeloError: if there is not at least one worker, or more than one for an accelerator.
    """
    if workers is not None and workers < 1:
        raise CeloError(f"workers must be at least 1, got {workers}")
    if jax.default_backend() != "cpu":
        if workers not in (None, 1):
            raise CeloError(f"{workers} workers: an accelerator takes one process, leave out workers=")
        with ThreadPoolExecutor(1) as pool:
            yield Pool(pool, lambda: 1)
        return
    workers = workers or cores()
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads in mid-flight
    number = context.Value("i", 0)
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    level = logging.getLogger("celo").getEffectiveLevel()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(number, mine, level)
    )
    try:
        yield Pool(pool, lambda: workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(number: Any, every: list[int], level: int) -> None:
    """Takes the next core; XLA then sees one and starts one thread. Logs what the parent process would."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(format="celo: %(message)s")
    logging.getLogger("celo").setLevel(level)
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    if every:
        os.sched_setaffinity(0, {every[mine % len(every)]})


def _end_with_parent() -> None:
    """Ends this process when the one that started it has died, of `kill -9` for instance."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def dask(scheduler: Any) -> Iterator[Pool]:
    """The workers of a Dask scheduler, however many come and go; one that dies has its trials run by others.

    Args:
      scheduler: its address, or a cluster of `distributed` or `dask_jobqueue`, which may have no workers yet.

    Raises:
      CeloError: without the `distributed` package, or if no scheduler answers at an address, or it has no
        workers or one of several threads.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise CeloError(
            "a Dask scheduler needs the package distributed: pip install 'celo[cluster]'"
        ) from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise CeloError(f"no Dask scheduler at {scheduler}: start one with `dask scheduler`") from error

    def workers() -> int:
        return len(client.scheduler_info(n_workers=-1)["workers"])

    with client:
        if isinstance(scheduler, str):
            _check_workers(scheduler, client.scheduler_info(n_workers=-1)["workers"])
        with client.get_executor() as executor:
            yield Pool(executor, lambda: max(LEAST_JOBS, 2 * workers()))


def _check_workers(address: str, workers: Mapping[str, Any]) -> None:
    start = f"`dask worker {address} --nthreads 1`"
    if not workers:
        raise CeloError(f"the scheduler at {address} has no workers: start some with {start}")
    for name, worker in workers.items():
        if worker["nthreads"] > 1:
            raise CeloError(
                f"the worker at {name} has {worker['nthreads']} threads, whose trials would spoil each "
                f"other's times: start it with {start}"
            )
