"""θ as a file: safetensors with metadata, read and written without JAX.

A file holds θ under its flat names ("update_rule/w0"), arrays that are kept but never used under
"unused/…", and the metadata "format" and "architecture". θ is a nested dict of float32 arrays.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors

from celo._errors import CeloError, unknown_name
from celo._files import read_file, write_file

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "SUFFIX",
    "Weights",
    "bundled",
    "card",
    "check_theta",
    "flatten",
    "load",
    "misfit",
    "save",
    "unflatten",
]

FORMAT = "celo-theta/1"
"""What the metadata "format" of a weights file says."""
SUFFIX = ".safetensors"
"""How the name of a weights file ends."""
MAX_BYTES = 1 << 30
"""The largest weights file that is read: none is larger, and a wrong path should not fill the memory."""

_UNUSED = "unused/"
_SHOWN = 4  # entries an error names before it counts the rest


@dataclass(frozen=True)
class Weights:
    """One weights file.

    Attributes:
      theta: nested dict of float32 arrays.
      metadata: the file's text entries; "architecture" is always there.
      sha256: of the file.
      extra: arrays that θ does not use, by their names without "unused/", as `save` was given them.
      card: the model card of bundled weights; empty for other files.
    """

    theta: dict[str, Any]
    metadata: dict[str, str]
    sha256: str
    extra: dict[str, np.ndarray]
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """All that is known of the weights: metadata, the recipe as a dict, and over them the model card."""
        known: dict[str, Any] = dict(self.metadata)
        with contextlib.suppress(
            KeyError, ValueError
        ):  # metadata is free text: other recipes stay as they are
            known["recipe"] = json.loads(known["recipe"])
        return known | self.card


def flatten(theta: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Nested dict of arrays -> {"group/name": array}; CeloError if the names do not allow it."""
    flat: dict[str, np.ndarray] = {}
    for key, value in theta.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise CeloError(f"θ has the key {key!r}; keys are non-empty strings without '/'")
        if isinstance(value, Mapping):
            flat |= {f"{key}/{name}": array for name, array in flatten(value).items()}
        else:
            flat[key] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Undo `flatten`; CeloError if a name has an empty part or is also the folder of another."""
    theta: dict[str, Any] = {}
    for name, array in flat.items():
        *groups, leaf = name.split("/")
        node = theta
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise CeloError(f"{name!r} lies inside {group!r}, which is an array itself")
        if leaf in node or not all([*groups, leaf]):
            raise CeloError(f"{name!r} is not a usable name: it is taken as a group or has an empty part")
        node[leaf] = array
    return theta


def misfit(flat: Mapping[str, np.ndarray], expected_shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What keeps `flat` from being finite float32 arrays of these names and shapes; "" if nothing."""
    common = [name for name in expected_shapes if name in flat]
    shapes = {name: tuple(np.shape(flat[name])) for name in common}
    float32 = [name for name in common if np.asarray(flat[name]).dtype == np.float32]
    problems = {
        "missing": [name for name in expected_shapes if name not in flat],
        "unexpected": [name for name in flat if name not in expected_shapes],
        "wrong shape": [
            f"{name} is {shapes[name]}, expected {tuple(expected_shapes[name])}"
            for name in common
            if shapes[name] != tuple(expected_shapes[name])
        ],
        "not float32": [name for name in common if name not in float32],
        "not finite": [name for name in float32 if not np.isfinite(flat[name]).all()],
    }
    return "; ".join(f"{problem}: {_first(names)}" for problem, names in problems.items() if names)


def check_theta(
    theta: Mapping[str, Any], expected_shapes: Mapping[str, tuple[int, ...]], *, source: str
) -> None:
    """Raise CeloError unless θ has exactly these flat names and shapes, in finite float32.

    Args:
      theta: nested dict of arrays.
      expected_shapes: flat name -> shape.
      source: where θ comes from, for the message.
    """
    if problem := misfit(flatten(theta), expected_shapes):
        raise CeloError(f"{source} does not fit this optimizer: {problem}. Use weights trained for it")


