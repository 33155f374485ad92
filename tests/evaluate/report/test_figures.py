"""What charts show, and that Vega-Lite draws them; `test_browser` looks at them on the page."""

import dataclasses
import re
import xml.etree.ElementTree

import numpy as np
import pytest
import synthetic

from celo._errors import CeloError
from celo._plotting import LIGHT
from celo.evaluate._report import figures, files, rows
from celo.evaluate._score import metrics
from celo.evaluate._score.leaderboard import leaderboard

pytest.importorskip("altair", reason="charts need Altair")
pytest.importorskip("vl_convert", reason="charts need vl-convert")
TASKS, NAMES = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")


@pytest.fixture(scope="module")
def board():
    return leaderboard([synthetic.record(task, name) for task in TASKS for name in NAMES])


@pytest.fixture(scope="module")
def drawn(board):
    return files.draw_all(board)


def svg_texts(data):
    root = xml.etree.ElementTree.fromstring(data)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_every_figure_is_a_png_and_an_svg(drawn):
    assert set(drawn) == {f"{name}.{kind}" for name in files.FIGURES for kind in ("png", "svg")}
    for name, data in drawn.items():
        if name.endswith("png"):
            assert data.startswith(b"\x89PNG")
        else:
            assert xml.etree.ElementTree.fromstring(data).tag.endswith("svg")


@pytest.mark.parametrize("name", ["leaderboard", "profiles", "curves", "rates", "tasks", "clock"])
def test_a_figure_names_contestants_and_has_their_colours(drawn, name):
    texts = svg_texts(drawn[f"{name}.svg"])
    assert set(NAMES) <= set(texts)
    if name != "tasks":
        assert LIGHT.celo in drawn[f"{name}.svg"].decode()


def test_figures_say_which_losses_they_show(drawn):
    valid = leaderboard([synthetic.record("quadratic", name) for name in NAMES], loss="valid")
    assert "training loss against steps" in svg_texts(drawn["curves.svg"])
    others = files.draw_all(valid)
    assert "validation loss against steps" in svg_texts(others["curves.svg"])
    # Rates were tuned on the training loss.
    assert any(text and text.startswith("training loss") for text in svg_texts(others["rates.svg"]))


def test_numbers_of_the_tasks_are_in_their_cells(drawn, board):
    texts = svg_texts(drawn["tasks.svg"])
    celo = next(one for one in board.standings if one.contestant == "celo")
    assert f"{celo.entries['cifar10_conv'].speedup.mean():.2f}" in texts


def test_names_beside_lines_do_not_cover_each_other(board):
    data = files.draw_all(board)["profiles.svg"].decode()
    places = [
        (float(x), float(y))
        for x, y, name in re.findall(r'transform="translate\(([\d.]+),([\d.]+)\)"[^>]*>([a-z]+)</text>', data)
        if name in NAMES
    ]
    count = len(NAMES)
    assert len(places) == 3 * count
    for chart in (places[:count], places[count : 2 * count], places[2 * count :]):
        heights = sorted(y for _, y in chart)
        assert min(np.diff(heights)) >= 13


def test_a_curve_is_the_mean_of_the_seeds_within_its_range(board):
    found = {
        row["contestant"]: row
        for row in rows.curve_rows(board, "cifar10_conv", "train")
        if row["kind"] == "mean"
    }
    steps = rows.curve_steps(board, "cifar10_conv")
    for one in board.standings:
        entry, row = one.entries["cifar10_conv"], found[one.contestant]
        here = np.isin(entry.record.steps, steps)
        smoothed = entry.smoothed[:, here]
        np.testing.assert_allclose(row["value"], smoothed.mean(axis=0), rtol=1e-3)
        low = np.array(row["value"]) * (1 - np.array(row["below"]) / 1000)
        np.testing.assert_allclose(low, smoothed.min(axis=0), rtol=2e-3)
        high = np.array(row["value"]) * (1 + np.array(row["above"]) / 1000)
        np.testing.assert_allclose(high, smoothed.max(axis=0), rtol=2e-3)
    assert (steps[0], steps[-1]) == (0, 2000)


def test_a_cross_stands_where_a_seed_was_last_finite(board):
    [row] = [row for row in rows.curve_rows(board, "quadratic", "train") if row["kind"] == "lost"]
    record = next(one for one in board.standings if one.contestant == "momentum").entries["quadratic"].record
    assert row["contestant"] == "momentum"
    ends = [record.steps[np.flatnonzero(np.isfinite(seed))[-1]] for seed in record.train_loss]
    assert row["x"] == ends


def test_rates_show_every_trial_and_what_was_chosen(board):
    found = rows.rate_rows(board, "cifar10_conv")
    kinds = {(row["contestant"], row["kind"]) for row in found}
    assert {("adam", kind) for kind in ("early", "final", "chosen", "lost")} < kinds
    assert {kind for name, kind in kinds if name == "celo"} == {"level"}
    [chosen] = [row["x"] for row in found if (row["contestant"], row["kind"]) == ("adam", "chosen")]
    assert chosen == [1e-3]
    [level] = [row["value"] for row in found if row["kind"] == "level"]
    celo = next(one for one in board.standings if one.contestant == "celo").entries["cifar10_conv"].record
    assert level == [pytest.approx(metrics.smooth(celo.train_loss, board.smoothing)[:, -1].mean(), rel=1e-3)]


def test_what_flies_off_does_not_stretch_an_axis(board):
    some = next(row for row in rows.curve_rows(board, "cifar10_conv", "train"))
    high = rows.curve_range([some])[1]
    assert rows.curve_range([some, {**some, "value": [some["value"][0], 1e9]}])[1] == high


def test_nothing_to_show_is_drawn_all_the_same():
    record = synthetic.record("wine_mlp", "celo", seeds=1, num_steps=40)
    names = {"adam": [[2.0, 1.0, 0.0]], "zero": [[2.0, 0.0, 0.0]], "lost": [[np.nan] * 3]}
    records = [
        dataclasses.replace(
            record,
            contestant=name,
            train_loss=np.array(losses),
            valid_loss=np.array(losses),
            metrics={},
            seconds_per_step=np.nan,
        )
        for name, losses in names.items()
    ]
    assert files.draw_all(leaderboard(records, smoothing=0.0))


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[plots\]'"):
        figures.require_altair()
