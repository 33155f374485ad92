"""Tensors of many shapes in one array of blocks of one size, so that one program computes them all.

XLA compiles a kernel anew for each shape. Tensors laid one after another, each from the beginning of a
block, have one shape together, [blocks, `SIZE`]. What belongs to a tensor as a whole is a number for each of
its blocks.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from celo._types import Array

_RADIX = 16
SIZE = 128  # elements of a block; the last one of a tensor is filled up


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Which tensor lies where.

    Attributes:
      runs: of tensors of one size, one after another: (how many, elements of each).
      multiple: of how many blocks the whole is made; those beyond the last tensor are filled up, too.
    """

    runs: tuple[tuple[int, int], ...]
    multiple: int = 1

    @cached_property
    def ends(self) -> list[int]:
        """The blocks up to the end of each run, after those before the first, 0."""
        return [0, *np.cumsum([count * _blocks(size) for count, size in self.runs]).tolist()]

    @property
    def total(self) -> int:
        """How many blocks there are."""
        return -(-self.ends[-1] // self.multiple) * self.multiple

    @cached_property
    def owners(self) -> np.ndarray:
        """The tensor that each block belongs to; those beyond the last count as its."""
        owners = np.repeat(*self._lengths)
        return np.pad(owners, (0, self.total - len(owners)), mode="edge")

    @cached_property
    def _lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of each tensor, and how many blocks it takes."""
        lengths = self.each([_blocks(size) for _, size in self.runs])
        return np.arange(len(lengths)), lengths

    def each(self, of_runs: Sequence[float]) -> np.ndarray:
        """A number for each run -> one for each tensor, [tensors]."""
        return np.repeat(np.asarray(of_runs), [count for count, _ in self.runs])

    def spread(self, values: Array | np.ndarray) -> Array:
        """A value for each tensor, [..., tensors] -> one for each block, [..., blocks]."""
        return jnp.take(values, self.owners, axis=-1)

    def filled(self) -> Array:
        """How many places of each block belong to a tensor, the first ones: [blocks]."""
        _, lengths = self._lengths
        before = np.cumsum(lengths) - lengths
        sizes = self.each([size for _, size in self.runs])
        elements = sizes[self.owners] - SIZE * (np.arange(self.total) - before[self.owners])
        return jnp.asarray(np.clip(elements, 0, SIZE).astype(np.int32))

    def run(self, array: Array, number: int) -> Array:
        """The tensors of a run, [..., blocks, SIZE] -> [..., tensors, elements]."""
        count, size = self.runs[number]
        part = array[..., self.ends[number] : self.ends[number + 1], :]
        return part.reshape(*array.shape[:-2], count, -1)[..., :size]

    def means(self, sums: Array) -> Array:
        """The mean of each tensor, of sums over each block, [..., blocks] -> [..., tensors].

        A sum of equally many neighbours, again and again: sums over each run would each be compiled.
        """
        _, lengths = self._lengths
        sums = sums[..., : self.ends[-1]]
        while lengths.max() > 1:
            parts = -(-lengths // _RADIX)  # of each tensor
            first = np.repeat(np.cumsum(lengths) - lengths, parts)
            within = _RADIX * (np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts))
            places = within[:, None] + np.arange(_RADIX)
            nothing = sums.shape[-1]
            places = np.where(places < np.repeat(lengths, parts)[:, None], first[:, None] + places, nothing)
            padded = jnp.pad(sums, [*[(0, 0)] * (sums.ndim - 1), (0, 1)])
            sums = jnp.sum(jnp.take(padded, places, axis=-1), axis=-1)
            lengths = parts
        return sums / self.each([size for _, size in self.runs]).astype(np.float32)


def in_blocks(blocks: Blocks, arrays: Sequence[Array], fill: float = 0.0) -> Array:
    """Arrays [..., tensors, elements], all tensors in their order -> [..., blocks, SIZE]."""
    lead = arrays[0].shape[:-2]
    pieces: list[Array] = []
    beyond = (blocks.total - blocks.ends[-1]) * SIZE
    for x in arrays:
        count, size = x.shape[-2:]
        missing = _blocks(size) * SIZE - size
        if count > 1 and missing:
            x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, missing)], constant_values=fill)
        pieces.append(x.reshape(*lead, -1))
        if count == 1 and missing:
            pieces.append(jnp.full((*lead, missing), fill, x.dtype))
    if beyond:
        pieces.append(jnp.full((*lead, beyond), fill, arrays[0].dtype))
    return jnp.concatenate(pieces, axis=-1).reshape(*lead, blocks.total, SIZE)


def taken_out(array: Array, begin: Array, shape: tuple[int, ...], layers: int) -> Array:
    """A leaf of stacked tensors from [blocks, SIZE].

    Args:
      array: where it lies.
      begin: its first block.
      shape: its shape.
      layers: how many of its leading axes count tensors.
    """
    count, size = math.prod(shape[:layers]), math.prod(shape[layers:])
    part = jax.lax.dynamic_slice_in_dim(array, begin, num_blocks(shape, layers))
    return part.reshape(count, -1)[:, :size].reshape(shape)


def num_blocks(shape: tuple[int, ...], layers: int) -> int:
    """How many blocks a leaf takes whose first `layers` axes count tensors."""
    return math.prod(shape[:layers]) * _blocks(math.prod(shape[layers:]))


def _blocks(size: int) -> int:
    return -(-size // SIZE)
