"""Words of a text, counted by hand."""

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data._splits import split_lines
from celo.data._words import UNKNOWN, split_words

LINES = ["The sea, the sea!", "the ship.", "A ship; a whale", "the sea"]


def test_words_are_numbered_by_how_frequent_they_are_in_training():
    """the: 3, sea: 2, then "!" and "," of those that occur once; marks are words, case is not kept."""
    tokens = split_words(split_lines(LINES, 2, 1), 5)
    assert tokens.vocabulary == 5
    assert all(getattr(tokens, part).dtype == np.uint16 for part in ("train", "valid", "test"))
    the, sea, bang, comma = 1, 2, 3, 4
    np.testing.assert_array_equal(tokens.train, [the, sea, comma, the, sea, bang, the, UNKNOWN, UNKNOWN])
    np.testing.assert_array_equal(tokens.valid, [UNKNOWN] * 5)
    np.testing.assert_array_equal(tokens.test, [the, sea])


def test_a_vocabulary_may_be_larger_than_the_text_needs():
    tokens = split_words(split_lines(LINES, 2, 1), 100)
    assert tokens.vocabulary == 100
    assert UNKNOWN not in tokens.train
    np.testing.assert_array_equal(np.unique(tokens.train), np.arange(1, 7))


@pytest.mark.parametrize("vocabulary", [1, 65_537])
def test_a_vocabulary_fits_into_two_bytes(vocabulary):
    with pytest.raises(CeloError, match=rf"2 to 65,536 words, got {vocabulary}"):
        split_words(split_lines(LINES, 2, 1), vocabulary)
