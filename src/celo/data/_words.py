"""A text as words: its most frequent ones, and one token for all others."""

import re
from collections import Counter

import numpy as np

from celo._errors import CeloError
from celo.data._corpora import Tokens
from celo.data._splits import Text, decode

WORD = re.compile(r"\w+|[^\w\s]")  # punctuation marks are words, too
UNKNOWN = 0


def split_words(text: Text, vocabulary: int) -> Tokens:
    """The words of a text, in lower case, as numbers below `vocabulary`, the most frequent ones first.

    The vocabulary is that of the training part. Every other word is `UNKNOWN`, 0.

    Args:
      text: as `load_text` returns it.
      vocabulary: how many different tokens there may be, `UNKNOWN` among them; 2 to 65,536.

    Raises:
      CeloError: if it is not in that range.
    """
    if not 2 <= vocabulary <= 65_536:
        raise CeloError(f"a vocabulary has 2 to 65,536 words, got {vocabulary}")
    words = {part: _words(getattr(text, part), text.vocabulary) for part in ("train", "valid", "test")}
    counts = Counter(words["train"])
    # Words of one frequency in the order of the alphabet, so that numbers depend on the text alone.
    known = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 1]
    number = {word: i for i, word in enumerate(known, UNKNOWN + 1)}
    parts = {part: np.array([number.get(w, UNKNOWN) for w in ws], np.uint16) for part, ws in words.items()}
    return Tokens(**parts, vocabulary=vocabulary)


def _words(characters: np.ndarray, vocabulary: str) -> list[str]:
    return WORD.findall(decode(characters, vocabulary).lower())
