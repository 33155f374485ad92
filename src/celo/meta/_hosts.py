"""Several processes as one run: how they join, what they agree on, and how the loss of one is recognised.

Nothing here opens a connection of its own: processes meet through `jax.distributed`, and what they tell each
other goes through JAX's collectives (gloo between CPUs, NCCL between GPUs). Process 0 is the first one: it
alone touches the run's folder. With a single process every function does the obvious and sends nothing.

Every process must call these functions in the same order, as with any collective.
"""

import collections
import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from celo import __version__
from celo._errors import CeloError

JOIN_SECONDS = 300  # how long a process waits for the others to join
HEARTBEAT_SECONDS = 30  # after so long without a sign of life a process counts as dead

_CHUNK = 1 << 22  # bytes in one broadcast: every device holds a copy of it
_T = TypeVar("_T")


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a run; it blocks until all are there. Call it before JAX computes anything.

    JAX ends this process by itself if the others do not come within `JOIN_SECONDS`, or if one of them is lost
    later. It also takes over SIGTERM: install a handler of your own afterwards.

    Args:
      coordinator: HOST:PORT on which process 0 listens and which every process can reach.
      num_processes: how many processes there are in all.
      process_id: which of them this one is, from 0. Without the three JAX asks the cluster (SLURM,
        Open MPI, Kubernetes, Cloud TPU) for all of them.

    Raises:
      CeloError: if only some are given, one is out of range, or there is no cluster to ask.
    """
    check_address(coordinator, num_processes, process_id)
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
            f"the processes could not be joined ({error}); only under SLURM, Open MPI and Kubernetes can the "
            "cluster be asked, elsewhere give coordinator, num_processes and process_id"
        ) from error


def check_address(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Checks what `join` is given; CeloError if only some are given, or one is out of range."""
    address = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in address.items() if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        if len(missing) < len(address):
            raise CeloError(
                f"{' and '.join(missing)} missing: give {', '.join(address)} together, or none of them to "
                "have the cluster asked"
            )
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise CeloError(f"coordinator must be HOST:PORT, got {coordinator!r}; for example 10.0.0.1:1234")
    if num_processes < 1:
        raise CeloError(f"num_processes must be positive, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise CeloError(
            f"process_id must be from 0 to {num_processes - 1} (num_processes less one), got {process_id}"
        )


def is_first() -> bool:
    """Whether this is process 0, the only one that writes files."""
    return jax.process_index() == 0


def check_same_settings(settings: dict[str, Any]) -> None:
    """Compares what decides the computation across processes, before it begins.

    Args:
      settings: anything JSON can hold; the versions of celo and JAX are compared too.

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
            f"process {other[0]} was started differently from process 0; give every process the same "
            f"options and versions. Process {jax.process_index()} has {text}"
        )


def together(action: Callable[[], _T]) -> _T:
    """`action()` on every process; if it raises CeloError on one, every process raises one.

    Without this the others would wait in their next collective for a process that has ended.
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
    """`action()` on process 0 alone, once all have reached this point; all raise its CeloError."""
    together(lambda: action() if is_first() else None)


def from_first(read: Callable[[], bytes]) -> bytes:
    """On every process, what `read()` returns on process 0; all raise its CeloError."""
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
    """Arrays that every process has, as new global arrays; arrays that are global already stay as they are.

    Args:
      tree: a pytree of arrays, random keys included, equal on every process.
      shardings: of the leaves; a prefix of the tree is enough.
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


def lost_process(error: BaseException) -> str | None:
    """Why another process of the run is lost, if that is what `error`, raised by a collective, means."""
    text = str(error)
    known = any(library in text.lower() for library in ("gloo", "nccl"))
    return text.splitlines()[0] if known and jax.process_count() > 1 else None
