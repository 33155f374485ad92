"""The published weights (official theta.state, flax msgpack) to our files and back.

One table places every number of the official file; both directions follow it. The numbers that
the published code never uses (see `LAYOUTS`) are kept beside θ, so that the way back restores
the official file byte for byte.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgpack
import numpy as np

from celo import weights
from celo._errors import CeloError
from celo._files import read_file, write_file

STATE_SUFFIX = ".state"
"""How the name of a published weights file ends."""

__all__ = ["LAYOUTS", "STATE_SUFFIX", "convert", "read_official", "to_official"]

_NDARRAY = 1  # flax's msgpack extension type for an array
# With these a hostile header cannot ask for memory that the file does not pay for.
_LIMITS = {
    "max_str_len": 64,
    "max_array_len": 8,
    "max_map_len": 64,
    "max_bin_len": 1 << 24,
    "max_ext_len": 1 << 24,
}
_OFFICIAL = "official/"  # prefix of unused arrays that stem from an official file
_GROUP_WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)  # the 30 inputs of the update rule


class _Piece(NamedTuple):
    """A part of an official array and its place in one of ours."""

    keys: tuple[str, ...]  # at most three: groups, then the name
    shape: tuple[int, ...]  # of the official array
    part: Any  # index of the piece in it
    name: str  # of our array, in θ or, if it starts with "official/", unused
    place: Any = ...  # index of the piece there


def _first_layer() -> list[_Piece]:
    pieces = []
    for group, width in enumerate(_GROUP_WIDTHS):
        start = sum(_GROUP_WIDTHS[:group])
        keys = ("ff_mod_stack", "~", f"w0__{group}")
        pieces.append(_Piece(keys, (1, width, 4), 0, "update_rule/w0", slice(start, start + width)))
    return sorted(pieces, key=lambda piece: piece.keys)  # as flax wrote them: w0__1, w0__10, …, w0__2


def _linear(module: str, inputs: int, outputs: int, b: str, w: str) -> list[_Piece]:
    return [
        _Piece(("rnn_params", module, "b"), (outputs,), ..., b),
        _Piece(("rnn_params", module, "w"), (inputs, outputs), ..., w),
    ]


_STACK = ("ff_mod_stack", "~")
_UPDATE_RULE = [
    _Piece((*_STACK, "b0"), (1, 4), 0, "update_rule/b0"),
    _Piece((*_STACK, "b1"), (1, 4), 0, "update_rule/b1"),
    _Piece((*_STACK, "b2"), (1, 3), np.s_[0, :2], "update_rule/b2"),
    _Piece((*_STACK, "b2"), (1, 3), np.s_[0, 2], "official/ff_mod_stack/b2_third"),
    *_first_layer(),
    _Piece((*_STACK, "w1"), (1, 4, 4), 0, "update_rule/w1"),
    _Piece((*_STACK, "w2"), (1, 4, 3), np.s_[0, :, :2], "update_rule/w2"),
    _Piece((*_STACK, "w2"), (1, 4, 3), np.s_[0, :, 2], "official/ff_mod_stack/w2_third"),
]
_STATE_AND_LSTM = [
    _Piece(("lstm_init_state", "hidden"), (1, 64), 0, "scheduler/h0"),
    _Piece(("lstm_init_state", "cell"), (1, 64), 0, "scheduler/c0"),
    *_linear("linear", 18, 64, "official/rnn_params/linear/b", "official/rnn_params/linear/w"),
    *_linear("linear_1", 18, 64, "scheduler/mix_b", "scheduler/mix_w"),
    *_linear("linear_2", 18, 64, "scheduler/skip_b", "scheduler/skip_w"),
    *_linear("rnn/linear", 128, 256, "scheduler/lstm_b", "scheduler/lstm_w"),
]
_CONTROLS = _linear(
    "rnn_to_controls", 64, 1, "official/rnn_params/rnn_to_controls/b", "official/rnn_params/rnn_to_controls/w"
)
_STEP_SIZE = [
    _Piece(("rnn_params", "step_size", "b"), (1,), 0, "scheduler/out_b"),
    _Piece(("rnn_params", "step_size", "w"), (64, 1), np.s_[:, 0], "scheduler/out_w"),
]
# In the order of the official files. Their first mixing layer's output is overwritten, their
# control head is a softmax over one number, and the third output of their update rule is never read.
_Layouts = Mapping[str, list[_Piece]]
LAYOUTS: dict[str, list[_Piece]] = {
    "celo": [*_UPDATE_RULE, *_STATE_AND_LSTM, *_CONTROLS, *_STEP_SIZE],
    "celo_adam": [*_STATE_AND_LSTM, *_STEP_SIZE],
}
"""Published architectures by name: the pieces of their arrays, and where these stand in ours."""


def read_official(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Read an official theta.state of an architecture in `LAYOUTS`.

    Returns:
      θ (nested dict of float32 arrays), the unused arrays by name, and the architecture.

    Raises:
      CeloError: the file is missing, damaged, or holds other names, shapes, dtypes or non-finite numbers.
    """
    return _decode(read_file(path, weights.MAX_BYTES), os.fspath(path), LAYOUTS)


