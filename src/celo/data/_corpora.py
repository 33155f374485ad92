"""Corpora of word pieces that no package provides: users put tokens of their own into the data folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo._errors import CeloError, unknown_name
from celo.data._cache import raw_dir

CORPORA = {
    "lm1b": "One Billion Word Benchmark (Chelba et al. 2013)",
    "wikipedia": "English Wikipedia",
}
"""The corpora that have tasks, and what they are."""

# The published vocabulary: 32,000 pieces of SentencePiece and 100 special tokens that no text contains.
PIECES = 32_100
"""Word pieces of a corpus are below this number."""
# A batch draws the starts of its windows as float32 numbers in [0, 1), of which there are 2**23. In a text of
# 2**24 tokens they reach every second position, so windows still cover all of it; in a longer one, not.
MOST_TOKENS = 2**24


class Tokens(NamedTuple):
    """A corpus in three disjoint parts, uint16 [N] each, of numbers below `vocabulary`."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: int


def load_tokens(name: str) -> Tokens:
    """Load a corpus from train.npy, valid.npy and test.npy in its folder, `raw_dir(name)`.

    Each is a one-dimensional array of word pieces, integers from 0 to 32,099, of any vocabulary that fits.

    Raises:
      CeloError: the name is unknown, or a file is missing or not such an array.
    """
    if name not in CORPORA:
        raise unknown_name("corpus", name, CORPORA)
    folder = raw_dir(name)
    train, valid, test = (_read(folder / f"{part}.npy", name) for part in ("train", "valid", "test"))
    return Tokens(train, valid, test, PIECES)


def _read(path: Path, name: str) -> np.ndarray:
    """One part of a corpus, uint16."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CeloError(
            f"no package provides the corpus {name!r}: put its word pieces, integers below {PIECES:,}, as "
            f"train.npy, valid.npy and test.npy into {path.parent}"
        ) from error
    except (OSError, ValueError) as error:
        raise CeloError(f"{path} is not an array that NumPy can read ({error}): write it again") from error
    return _checked(tokens, path)


def _checked(tokens: np.ndarray, path: Path) -> np.ndarray:
    """The tokens as uint16."""
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise CeloError(
            f"{path} is {tokens.dtype} {tokens.shape}: expected a one-dimensional array of integers"
        )
    if not 0 < tokens.size <= MOST_TOKENS:
        raise CeloError(f"{path} has {tokens.size:,} tokens: expected 1 to {MOST_TOKENS:,}; shorten it")
    low, high = tokens.min(), tokens.max()
    if low < 0 or high >= PIECES:
        raise CeloError(f"{path} has numbers from {low} to {high}: expected 0 to {PIECES - 1:,}")
    return np.asarray(tokens, np.uint16)
