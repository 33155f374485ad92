"""Charts as files: which there are, what they are of, and that nothing in the numbers stops them."""

import dataclasses
import struct
import xml.etree.ElementTree

import numpy as np
import pytest
import synthetic

from celo._errors import CeloError
from celo._plotting import LIGHT
from celo.evaluate._report import files
from celo.evaluate._score.leaderboard import leaderboard

pytest.importorskip("altair", reason="charts need Altair")
pytest.importorskip("vl_convert", reason="charts need vl-convert")
NAMES = ("celo", "adam", "muon", "momentum")
SVG = "{http://www.w3.org/2000/svg}"


def svg_texts(data):
    root = xml.etree.ElementTree.fromstring(data)
    return [element.text for element in root.iter(f"{SVG}text")]


def test_every_figure_is_a_png_and_an_svg_of_which_the_png_is_twice_the_size(drawn):
    assert set(drawn) == {f"{name}.{kind}" for name in files.FIGURES for kind in ("png", "svg")}
    for name in files.FIGURES:
        png, root = drawn[f"{name}.png"], xml.etree.ElementTree.fromstring(drawn[f"{name}.svg"])
        assert png.startswith(b"\x89PNG")
        assert root.tag == f"{SVG}svg"
        size = struct.unpack(">II", png[16:24])
        np.testing.assert_allclose(size, [2 * float(root.get(side)) for side in ("width", "height")], atol=2)


@pytest.mark.slow
def test_figures_say_which_losses_they_show(drawn, monkeypatch):
    valid = leaderboard([synthetic.record("quadratic", name) for name in NAMES], loss="valid")
    assert "training loss against steps" in svg_texts(drawn["curves.svg"])
    monkeypatch.setattr(files, "FIGURES", {name: files.FIGURES[name] for name in ("curves", "rates")})
    others = files.draw_all(valid)
    assert "validation loss against steps" in svg_texts(others["curves.svg"])
    # Rates were tuned on the training loss.
    assert any(text and text.startswith("training loss") for text in svg_texts(others["rates.svg"]))


def test_figures_over_tasks_name_each_of_them_and_are_on_white(drawn, board):
    for name in ("curves", "rates", "tasks"):
        assert set(board.tasks) <= set(svg_texts(drawn[f"{name}.svg"]))
    for name in files.FIGURES:
        assert f'fill="{LIGHT.paper}"' in drawn[f"{name}.svg"].decode()


@pytest.mark.slow
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


def test_without_the_libraries_it_says_what_to_install(board, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[plots\]'"):
        files.draw_all(board)
