"""A report as a folder: what is in it, of whom, and what happens where it cannot be written."""

import re

import pytest

from celo import __version__
from celo._errors import CeloError
from celo.evaluate._report import files, write
from celo.evaluate._report.tables import markdown
from celo.evaluate._report.write import write_report

pytest.importorskip("altair", reason="charts need Altair")
pytest.importorskip("vl_convert", reason="charts need vl-convert")


def test_a_report_is_tables_charts_and_a_page(tmp_path, small, drawn, monkeypatch):
    monkeypatch.setattr(files, "draw_all", lambda board: drawn)  # for seconds, once for all tests
    board = write_report(small[:2], tmp_path / "new" / "report", made_from="two archives")
    folder = tmp_path / "new" / "report"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    drawn = {path for path in found if path.startswith("figures")}
    assert found - drawn == {"leaderboard.md", "report.html", "scores.csv"}
    assert {path.rpartition(".")[2] for path in drawn} == {"png", "svg"}
    text = (folder / "leaderboard.md").read_text()
    assert text.startswith(markdown(board))
    assert re.search(r"Made by celo \S+.* from two archives\.$", text.strip())
    assert "from two archives." in (folder / "report.html").read_text()


def test_a_report_prints_nothing_and_says_what_is_wrong(tmp_path, small, undrawn, capsys):
    with pytest.raises(CeloError, match="no records to report on"):
        write_report([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CeloError, match="choose another folder for the report"):
        write_report(small, tmp_path / "file" / "report")
    assert capsys.readouterr() == ("", "")


def test_all_settings_reach_the_leaderboard_that_is_returned_and_written(tmp_path, small, undrawn):
    board = write_report(
        small,
        tmp_path,
        reference="muon",
        contestants=["celo"],
        tasks=["quadratic"],
        common=False,
        smoothing=0.5,
        loss="valid",
    )
    assert (board.reference, board.tasks, board.common) == ("muon", ("quadratic",), False)
    assert (board.smoothing, board.loss) == (0.5, "valid")
    assert {one.contestant for one in board.standings} == {"celo", "muon"}
    lines = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert {tuple(line.split(",")[:2]) for line in lines} == {("celo", "quadratic"), ("muon", "quadratic")}
    assert "validation loss" in (tmp_path / "leaderboard.md").read_text()


def test_a_report_says_which_version_made_it_and_of_which_commit(tmp_path, small, undrawn, monkeypatch):
    for source, words in (("0123abc", f"celo {__version__}, commit 0123abc"), (None, f"celo {__version__}")):
        monkeypatch.setattr(write, "commit", lambda source=source: source)
        write_report(small, tmp_path)
        for name in ("leaderboard.md", "report.html"):
            assert f"Made by {words}." in (tmp_path / name).read_text()


def test_a_report_in_the_place_of_an_older_one_replaces_it(tmp_path, small, undrawn):
    write_report(small, tmp_path)
    before = (tmp_path / "scores.csv").read_text()
    board = write_report(small, tmp_path, contestants=["celo"])
    assert (tmp_path / "scores.csv").read_text() != before
    assert (tmp_path / "leaderboard.md").read_text().startswith(markdown(board))


def test_without_altair_nothing_is_written(tmp_path, small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[plots\]'"):
        write_report(small, tmp_path / "report")
    assert not (tmp_path / "report").exists()
