"""Splits: disjoint, of the sizes they should have, and the same for ever."""

import numpy as np
import pytest

from celo import CeloError
from celo.data._splits import (
    decode,
    every_line,
    fixed_permutation,
    split_lines,
    split_off,
    split_tenths,
    verses,
)


def test_the_permutation_never_changes():
    assert fixed_permutation(10).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert sorted(fixed_permutation(1000)) == list(range(1000))


def test_the_permutation_mixes_what_was_in_order():
    """The last tenth of it comes from everywhere: of 10,000 places every tenth of them has about 100."""
    last = fixed_permutation(10_000)[-1000:]
    counts = np.bincount(last // 1000, minlength=10)
    assert np.abs(counts - 100).max() < 4 * np.sqrt(1000 * 0.1 * 0.9)


def numbered(count):
    """Examples that tell their number, and so do their labels."""
    return np.arange(count, dtype=np.uint8)[:, None, None], np.arange(count, dtype=np.uint8)


def test_splitting_off_takes_the_end_of_the_permutation_with_its_labels():
    x, y = numbered(10)
    kept, held_out = split_off(x, y, 3)
    assert kept.y.tolist() == [3, 2, 1, 8, 6, 0, 7]
    assert held_out.y.tolist() == [4, 5, 9]
    for split in (kept, held_out):
        assert (split.x.dtype, split.y.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.x[:, 0, 0], split.y)


@pytest.mark.parametrize("count", [10, 19, 178])
def test_tenths_are_eight_one_and_one_and_hold_every_example_once(count):
    x, y = numbered(count)
    splits = split_tenths(x, y)
    tenth = count // 10
    assert [len(split.y) for split in splits] == [count - 2 * tenth, tenth, tenth]
    np.testing.assert_array_equal(np.concatenate([split.y for split in splits]), fixed_permutation(count))
    for split in splits:
        np.testing.assert_array_equal(split.x[:, 0, 0], split.y)


def test_targets_of_a_table_keep_their_type_and_shape():
    x, y = np.ones((20, 3), np.float32), np.linspace(0, 1, 40, dtype=np.float32).reshape(20, 2)
    train, *_ = split_tenths(x, y)
    assert (train.y.dtype, train.y.shape) == (np.float32, (16, 2))


VERSES = [f"Ge1:{number} Verse {number}, and so on." for number in range(1, 21)]


def read(text, part):
    return "".join(text.vocabulary[token] for token in part)


def test_verses_are_split_in_order_without_references():
    text = split_lines(verses("A title.\n" + "\n".join(VERSES) + "\n"), 18, 1)
    lines = [verse.partition(" ")[2] + "\n" for verse in VERSES]
    assert [read(text, part) for part in text[:3]] == ["".join(lines[:18]), lines[18], lines[19]]
    assert text.train.dtype == np.uint8
    assert list(text.vocabulary) == sorted(set("".join(lines)))


def test_what_looks_like_a_reference_inside_a_verse_stays():
    assert verses("1Ch2:13 As in Ge1:1 it was.\nThe end: 3:4\n") == ["As in Ge1:1 it was."]


def test_lines_of_any_letters_are_split_in_order():
    text = split_lines(every_line("A £5 note.\n\nη θ\nend"), 2, 1)
    assert [read(text, part) for part in text[:3]] == ["A £5 note.\n\n", "η θ\n", "end\n"]
    assert list(text.vocabulary) == sorted(set("A £5 note.η θend\n"))


def test_letters_beyond_the_basic_plane_are_one_token():
    text = split_lines(["a𝛉b", "𝛉"], 1, 1)
    assert text.vocabulary == "\nab𝛉"
    assert text.train.tolist() == [1, 3, 2, 0]
    assert text.valid.tolist() == [3, 0]
    assert text.test.size == 0


def test_nothing_can_be_held_out():
    x, y = numbered(7)
    kept, held_out = split_off(x, y, 0)
    assert sorted(kept.y.tolist()) == list(range(7))
    assert len(held_out.x) == len(held_out.y) == 0


def test_more_characters_than_a_byte_can_tell_apart_are_refused():
    characters = "".join(map(chr, range(0x100, 0x200)))
    assert len(split_lines([characters[1:], "", ""], 1, 1).vocabulary) == 256  # with the line end
    with pytest.raises(CeloError, match="257 different characters, at most 256"):
        split_lines([characters, "", ""], 1, 1)


def test_tokens_are_decoded_to_the_lines_they_came_from():
    text = split_lines(["a𝛉b", "𝛉 £"], 1, 1)
    assert decode(text.train, text.vocabulary) == "a𝛉b\n"
    assert decode(text.valid, text.vocabulary) == "𝛉 £\n"
    assert decode(text.test, text.vocabulary) == ""
