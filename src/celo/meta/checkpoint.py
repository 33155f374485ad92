"""Checkpoints of a run: every array of the state in one file, written atomically, read back bit for bit."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo.errors import CeloError
from celo.weights import write_file

FORMAT = "celo-checkpoint/1"
_HEADER = "header"


def save(path: Path, state: Any, header: dict[str, Any]) -> None:
    """Writes a pytree of arrays (random keys included) and a JSON header.

    The old file stands until the new one is whole.
    """
    arrays = {name: np.asarray(_raw(leaf)) for name, leaf in _named(state)}
    text = json.dumps({"format": FORMAT, **header})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)
    write_file(path, buffer.getvalue())


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a checkpoint.

    Raises:
      CeloError: if the file is missing, damaged or something else.
    """
    return _open(path)[1]


def load(path: Path, template: Any) -> Any:
    """A pytree like `template` (arrays or shapes) with the numbers of the checkpoint.

    Raises:
      CeloError: if the file is missing or damaged, or its arrays are not those of the template.
    """
    arrays, _ = _open(path)
    named = _named(template)
    wanted = {name: jax.eval_shape(_raw, leaf) for name, leaf in named}
    for name, like in wanted.items():
        found = arrays.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            have = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise CeloError(
                f"{path} does not belong to this run: {name} should be {like.dtype}{list(like.shape)}, "
                f"found {have}; resume with the version of celo that wrote it"
            )
    leaves = [
        jax.random.wrap_key_data(jnp.asarray(arrays[name]))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.asarray(arrays[name])
        for name, leaf in named
    ]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _open(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not path.is_file():
        raise CeloError(f"there is no checkpoint at {path}; give the folder of a run that has started")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop(_HEADER).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CeloError(f"{path} is not a checkpoint, or is damaged ({error}); start the run anew") from None
    if header.get("format") != FORMAT:
        raise CeloError(f"{path} has format {header.get('format')!r}, this version reads {FORMAT!r}")
    return arrays, header


def _named(state: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _raw(leaf: Any) -> Any:
    """Random keys as the integers they are made of."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
