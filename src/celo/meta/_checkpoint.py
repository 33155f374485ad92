"""Checkpoints of a run: every array of the state in one file, written atomically, read back bit for bit."""

import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo._errors import CeloError
from celo._files import read_file, write_file

FORMAT = "celo-checkpoint/4"
_HEADER = "header"


def save(path: Path, state: Any, header: dict[str, Any]) -> None:
    """Writes a pytree of arrays (random keys included) and a JSON header.

    The old file stays until the new one is complete.
    """
    write_file(path, pack(state, header))


def pack(state: Any, header: dict[str, Any]) -> bytes:
    """A checkpoint as bytes, as `read` returns them."""
    arrays = {name: np.asarray(_raw(leaf)) for name, leaf in _named(state)}
    text = json.dumps({"format": FORMAT, **header})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)
    return buffer.getvalue()


def read(path: Path) -> bytes:
    """The bytes of a checkpoint file, checked.

    Raises:
      CeloError: if the file is missing, damaged, or no checkpoint.
    """
    if not path.is_file():
        raise CeloError(f"there is no checkpoint at {path}; give the folder of a run that has started")
    data = read_file(path)
    try:
        _parse(data)
    except CeloError as error:
        raise CeloError(f"{path}: {error}") from None
    return data


def read_header(source: Path | bytes) -> dict[str, Any]:
    """The JSON header of a checkpoint, a file or its bytes; CeloError as `read`."""
    return _parse(_data(source))[1]


def load(source: Path | bytes, template: Any) -> Any:
    """A pytree like `template` (arrays or their shapes) with the numbers of the checkpoint.

    Raises:
      CeloError: as `read`, or if names, shapes or dtypes differ from the template's.
    """
    arrays, _ = _parse(_data(source))
    named = _named(template)
    for name, leaf in named:
        expected, saved = jax.eval_shape(_raw, leaf), arrays.get(name)
        if saved is None or saved.shape != expected.shape or saved.dtype != expected.dtype:
            got = "nothing" if saved is None else f"{saved.dtype}{list(saved.shape)}"
            raise CeloError(
                f"the checkpoint does not belong to this run: {name} should be "
                f"{expected.dtype}{list(expected.shape)}, got {got}; resume with the version of celo that "
                "wrote it"
            )
    leaves = [
        jax.random.wrap_key_data(jnp.asarray(arrays[name]))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.asarray(arrays[name])
        for name, leaf in named
    ]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _data(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else read(source)


def _parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = dict(json.loads(arrays.pop(_HEADER).tobytes()))
    except Exception as error:  # a wrong byte can raise a dozen different types
        raise CeloError(f"not a checkpoint, or a damaged one ({error}); start the run again") from None
    if header.get("format") != FORMAT:
        raise CeloError(
            f"the format is {header.get('format')!r}, this version reads {FORMAT!r}; resume with the version "
            "of celo that wrote it"
        )
    return arrays, header


def _named(state: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _raw(leaf: Any) -> Any:
    """Random keys as the integers they are made of."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