def save(
    path: str | os.PathLike[str],
    theta: Mapping[str, Any],
    *,
    metadata: Mapping[str, str],
    extra: Mapping[str, np.ndarray] | None = None,
) -> str:
    """Write θ to `path` (ending in .safetensors) and return the SHA-256 of the file.

    The same arguments give the same bytes, and a failed write leaves an older file intact.

    Args:
      path: where to write.
      theta: nested dict of float32 arrays.
      metadata: text that goes with θ; needs an "architecture" ("celo", "celo_adam", …).
      extra: float32 arrays to keep in the file without being part of θ.

    Raises:
      CeloError: wrong suffix, metadata or dtype, or the file cannot be written.
    """
    if not os.fspath(path).endswith(SUFFIX):
        raise CeloError(f"{os.fspath(path)!r}: the name of a weights file must end in {SUFFIX}")
    text = {**metadata, "format": FORMAT}
    if "architecture" not in text:
        raise CeloError("the metadata of weights needs an 'architecture', for example 'celo'")
    if bad := [key for key, value in text.items() if not isinstance(key, str) or not isinstance(value, str)]:
        raise CeloError(f"metadata is text only: convert {_first(bad)} with str()")
    arrays = flatten(theta)
    if not arrays:
        raise CeloError("θ is empty: there is nothing to save")
    if taken := [name for name in arrays if name.startswith(_UNUSED)]:
        raise CeloError(f"θ must not have a group named 'unused' ({_first(taken)}): rename it")
    arrays |= {_UNUSED + name: np.asarray(array) for name, array in (extra or {}).items()}
    if bad := [name for name, array in arrays.items() if array.dtype != np.float32]:
        raise CeloError(f"weights are float32: convert {_first(bad)} with .astype('float32')")
    return write_file(path, _encode(arrays, text))


def load(path_or_name: str | os.PathLike[str]) -> Weights:
    """Read a weights file, or the bundled weights of that name.

    Args:
      path_or_name: a path (an `os.PathLike`, or a str that has a folder separator or ends in
        .safetensors), else one of `bundled()`.

    Raises:
      CeloError: unknown name; a missing, damaged or foreign file.
    """
    if _is_path(path_or_name):
        source = os.fspath(path_or_name)
        return _decode(read_file(source, MAX_BYTES), source)
    name = str(path_or_name)
    if name not in bundled():
        error = unknown_name("weights", name, bundled())
        raise CeloError(f"{error}; the path of a weights file must end in {SUFFIX}")
    return replace(
        _decode((_folder() / f"{name}{SUFFIX}").read_bytes(), f"bundled weights {name!r}"), card=card(name)
    )


def bundled() -> tuple[str, ...]:
    """The names of the weights that ship with the package, sorted."""
    folder = _folder()
    files = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)))


def card(name: str) -> dict[str, Any]:
    """The model card of bundled weights (recipe, data, cost, commit, date, sha256, known limits), if any."""
    if name not in bundled():
        raise unknown_name("weights", name, bundled())
    file = _folder() / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    # safetensors' own writer puts the metadata in random order, so that no two files were equal.
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    payload = bytearray()
    for name in sorted(arrays):
        data = arrays[name].astype("<f4").tobytes()
        offsets = [len(payload), len(payload) + len(data)]
        header[name] = {"dtype": "F32", "shape": arrays[name].shape, "data_offsets": offsets}
        payload += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return len(text).to_bytes(8, "little") + text + bytes(payload)


def _decode(data: bytes, source: str) -> Weights:
    try:
        arrays = parse_safetensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type NumPy does not have
        raise CeloError(
            f"{source}: not a celo weights file, or a damaged one ({error}). Fetch it again; official "
            "theta.state files are converted with `celo convert theta.state celo.safetensors`"
        ) from error
    header_end = 8 + int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8:header_end]).get("__metadata__") or {}
    if metadata.get("format") != FORMAT or "architecture" not in metadata:
        raise CeloError(
            f"{source}: not a celo weights file (no {FORMAT!r} tag with an architecture); official "
            "theta.state files are converted with `celo convert theta.state celo.safetensors`"
        )
    if bad := [name for name, array in arrays.items() if array.dtype != np.float32]:
        raise CeloError(f"{source}: weights are float32, but {_first(bad)} is not; save them as float32")
    flat = {name: arrays[name] for name in sorted(arrays) if not name.startswith(_UNUSED)}
    extra = {name.removeprefix(_UNUSED): arrays[name] for name in sorted(arrays) if name not in flat}
    try:
        theta = unflatten(flat)
    except CeloError as error:
        raise CeloError(f"{source}: {error}; rename the entry") from error
    return Weights(theta, metadata, hashlib.sha256(data).hexdigest(), extra)


def _is_path(path_or_name: str | os.PathLike[str]) -> bool:
    if not isinstance(path_or_name, str):
        return True
    separators = {"/", os.sep}
    return path_or_name.endswith(SUFFIX) or any(separator in path_or_name for separator in separators)


def _folder() -> Traversable:
    return resources.files("celo").joinpath("pretrained")


def _first(names: list[Any]) -> str:
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
