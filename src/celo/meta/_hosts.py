"""Several processes as one run: how they join, what they agree on, and what happens when one is lost.

Nothing here sends a byte by itself: processes meet through `jax.distributed`, and what they tell each
other goes through JAX's collectives (gloo between CPUs, NCCL between GPUs). Process 0 is the first: it
alone touches the run's folder. With one process each function does the plain thing and sends nothing.

Every process must call these functions in the same order, as with any collective.
"""

import collections
import contextlib
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from celo import __version__
from celo._errors import CeloError

JOIN_SECONDS = 300  # how long a process waits for the others to come
HEARTBEAT_SECONDS = 30  # after so long without a sign of life a process counts as dead
LOST = 3  # the exit status of a process that cannot go on without another

_CHUNK = 1 << 22  # bytes in one broadcast: every device holds a copy of it
_T = TypeVar("_T")


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a run. It must be called before JAX computes anything.

    Args:
      coordinator: HOST:PORT on which process 0 listens and which every process can reach.
      num_processes: how many processes there are in all.
      process_id: which of them this one is, from 0. Without the three JAX asks the cluster (SLURM,
        Open MPI, Kubernetes, Cloud TPU) for all of them.

    Raises:
      CeloError: if only some are given, one is out of range, or there is no cluster to ask.
    """
    _check(coordinator, num_processes, process_id)
    # JAX ends a process by itself when the others do not come or one is lost: say beforehand what it means.
    print(
        f"celo: joining {coordinator or 'the cluster'}, for up to {JOIN_SECONDS} s; should a process be lost "
        f"later, all end within about {HEARTBEAT_SECONDS} s, and --resume goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise CeloError(
            f"the processes could not be joined ({error}); --distributed works under SLURM, Open MPI and "
            "Kubernetes, elsewhere give --coordinator HOST:PORT --num-processes N --process-id I"
        ) from error
    # JAX has taken SIGTERM for its preemption service, which nothing here asks.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    flags = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [flag for flag, value in flags.items() if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        if len(missing) < len(flags):
            raise CeloError(
                f"{' and '.join(missing)} missing: give {', '.join(flags)} together, or --distributed alone "
                "to have the cluster asked"
            )
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise CeloError(f"--coordinator must be HOST:PORT, got {coordinator!r}; for example 10.0.0.1:1234")
    if num_processes < 1:
        raise CeloError(f"--num-processes must be positive, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise CeloError(
            f"--process-id must be from 0 to {num_processes - 1} (--num-processes less one), got {process_id}"
        )


def is_first() -> bool:
    """Whether this is process 0, which alone writes and talks."""
    return jax.process_index() == 0


def check_alike(settings: dict[str, Any]) -> None:
    """Compares what decides the computation on all processes, before the first of it.

    Args:
      settings: anything JSON has; versions of celo and JAX are compared besides.

    Raises:
      CeloError: on every process, if settings, versions or numbers of devices are not all the same.
    """
    if jax.process_count() == 1:
        return
    devices = collections.Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        raise CeloError(
            f"processes need equally many devices, got {dict(sorted(devices.items()))} (process: devices); "
            "set JAX_NUM_CPU_DEVICES to one number everywhere, or use equal machines"
        )
    text = json.dumps({**settings, "celo": __version__, "jax": jax.__version__}, sort_keys=True)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)  # [processes, 32]
    other = np.flatnonzero((digests != digests[0]).any(axis=1))
    if other.size:
        raise CeloError(
            f"process {other[0]} was started otherwise than process 0; give every process the same "
            f"options and versions. Process {jax.process_index()} has {text}"
        )


def together(action: Callable[[], _T]) -> _T:
    """`action()` on every process; where it raises CeloError on one, every process raises one.

    Without this the others would wait in their next collective for a process that has gone home.
    """
    if jax.process_count() == 1:
        return action()
    try:
        outcome = action()
    except CeloError as error:
        outcome = error
    failed = multihost_utils.process_allgather(np.int32(isinstance(outcome, CeloError))).ravel()
    if isinstance(outcome, CeloError):
        raise outcome
    if failed.any():
        raise CeloError(f"process {np.argmax(failed)} could not go on; its own output says why")
    return outcome


def on_first(action: Callable[[], object]) -> None:
    """`action()` on process 0 alone, when all have come here; its CeloError is everyone's."""
    together(lambda: action() if is_first() else None)


def from_first(read: Callable[[], bytes]) -> bytes:
    """What `read()` gives on process 0, on every process. Its CeloError is everyone's."""
    data = together(lambda: read() if is_first() else b"")
    if jax.process_count() == 1:
        return data
    whole, rest = multihost_utils.broadcast_one_to_all(np.array(divmod(len(data), _CHUNK), np.int32)).tolist()
    size = whole * _CHUNK + rest
    parts = []
    for start in range(0, size, _CHUNK):
        part = np.zeros(_CHUNK, np.uint8)
        mine = np.frombuffer(data[start : start + _CHUNK], np.uint8)
        part[: mine.size] = mine
        parts.append(multihost_utils.broadcast_one_to_all(part).tobytes())
    return b"".join(parts)[:size]


def agree(stop: bool, due: bool) -> tuple[bool, bool]:
    """(whether any process was asked to stop, whether something is due by process 0's clock)."""
    if jax.process_count() == 1:
        return stop, due
    said = multihost_utils.process_allgather(np.array([stop, due], np.int32))  # [processes, 2]
    return bool(said[:, 0].any()), bool(said[0, 1])


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has, as new global arrays; global ones are left as they are.

    Args:
      tree: a pytree of arrays, random keys included, equal on every process.
      shardings: of the leaves; a prefix of the tree will do.
    """
    if jax.process_count() == 1:
        return jax.device_put(jax.tree.map(jax.numpy.copy, tree), shardings)

    def one(leaf: Any, sharding: jax.sharding.Sharding) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf), sharding))
        whole = np.asarray(leaf)
        # Each process cuts out its devices' parts; `device_put` would first compare all on all processes.
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: np.array(whole[part]))

    return jax.tree.map(
        lambda sharding, part: jax.tree.map(lambda x: one(x, sharding), part), shardings, tree
    )


def gather(tree: Any) -> Any:
    """Global arrays as whole arrays on every process, one leaf at a time."""
    if jax.process_count() == 1:
        return tree

    def one(leaf: Any) -> Any:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)))
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


@contextlib.contextmanager
def failing_fast(*shared: type[Exception]) -> Iterator[None]:
    """Ends this process at once, with status `LOST`, when the block fails on it alone.

    Leaving in the usual way it would wait for the others, and they for it. CeloError and the exceptions
    `shared` are those that all processes raise at the same place; they pass.
    """
    try:
        yield
    except (CeloError, *shared):
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        if "gloo" in str(error).lower() or "nccl" in str(error).lower():
            reason = str(error).splitlines()[0]
            print(
                f"celo: process {jax.process_index()} has lost another process of the run ({reason}); start "
                "all of them again with --resume to go on from the last checkpoint",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LOST)