def to_official(
    theta: Mapping[str, Any], unused: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> str:
    """Write θ in the official form and return the SHA-256 of the file.

    Args:
      theta: θ of an architecture in `LAYOUTS`, which is told by its names.
      unused: as `read_official` returned it, or empty: the official file then has zeros there.
      path: where to write.

    Raises:
      CeloError: θ or `unused` do not fit, or the file cannot be written.
    """
    architecture = _architecture(weights.flatten(theta), LAYOUTS, _our_shapes)
    return write_file(path, _encode(theta, unused, LAYOUTS[architecture], architecture, "θ"))


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
) -> str:
    """Convert official weights to ours (destination *.safetensors) or back (destination *.state).

    Args:
      source: an official theta.state; on the way back, whatever `celo.weights.load` takes.
      destination: the file to write; replaced if it exists.
      shapes: architecture -> flat name -> shape, for optimizers without an official form: a .state file of
        theirs has the arrays under their own names.

    Returns:
      One line that says what was written.

    Raises:
      CeloError: another suffix, a source that is the destination, or what the readers and writers raise.
    """
    layouts = {**{name: _plain_layout(own) for name, own in (shapes or {}).items()}, **LAYOUTS}
    target = Path(destination)
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise CeloError(f"{target}: source and destination are the same file; name another destination")
    if target.suffix == weights.SUFFIX:
        data = read_file(source, weights.MAX_BYTES)
        theta, unused, architecture = _decode(data, os.fspath(source), layouts)
        metadata = {"architecture": architecture, "official_sha256": hashlib.sha256(data).hexdigest()}
        digest = weights.save(target, theta, metadata=metadata, extra=unused)
    elif target.suffix == STATE_SUFFIX:
        loaded = weights.load(source)
        theta, architecture = loaded.theta, loaded.metadata["architecture"]
        if architecture not in layouts:
            known = " and ".join(layouts)
            raise CeloError(f"{source}: only {known} have an official form, not {architecture!r}")
        unused = {name: array for name, array in loaded.extra.items() if name.startswith(_OFFICIAL)}
        digest = write_file(
            target, _encode(theta, unused, layouts[architecture], architecture, os.fspath(source))
        )
    else:
        raise CeloError(
            f"{target}: the destination must end in {weights.SUFFIX} (official weights to celo's) "
            f"or {STATE_SUFFIX} (celo's to official)"
        )
    count = sum(array.size for array in weights.flatten(theta).values())
    return f"{target}: {architecture}, {count:,} weights, sha256 {digest}"


def _plain_layout(shapes: Mapping[str, tuple[int, ...]]) -> list[_Piece]:
    """Every array under its own name, by flat name -> shape."""
    return [_Piece(tuple(name.split("/")), shape, ..., name) for name, shape in shapes.items()]


def _decode(data: bytes, source: str, layouts: _Layouts) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    try:
        tree = _unpack(data)
        if not isinstance(tree, dict):
            raise CeloError(f"it holds one {type(tree).__name__} instead of a dict of arrays")
        official = _arrays(tree)
        architecture = _architecture(official, layouts, _official_shapes)
        layout = layouts[architecture]
        if problem := weights.misfit(official, _official_shapes(layout)):
            raise CeloError(f"taken for {architecture}, but {problem}")
    except CeloError as error:
        known = " or ".join(layouts)
        raise CeloError(
            f"{source}: not an official theta.state of {known}, or a damaged one ({error}); "
            "check the path or fetch the file again"
        ) from error

    ours = {name: np.zeros(shape, np.float32) for name, shape in _our_shapes(layout).items()}
    for piece in layout:
        ours[piece.name][piece.place] = official[".".join(piece.keys)][piece.part]
    unused = {name: array for name, array in ours.items() if name.startswith(_OFFICIAL)}
    theta = weights.unflatten({name: array for name, array in ours.items() if name not in unused})
    return theta, unused, architecture


