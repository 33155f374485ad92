"""Objects stored in an R package: in a pair of an index, Rdata.rdx, and objects, Rdata.rdb, or in an .rda.

All contain R's serialization format in its big-endian binary form ("R Internals", section 1.8). Only the
types for lists, numbers and strings are read: a data frame is a list of columns, a factor the numbers of its
levels.
"""

import gzip
import struct
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

HEAD = b"X\n"
SAVED_HEADS = (b"RDX2\n", b"RDX3\n")
# How a compressed file starts, and the module that reads it; not every Python has the last two.
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "lzma"}
HAS_ATTRIBUTES, HAS_TAG = 0x200, 0x400
UTF8_CHARACTERS = 1 << 15  # otherwise ASCII or Latin-1


class _Reader:
    """Reads one object after another from `data`; back references are indices into the symbols so far."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0
        self.symbols: list[Any] = []
        self.kinds: dict[int, Callable[[int], Any]] = {
            1: self._symbol,
            2: self._pairs,
            9: self._characters,
            10: self._integers,  # logical values are stored in the same way
            13: self._integers,
            14: self._reals,
            16: self._list,  # of strings
            19: self._list,
            254: lambda flags: None,
            255: lambda flags: self.symbols[(flags >> 8) - 1],
        }

    def integers(self, count: int) -> tuple[int, ...]:
        values = struct.unpack_from(f">{count}i", self.data, self.position)
        self.position += 4 * count
        return values

    def item(self) -> Any:
        (flags,) = self.integers(1)
        if flags & 0xFF not in self.kinds:
            raise ValueError(f"an R object of type {flags & 0xFF} at byte {self.position - 4}")
        return self.kinds[flags & 0xFF](flags)

    def _symbol(self, flags: int) -> Any:
        del flags
        self.symbols.append(self.item())
        return self.symbols[-1]

    def _pairs(self, flags: int) -> dict[Any, Any]:
        """A linked list of tagged values."""
        if flags & HAS_ATTRIBUTES:
            self.item()
        tag = self.item() if flags & HAS_TAG else None
        return {tag: self.item()} | (self.item() or {})

    def _characters(self, flags: int) -> str:
        (size,) = self.integers(1)
        start, self.position = self.position, self.position + max(size, 0)  # -1 is R's missing value
        return self.data[start : self.position].decode("utf-8" if flags & UTF8_CHARACTERS else "latin-1")

    def _integers(self, flags: int) -> tuple[int, ...]:
        values = self.integers(*self.integers(1))
        if flags & HAS_ATTRIBUTES:
            self.item()
        return values

    def _reals(self, flags: int) -> tuple[float, ...]:
        (count,) = self.integers(1)
        values = struct.unpack_from(f">{count}d", self.data, self.position)
        self.position += 8 * count
        if flags & HAS_ATTRIBUTES:
            self.item()
        return values

    def _list(self, flags: int) -> list[Any] | dict[str, Any]:
        """A list, or a dict where its items have names."""
        values = [self.item() for _ in range(*self.integers(1))]
        attributes = self.item() if flags & HAS_ATTRIBUTES else {}
        return dict(zip(attributes["names"], values, strict=True)) if "names" in attributes else values


def unserialize(data: bytes) -> Any:
    """The object in R's serialization format, version 2 or 3: dicts, lists, tuples of numbers, str, None.

    Raises:
      ValueError: it has another format, or contains a type that is not read here.
      struct.error: it is truncated.
    """
    if not data.startswith(HEAD):
        raise ValueError(f"R's binary serialization starts with {HEAD!r}, this with {data[:2]!r}")
    reader = _Reader(data[len(HEAD) :])
    version, _, _ = reader.integers(3)
    if version == 3:  # followed by the name of the native encoding
        (size,) = reader.integers(1)
        reader.position += size
    return reader.item()


def saved_objects(data: bytes) -> dict[str, Any]:
    """All objects of a file that R's `save` wrote, an .rda, by name.

    Raises:
      ValueError: the file has another format, or contains a type that is not read here.
    """
    for start, module in COMPRESSIONS.items():
        if data.startswith(start):
            data = import_module(module).decompress(data)
            break
    if not data.startswith(SAVED_HEADS):
        raise ValueError(f"R's saved objects start with RDX2 or RDX3, these with {data[:5]!r}")
    return unserialize(data[len(SAVED_HEADS[0]) :])


def lazy_objects(index: bytes, objects: bytes) -> dict[str, Any]:
    """All objects of a lazy-load pair by name.

    Args:
      index: the content of Rdata.rdx.
      objects: the content of Rdata.rdb, compressed by zlib, R's default.

    Raises:
      ValueError: the pair has another format, or contains a type that is not read here.
    """
    spans = unserialize(gzip.decompress(index))["variables"]
    # Four bytes of uncompressed size come first.
    return {
        name: unserialize(zlib.decompress(objects[start + 4 : start + size]))
        for name, (start, size) in spans.items()
    }
