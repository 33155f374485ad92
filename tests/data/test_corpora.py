"""Corpora of the user's own: read as they are, and refused where they are not rows of word pieces."""

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import load_tokens


@pytest.fixture
def folder(data_folder):
    folder = data_folder / "raw" / "lm1b"
    folder.mkdir(parents=True)
    for number, part in enumerate(("train", "valid", "test")):
        np.save(folder / f"{part}.npy", np.arange(number, 31_990 + number, dtype=np.int64))
    return folder


def test_a_corpus_is_what_lies_in_the_folder(folder):
    tokens = load_tokens("lm1b")
    assert tokens.vocabulary == 32_100
    for number, part in enumerate(tokens[:3]):
        assert part.dtype == np.uint16
        np.testing.assert_array_equal(part, np.arange(number, 31_990 + number))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (np.zeros(5, np.float32), "float32"),
        (np.zeros((5, 1), np.int32), r"\(5, 1\)"),
        (np.zeros(0, np.int32), "0 tokens"),
        (np.asarray([0, 32_100]), "from 0 to 32100"),
        (np.zeros(2**24 + 1, np.uint8), "16,777,217 tokens"),
        (np.asarray([-1, 5]), "from -1 to 5"),
    ],
)
def test_what_is_no_row_of_word_pieces_is_refused(folder, content, complaint):
    np.save(folder / "valid.npy", content)
    with pytest.raises(CeloError, match=f"valid.npy.*{complaint}"):
        load_tokens("lm1b")


def test_a_damaged_or_missing_file_or_unknown_name_is_named(folder):
    (folder / "test.npy").write_bytes(b"not an array")
    with pytest.raises(CeloError, match=r"test\.npy is not an array"):
        load_tokens("lm1b")
    (folder / "test.npy").unlink()
    with pytest.raises(CeloError, match=r"no package provides the corpus 'lm1b'.*test\.npy into .*lm1b"):
        load_tokens("lm1b")
    with pytest.raises(CeloError, match="unknown corpus 'lm1c'"):
        load_tokens("lm1c")