def _encode(
    theta: Mapping[str, Any],
    unused: Mapping[str, np.ndarray],
    layout: list[_Piece],
    architecture: str,
    source: str,
) -> bytes:
    shapes = _our_shapes(layout)
    dead = {name: shapes.pop(name) for name in list(shapes) if name.startswith(_OFFICIAL)}
    live = weights.flatten(theta)
    if (more := sorted(live.keys() - shapes.keys())) and not weights.misfit(
        {name: live[name] for name in shapes.keys() & live.keys()}, shapes
    ):
        raise CeloError(
            f"{source} has weights that the official form of {architecture} has no place for: "
            f"{', '.join(more)}. Its optimizer is another without them; keep the {weights.SUFFIX} file"
        )
    if problem := weights.misfit(live, shapes):
        raise CeloError(f"{source} is not a θ of {architecture}: {problem}. Use weights of its own layout")
    if unused and (problem := weights.misfit(unused, dead)):
        raise CeloError(f"unused arrays of {source} do not fit: {problem}. Keep all of them or none")

    ours = live | (dict(unused) or {name: np.zeros(shape, np.float32) for name, shape in dead.items()})
    arrays = {piece.keys: np.zeros(piece.shape, "<f4") for piece in layout}
    for piece in layout:
        arrays[piece.keys][piece.part] = ours[piece.name][piece.place]
    tree: dict[str, Any] = {}
    for (*groups, leaf), array in arrays.items():
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = msgpack.ExtType(_NDARRAY, _pack((array.shape, "float32", array.tobytes())))
    return _pack(tree)


def _architecture(
    names: Iterable[str], layouts: _Layouts, shapes: Callable[[list[_Piece]], Mapping[str, Any]]
) -> str:
    """The architecture whose names are the most like these: most in common, then fewest missing."""
    names = set(names)

    def likeness(architecture: str) -> tuple[int, int]:
        expected = shapes(layouts[architecture]).keys()
        return len(names & expected), -len(expected - names)

    return max(layouts, key=likeness)


def _official_shapes(layout: list[_Piece]) -> dict[str, tuple[int, ...]]:
    return {".".join(piece.keys): piece.shape for piece in layout}


def _our_shapes(layout: list[_Piece]) -> dict[str, tuple[int, ...]]:
    shapes = {piece.name: np.empty(piece.shape)[piece.part].shape for piece in layout}
    if "update_rule/w0" in shapes:  # the one array that is put together from several
        shapes["update_rule/w0"] = (sum(_GROUP_WIDTHS), 4)
    return shapes


def _arrays(tree: Mapping[Any, Any], path: str = "") -> dict[str, np.ndarray]:
    """The official arrays by their keys joined with "." (keys contain "/" themselves)."""
    arrays: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or "." in key:
            raise CeloError(f"unexpected key {key!r}")
        name = f"{path}{key}"
        if isinstance(value, dict) and value and name.count(".") < 2:  # no official name is longer
            arrays |= _arrays(value, f"{name}.")
        else:
            arrays[name] = _array(name, value)
    return arrays


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, msgpack.ExtType) or value.code != _NDARRAY:
        raise CeloError(f"{name} is a {type(value).__name__}, not an array")
    match _unpack(value.data):
        case [list(shape), str(dtype), bytes(data)] if all(type(size) is int for size in shape):
            if dtype != "float32":
                raise CeloError(f"{name} is {dtype}, not float32")
            if min(shape, default=1) < 1 or math.prod(shape) * 4 != len(data):
                raise CeloError(f"{name} has {len(data)} bytes, which do not make the shape {tuple(shape)}")
            return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
    raise CeloError(f"{name} is not packed as shape, dtype and bytes")


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, **_LIMITS)
    except (ValueError, msgpack.UnpackException) as error:
        raise CeloError(f"invalid msgpack ({str(error) or type(error).__name__})") from error


def _pack(value: Any) -> bytes:
    return cast(bytes, msgpack.packb(value))  # its declared type has a None that only streams return
