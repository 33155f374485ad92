"""Where trials run: a process on each core of this machine, or the workers of a Dask cluster."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from celo.errors import CeloError


@contextmanager
def local(workers: int) -> Iterator[Executor]:
    """`workers` processes, each bound to a core of its own: trials side by side, one thread each.

    Raises:
      CeloError: if there is not at least one worker.
    """
    if workers < 1:
        raise CeloError(f"workers must be at least 1, got {workers}")
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads in mid-flight
    number = context.Value("i", 0)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_bind, initargs=(number, cores))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _bind(number: Any, cores: list[int]) -> None:
    """Takes the next core; XLA then sees one and starts one thread."""
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    if cores:
        os.sched_setaffinity(0, {cores[mine % len(cores)]})


@contextmanager
def dask(address: str) -> Iterator[tuple[Executor, int]]:
    """(executor, workers) of a Dask scheduler; a worker that dies has its trials run by others.

    Raises:
      CeloError: without the `distributed` package, or if no scheduler answers or it has no workers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise CeloError(
            "a Dask scheduler needs the package distributed: pip install 'celo[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise CeloError(f"no Dask scheduler at {address}: start one with `dask scheduler`") from error
    with client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise CeloError(
                f"the scheduler at {address} has no workers: start some with `dask worker {address}`"
            )
        with client.get_executor() as executor:
            yield executor, workers
