import csv
import dataclasses
import importlib.util
import io
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
import synthetic
from rich.console import Console

from celo._errors import CeloError
from celo.cli import main
from celo.evaluate import _records as archive
from celo.evaluate._report.figures import FIGURES
from celo.evaluate._report.page import as_json, page
from celo.evaluate._report.tables import (
    caption,
    cells,
    headline,
    markdown,
    scores_csv,
    show,
    task_cells,
    write_report,
)
from celo.evaluate._score import metrics
from celo.evaluate._score.leaderboard import leaderboard

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="figures need Matplotlib"
)
TASKS, NAMES = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")


@pytest.fixture(scope="module")
def small():
    """Two tasks, four contestants; momentum has diverged on all seeds of one."""
    return [synthetic.record(task, name) for task in TASKS for name in NAMES]


@pytest.fixture(scope="module")
def board(small):
    return leaderboard(small)


@pytest.fixture(scope="module")
def written(tmp_path_factory, small):
    """(folder, what was printed) of a report on two archives."""
    folder = tmp_path_factory.mktemp("report")
    for one in small:
        archive.write(folder / ("first" if one.contestant == "adam" else "second"), one)
    console = Console(width=200, record=True, file=io.StringIO())
    write_report([folder / "first", folder / "second"], folder / "out" / "new", console=console)
    return folder / "out" / "new", console.export_text()


