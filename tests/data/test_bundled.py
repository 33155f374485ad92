"""Tables and the photograph that lie in scikit-learn."""

import sys

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import TABLES, load_photograph, load_table

SIZES = {"breast_cancer": (569, 30, 2), "diabetes": (442, 10, 0), "wine": (178, 13, 3)}


@pytest.mark.parametrize("name", TABLES)
def test_table(name):
    table = load_table(name)
    rows, features, classes = SIZES[name]
    splits = (table.train, table.valid, table.test)
    assert [len(split.x) for split in splits] == [rows - 2 * (rows // 10), rows // 10, rows // 10]
    assert table.num_classes == classes
    for split in splits:
        assert (split.x.dtype, split.x.shape[1]) == (np.float32, features)
        assert split.y.dtype == (np.int32 if classes else np.float32)
        assert split.y.shape == ((len(split.x),) if classes else (len(split.x), 1))
    seen = [{row.tobytes() for row in split.x} for split in splits]
    assert len(set.union(*seen)) == sum(map(len, seen))
    if classes:
        assert all(set(np.unique(split.y)) == set(range(classes)) for split in splits)


def test_unknown_table():
    with pytest.raises(CeloError, match="unknown table 'diabetis'; known, nearest first: diabetes"):
        load_table("diabetis")


def test_altered_table(monkeypatch):
    monkeypatch.setitem(TABLES, "diabetes", (0, "0" * 32))
    with pytest.raises(CeloError, match=r"scikit-learn's diabetes has MD5 .*, not 000"):
        load_table("diabetes")


def test_photograph():
    pixels = load_photograph("china")
    assert (pixels.shape, pixels.dtype) == ((128, 128, 3), np.uint8)
    assert pixels[:20].mean() > 180  # the sky
    assert 60 < pixels.std() < 100


@pytest.mark.parametrize("load", [lambda: load_photograph("china"), lambda: load_table("diabetes")])
def test_missing_scikit_learn(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[data\]'"):
        load()
