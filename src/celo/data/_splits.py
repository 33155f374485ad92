"""Train, validation and test splits: disjoint, and the same on every machine and with every NumPy version."""

import re
from typing import NamedTuple

import numpy as np

from celo._errors import CeloError

SPLIT_SEED = 0
VERSE = re.compile(r"^\w+\d+:\d+ (.*)$", re.MULTILINE)


class Split(NamedTuple):
    """Examples and their targets.

    Of images: x uint8 [N, H, W, C] in 0..255, y int32 [N] in 0..num_classes-1; of tables: see `Table`.
    """

    x: np.ndarray
    y: np.ndarray


class Images(NamedTuple):
    """An image data set in three disjoint splits."""

    train: Split
    valid: Split
    test: Split
    num_classes: int


class Table(NamedTuple):
    """A table in three disjoint splits, x float32 [N, features].

    y is int32 [N] in 0..num_classes-1, or float32 [N, targets] where num_classes is 0.
    """

    train: Split
    valid: Split
    test: Split
    num_classes: int


class Text(NamedTuple):
    """A text in three contiguous parts, uint8 [N] each; token t stands for the character vocabulary[t]."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: str


def fixed_permutation(count: int) -> np.ndarray:
    """A random order of `count` examples, int64 [count].

    Sorts raw output of the PCG64 bit generator, which NumPy guarantees to be stable, unlike
    `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(count), kind="stable")


def split_off(x: np.ndarray, y: np.ndarray, count: int) -> tuple[Split, Split]:
    """(all examples but the last `count` of the fixed permutation, those `count`)."""
    kept, held_out = np.split(fixed_permutation(len(x)), [len(x) - count])
    labels = y.astype(np.int32)
    return Split(x[kept], labels[kept]), Split(x[held_out], labels[held_out])


def split_tenths(x: np.ndarray, y: np.ndarray) -> tuple[Split, Split, Split]:
    """Train, validation and test: eight, one and one tenth of the examples in the fixed permutation."""
    order, tenth = fixed_permutation(len(x)), len(x) // 10
    parts = order[: -2 * tenth], order[-2 * tenth : -tenth], order[-tenth:]
    train, valid, test = (Split(x[part], y[part]) for part in parts)
    return train, valid, test


def verses(text: str) -> list[str]:
    """The verses of a Bible with one verse a line, without their references ("Ge1:1 ")."""
    return VERSE.findall(text)


def every_line(text: str) -> list[str]:
    """All lines of a text."""
    return text.split("\n")


def split_lines(lines: list[str], train: int, valid: int) -> Text:
    """The first `train` lines, the next `valid` and the rest, each with a line end.

    The vocabulary is the sorted characters of all lines.

    Raises:
      CeloError: there are more than 256 different characters, which tokens of one byte cannot tell apart.
    """
    vocabulary = "".join(sorted(set("".join(lines)) | {"\n"}))
    if len(vocabulary) > 256:
        raise CeloError(
            f"the text has {len(vocabulary):,} different characters, at most 256 fit: replace rare ones"
        )
    token = np.zeros(ord(vocabulary[-1]) + 1, np.uint8)
    token[_code_points(vocabulary)] = np.arange(len(vocabulary))
    ended = [f"{line}\n" for line in lines]
    end = train + valid

    def encode(part: list[str]) -> np.ndarray:
        return token[_code_points("".join(part))]

    return Text(encode(ended[:train]), encode(ended[train:end]), encode(ended[end:]), vocabulary)


def decode(tokens: np.ndarray, vocabulary: str) -> str:
    """The characters that the tokens of a `Text` stand for."""
    return _code_points(vocabulary)[tokens].tobytes().decode("utf-32-le")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))
