"""celo data: what is listed, what is fetched."""

import numpy as np
import pytest

from celo.cli import main
from celo.data import CORPORA, DATASETS


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data folder of this test's own, and a terminal wide enough for a whole line."""
    monkeypatch.setenv("CELO_DATA_DIR", str(tmp_path / "data[1]"))
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path / "data[1]"


def lines(text):
    """First word of a line of the table -> the line."""
    rows = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    return {row.split()[0]: row for row in rows}


def test_every_set_and_corpus_is_listed_with_its_licence_and_whether_it_is_here(data_folder, capsys):
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert f"cache: {data_folder}" in text
    found = lines(text)
    assert set(found) == {*DATASETS, *CORPORA}
    for name, info in DATASETS.items():
        assert info.licence in found[name]
        assert f"{info.examples:,}" in found[name]
    assert found["digits"].endswith("no")


def test_what_has_been_fetched_is_listed_as_cached(data_folder, capsys):
    assert main(["data", "fetch", "digits"]) == 0
    assert capsys.readouterr().out == f"digits: {data_folder / 'digits.npz'}\n"
    assert main(["data", "list"]) == 0
    found = lines(capsys.readouterr().out)
    assert found["digits"].endswith("yes")
    assert found["mnist"].endswith("no")


def test_without_names_all_are_fetched_that_a_package_has(data_folder, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr("celo.data.fetch", lambda name, apt_update: fetched.append(name) or "there")
    assert main(["data", "fetch"]) == 0
    assert set(fetched) == set(DATASETS) - {"svhn", "cifar100"}
    assert "mnist: there" in capsys.readouterr().out.splitlines()


def test_a_name_that_is_not_known_is_refused_before_anything_is_fetched(data_folder, monkeypatch, capsys):
    monkeypatch.setattr("celo.data.fetch", lambda name, **_: pytest.fail(f"{name} was fetched"))
    assert main(["data", "fetch", "mnist", "wikipdia"]) == 2
    assert "unknown data set 'wikipdia'; known, nearest first: wikipedia" in capsys.readouterr().err


# Corpora of the user's own


def test_a_corpus_that_is_not_there_says_what_is_wanting(data_folder, capsys):
    assert main(["data", "fetch", "wikipedia"]) == 2
    assert "train.npy" in capsys.readouterr().err


def test_a_corpus_is_found_where_the_user_has_put_it(data_folder, capsys):
    folder = data_folder / "raw" / "lm1b"
    folder.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        np.save(folder / f"{part}.npy", np.arange(100))
    assert main(["data", "fetch", "lm1b"]) == 0
    assert capsys.readouterr().out == f"lm1b: {folder}\n"
    assert main(["data", "list"]) == 0
    found = lines(capsys.readouterr().out)
    assert found["lm1b"].endswith("yes")
    assert found["wikipedia"].endswith("no")
