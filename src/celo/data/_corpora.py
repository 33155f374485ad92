"""Corpora of word pieces that no package hands out: whoever has one puts its tokens into the data folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo._errors import CeloError, unknown_name
from celo.data._cache import raw_dir

CORPORA = {
    "lm1b": "One Billion Word Benchmark (Chelba et al. 2013)",
    "wikipedia": "English Wikipedia",
}
"""What there are tasks for."""

PIECES = 32_100  # of the published tasks' vocabulary: 32,000 of SentencePiece and 100 marks that no text has
# A batch draws where its windows start as float32 numbers in [0, 1), and there are 2**23 of those: among
# 2**24 places they still reach every second one, so all of the text is read; further apart, it would not be.
MOST_TOKENS = 2**24


class Tokens(NamedTuple):
    """A corpus in three disjoint parts, uint16 [N] each, of numbers below `vocabulary`."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: int


def load_tokens(name: str) -> Tokens:
    """Load a corpus that lies as train.npy, valid.npy and test.npy in the data folder.

    Each holds one row of word pieces, whole numbers from 0 to 32,099, of whatever vocabulary no larger.

    Raises:
      CeloError: the name is unknown, a file is missing, or it is not such a row.
    """
    if name not in CORPORA:
        raise unknown_name("corpus", name, CORPORA)
    folder = raw_dir(name)
    train, valid, test = (_read(folder / f"{part}.npy", name) for part in ("train", "valid", "test"))
    return Tokens(train, valid, test, PIECES)


def _read(path: Path, name: str) -> np.ndarray:
    """One part of a corpus, uint16; CeloError if it is not there or no row of tokens."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CeloError(
            f"no package has the corpus {name!r}: put its word pieces, numbers below {PIECES:,}, as "
            f"train.npy, valid.npy and test.npy into {path.parent}"
        ) from error
    except (OSError, ValueError) as error:
        raise CeloError(f"{path} is no array that NumPy can read ({error}): write it anew") from error
    return _checked(tokens, path)


def _checked(tokens: np.ndarray, path: Path) -> np.ndarray:
    """The tokens as uint16; CeloError if they are not a row of them."""
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise CeloError(f"{path} is {tokens.dtype} {tokens.shape}: a row of whole numbers is wanted")
    if not 0 < tokens.size <= MOST_TOKENS:
        raise CeloError(f"{path} has {tokens.size:,} tokens: from 1 to {MOST_TOKENS:,} are wanted; cut it")
    low, high = tokens.min(), tokens.max()
    if low < 0 or high >= PIECES:
        raise CeloError(f"{path} has numbers from {low} to {high}: from 0 to {PIECES - 1:,} are wanted")
    return np.asarray(tokens, np.uint16)