@needs_matplotlib
def test_everything_is_written_and_nothing_else(written):
    folder, _ = written
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    drawn = [f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    assert found == sorted(["leaderboard.md", "report.html", "scores.csv", *drawn])


def test_the_scores_are_a_table_of_every_run(board):
    header, *lines = scores_csv(board).splitlines()
    assert header == "contestant,task,seed,final_loss,loss_ratio,ratio_in_time,speedup,step_cost"
    assert len(lines) == len(NAMES) * len(TASKS) * 3
    for name, task, seed, *told in csv.reader(lines):
        entry = next(one for one in board.standings if one.contestant == name).entries[task]
        here = entry.seeds.index(int(seed))
        ratios = entry.ratio[here], entry.ratio_clock[here]
        wanted = entry.smoothed[here, -1], *ratios, entry.speedup[here], entry.cost
        np.testing.assert_allclose([float(x) for x in told], wanted, rtol=1e-5)


@needs_matplotlib
def test_of_two_records_that_of_the_earlier_folder_counts(tmp_path, small):
    first, second = tmp_path / "first", tmp_path / "second"
    for one in small:
        archive.write(second, one)
    celo = next(one for one in small if one.contestant == "celo")
    archive.write(first, dataclasses.replace(celo, train_loss=celo.train_loss / 4))
    board = write_report([first, second], tmp_path / "out", console=Console(file=io.StringIO()))
    entry = next(one for one in board.standings if one.contestant == "celo").entries[celo.task]
    np.testing.assert_array_equal(entry.record.train_loss, celo.train_loss / 4)


@needs_matplotlib
def test_figures_are_what_their_names_say(written):
    folder, _ = written
    for path in (folder / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in (folder / "figures").glob("*.svg"):
        assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")


@needs_matplotlib
def test_markdown_and_terminal_show_the_same_table(written, board):
    folder, printed = written
    text = (folder / "leaderboard.md").read_text()
    assert text.startswith(markdown(board))
    assert re.search(r"Made by celo \S+.* from \S+first and \S+second\.", text)
    header, rows = cells(board)
    for row in (header, *rows):
        assert f"| {' | '.join(row)} |" in text
        line = next(line for line in printed.splitlines() if f" {row[1]} " in f" {line} " and row[2] in line)
        assert [cell for cell in re.split(r"\s{2,}", line.strip()) if cell][-1] == row[-1]
    assert headline(board) in text
    assert caption(board) in text


def test_markdown_tells_the_ratio_on_each_task(board):
    header, rows = task_cells(board)
    assert header == ["task", "adam's loss", "muon", "celo", "momentum"]
    adam, muon = (next(one for one in board.standings if one.contestant == name) for name in ("adam", "muon"))
    for task, loss, ratio, *_ in rows:
        final = adam.entries[task].smoothed[:, -1].mean()
        assert loss == f"{final:.4g} at 1e-3"
        assert ratio == f"{muon.entries[task].ratio.mean():.3f}"
        assert f"| {task} | {loss} | {ratio} |" in markdown(board)


@pytest.mark.parametrize(("width", "columns"), [(80, 6), (100, 7), (180, 11)])
def test_a_narrow_terminal_gets_fewer_columns_of_whole_cells(board, width, columns):
    console = Console(width=width, record=True, file=io.StringIO())
    show(board, console)
    header, rows = cells(board)
    lines = console.export_text().splitlines()
    for row in rows:
        line = next(line for line in lines if line.strip().startswith(f"{row[0]}  {row[1]}"))
        assert len(re.split(r"\s{2,}", line.strip())) == columns
        assert line.strip().endswith(row[-1])
    assert len(header) == 11


@needs_matplotlib
def test_names_of_many_points_do_not_cover_each_other():
    figure = FIGURES["clock"](leaderboard(synthetic.crowd(40)))
    figure.savefig(io.BytesIO())  # a layout that finds no room warns
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 8
    assert not any(one.count_overlaps(boxes[:i]) for i, one in enumerate(boxes))


@needs_matplotlib
def test_figures_say_which_losses_they_show(small):
    board = leaderboard(small, loss="valid")
    assert "validation loss ends" in headline(board)
    assert FIGURES["curves"](board).get_supylabel() == "validation loss"
    rates = FIGURES["rates"](board)
    assert rates.get_supylabel() == "training loss"  # what they are tuned on
    final = next(one for one in board.standings if one.learned).entries[TASKS[0]].record.train_loss
    level = [line.get_ydata()[0] for line in rates.axes[0].lines if len(set(line.get_ydata())) == 1]
    assert any(np.isclose(level, metrics.smooth(final)[:, -1].mean()))


def test_headline_names_the_best(board, small):
    best = board.standings[0]
    assert best.contestant != "adam"
    ratio = best.scores["ratio_iqm"]
    assert f"{best.contestant}'s training loss ends {ratio.value:.2f}× below adam's" in headline(board)
    alone = leaderboard(small, contestants=["momentum"])
    assert headline(alone) == "Over 2 tasks, nobody's training loss ends below adam's"


def test_one_seed_is_shown_without_an_interval():
    board = leaderboard([synthetic.record("wine_mlp", name, seeds=1, num_steps=100) for name in NAMES])
    assert "interval" not in headline(board)
    assert "[" not in " ".join(cells(board)[1][0])
    assert "Over 1 task," in headline(board)
    assert " 1 seed." in caption(board)


def test_missing_records_are_said(small):
    fewer = [one for one in small if (one.task, one.contestant) != ("quadratic", "celo")]
    text = markdown(leaderboard(fewer))
    assert "set aside: quadratic (no record of celo)" in text
    assert "- celo has no record on quadratic" in text


def test_the_page_needs_no_other_file(board):
    text = page(board, headline(board), caption(board))
    assert "http" not in text
    assert "@@" not in text
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", text)


def test_the_page_holds_every_number_and_its_configuration(board, small):
    text = page(board, headline(board), caption(board))
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found)
    assert data == as_json(board)
    for record in small:
        [one] = [one for one in data["standings"] if one["name"] == record.contestant]
        entry = one["entries"][record.task]
        assert entry["config"] == json.loads(json.dumps(record.config))
        assert entry["rate"] == record.rate
        assert len(entry["train"]) == len(record.train_loss)
    [momentum] = [one for one in data["standings"] if one["name"] == "momentum"]
    assert momentum["entries"]["quadratic"]["train"][0][-1] is None


def test_a_name_cannot_break_the_page(small):
    evil = "</script><script>alert(1)</script>"
    records = [
        type(one)(**{**vars(one), "contestant": evil}) if one.contestant == "muon" else one for one in small
    ]
    board = leaderboard(records)
    text = page(board, headline(board), caption(board))
    assert "alert(1)</script>" not in text
    assert text.count("</script>") == 2


def test_nor_can_one_that_opens_a_comment_or_is_a_placeholder(small):
    names = {"muon": "<!--<script>", "celo": "@@DATA@@"}
    records = [
        dataclasses.replace(one, contestant=names.get(one.contestant, one.contestant)) for one in small
    ]
    board = leaderboard(records)
    text = page(board, "@@DATA@@", caption(board))
    assert "<!--" not in text
    assert "<h1>@@DATA@@</h1>" in text
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(found) == as_json(board)


@needs_matplotlib
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("celo.evaluate._report.figures.draw_all", lambda board: {"one.png": b"drawn"})
    for name in ("adam", "celo"):
        archive.write(tmp_path / "records", synthetic.record("wine_mlp", name, num_steps=100))
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "records"), "--out", str(out), "--reference", "celo"]
    assert main([*command, "--smoothing", "0.95"]) == 0
    text = (out / "leaderboard.md").read_text()
    assert "celo's final loss" in text
    assert "decay 0.95" in text
    assert (out / "figures" / "one.png").read_bytes() == b"drawn"
    assert "report.html" in capsys.readouterr().out


@needs_matplotlib
def test_what_cannot_be_read_or_written_is_said(tmp_path, small):
    with pytest.raises(CeloError, match=r"nowhere: no such folder.*celo evaluate"):
        write_report([tmp_path / "nowhere"], tmp_path, console=Console(quiet=True))
    with pytest.raises(CeloError, match="no records to report on"):
        write_report([tmp_path], tmp_path, console=Console(quiet=True))


def test_missing_matplotlib_is_told_first(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[plots\]'"):
        write_report([tmp_path / "nowhere"], tmp_path, console=Console(quiet=True))
