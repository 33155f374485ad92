"""A published layout: a table of pieces that places every number of a published file in ours, and back.

Published files are those of flax: msgpack, with arrays in nested dicts.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import msgpack
import numpy as np

from celo._errors import CeloError

OFFICIAL = "official/"  # prefix of our names for arrays that the published code never uses
_NDARRAY = 1  # flax's msgpack extension type for an array
# With these a hostile header cannot ask for memory that the file does not pay for. Bytes need no limit:
# msgpack allows none to be longer than the file.
_LIMITS = {"max_str_len": 256, "max_array_len": 8, "max_map_len": 64}

_CHECKPOINT = ("gen_id", "step")  # what learned_optimization saves with the weights

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


class Piece(NamedTuple):
    """A part of a published array and its place in one of ours."""

    keys: tuple[str, ...]  # of the published array: groups, then the name
    shape: tuple[int, ...]  # of the published array
    part: Any  # index of the piece in it
    name: str  # of our array, in θ or, if it starts with "official/", unused
    at: tuple[int, ...] = ()  # where the piece begins in our array, along its first axes

    @property
    def published_name(self) -> str:
        """The keys joined with "." (they contain "/" themselves)."""
        return ".".join(self.keys)

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Of the piece, in ours."""
        return np.broadcast_to(np.float32(0), self.shape)[self.part].shape

    @property
    def place(self) -> tuple[slice, ...]:
        """Index of the piece in our array."""
        sizes = self.own_shape[: len(self.at)]
        return tuple(slice(start, start + size) for start, size in zip(self.at, sizes, strict=True))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the weights of one architecture, of one size, are published.

    Attributes:
      architecture: the name that our files carry.
      pieces: in the order of the published file; together they fill every published array, and ours but for
        `constants`.
      constants: our flat name -> what the array is for all files of this form, which have no place for it.
      note: what such files leave out, for the line that says what was written.
      ignored: published names that have no place in ours; such a form can be read, not written.
    """

    architecture: str
    pieces: tuple[Piece, ...]
    constants: Mapping[str, Sequence[float] | float] = dataclasses.field(default_factory=dict)
    note: str = ""
    ignored: tuple[str, ...] = ()

    @cached_property
    def published_shapes(self) -> Shapes:
        """Published name -> shape."""
        return {piece.published_name: piece.shape for piece in self.pieces}

    @cached_property
    def own_shapes(self) -> Shapes:
        """Our flat name -> shape: just large enough for all pieces of the array."""
        shapes = {name: np.shape(value) for name, value in self.constants.items()}
        for piece in self.pieces:
            starts = piece.at + (0,) * (len(piece.own_shape) - len(piece.at))
            ends = tuple(start + size for start, size in zip(starts, piece.own_shape, strict=True))
            shapes[piece.name] = tuple(map(max, ends, shapes.get(piece.name, ends)))
        return shapes

    @cached_property
    def theta_shapes(self) -> Shapes:
        """Those of `own_shapes` that are in θ."""
        return {name: shape for name, shape in self.own_shapes.items() if not name.startswith(OFFICIAL)}

    @cached_property
    def unused_shapes(self) -> Shapes:
        """Those of `own_shapes` that the published code never uses."""
        return {name: shape for name, shape in self.own_shapes.items() if name.startswith(OFFICIAL)}

    @property
    def depth(self) -> int:
        """How many keys lead to an array of the published file, at most."""
        return max(len(piece.keys) for piece in self.pieces)

    def to_own(self, published: Arrays) -> dict[str, np.ndarray]:
        """Our arrays, unused ones included, from arrays of `published_shapes`."""
        own = {name: np.zeros(shape, np.float32) for name, shape in self.own_shapes.items()}
        for piece in self.pieces:
            own[piece.name][piece.place] = published[piece.published_name][piece.part]
        return own | {name: np.asarray(value, np.float32) for name, value in self.constants.items()}

    def to_published(self, own: Arrays) -> dict[str, Any]:
        """The published arrays in their nested dicts, from arrays of `own_shapes`.

        Raises:
          CeloError: if one of `constants` is something else.
        """
        for name, value in self.constants.items():
            if not np.array_equal(own[name], np.asarray(value, np.float32)):
                raise CeloError(
                    f"{name} is {own[name]}, and such files have no place for it: it must be {value}"
                )
        arrays = {piece.keys: np.zeros(piece.shape, "<f4") for piece in self.pieces}
        for piece in self.pieces:
            arrays[piece.keys][piece.part] = own[piece.name][piece.place]
        tree: dict[str, Any] = {}
        for (*groups, leaf), array in arrays.items():
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[leaf] = array
        return tree


def first_layer(
    groups: tuple[str, ...], widths: tuple[int, ...], units: int, name: str, banks: int | None = None
) -> list[Piece]:
    """Pieces of a first layer that is published as one array for each group of inputs.

    Args:
      groups: the keys above "w0__0", "w0__1", …; each array is [banks, width, units].
      widths: inputs of each group.
      units: of the layer.
      name: of our array, [inputs, units] or, of a bank of layers, [banks, inputs, units].
      banks: how many layers there are; None for one.
    """
    pieces = []
    for group, width in enumerate(widths):
        keys, start = (*groups, f"w0__{group}"), sum(widths[:group])
        if banks is None:
            pieces.append(Piece(keys, (1, width, units), 0, name, at=(start,)))
        else:
            pieces.append(Piece(keys, (banks, width, units), ..., name, at=(0, start)))
    return sorted(pieces, key=lambda piece: piece.keys)  # as flax wrote them: w0__1, w0__10, …, w0__2


def linear(group: str, module: str, inputs: int, outputs: int, b: str, w: str) -> list[Piece]:
    """Pieces of a linear layer that is published as {"b", "w"} and is named `b` and `w` with us."""
    return [
        Piece((group, module, "b"), (outputs,), ..., b),
        Piece((group, module, "w"), (inputs, outputs), ..., w),
    ]


def encode(tree: Mapping[str, Any]) -> bytes:
    """Nested dicts of float32 arrays as flax writes them."""

    def packed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: packed(inner) for key, inner in value.items()}
        return msgpack.ExtType(_NDARRAY, _pack((value.shape, "float32", value.tobytes())))

    return _pack(packed(tree))


def decode(data: bytes, depth: int) -> dict[str, np.ndarray]:
    """The float32 arrays of a file by their keys joined with ".".

    Weights may also come as a checkpoint, {"params": weights, "gen_id": …, "step": …}: `beside_weights`.

    Args:
      data: the file; it is trusted in nothing.
      depth: how many keys may lead to an array.

    Raises:
      CeloError: anything in it is something else.
    """
    tree = _unpack(data)
    if beside_weights(data):
        tree = tree["params"]
    if not isinstance(tree, dict):
        raise CeloError(f"it holds one {type(tree).__name__} instead of a dict of arrays")
    return _arrays(tree, depth)


def beside_weights(data: bytes) -> tuple[str, ...]:
    """What a file holds besides weights: names, if it is a checkpoint of learned_optimization's training.

    Raises:
      CeloError: if it is no msgpack.
    """
    tree = _unpack(data)
    is_checkpoint = isinstance(tree, dict) and tree.keys() == {"params", *_CHECKPOINT}
    return _CHECKPOINT if is_checkpoint else ()


def _arrays(tree: Mapping[Any, Any], depth: int, path: str = "") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or "." in key:
            raise CeloError(f"unexpected key {key!r}")
        name = f"{path}{key}"
        if isinstance(value, dict) and value and depth > 1:
            arrays |= _arrays(value, depth - 1, f"{name}.")
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
