"""What charts show, and that Vega-Lite draws them; `test_browser` looks at them on the page."""

import re
import xml.etree.ElementTree

import numpy as np
import pytest

from celo._errors import CeloError
from celo._plotting import LIGHT
from celo.evaluate._report import figures

NAMES = ("celo", "adam", "muon", "momentum")


def svg_texts(data):
    root = xml.etree.ElementTree.fromstring(data)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", ["leaderboard", "profiles", "curves", "rates", "tasks", "clock"])
def test_a_figure_names_contestants_and_has_their_colours(drawn, name):
    texts = svg_texts(drawn[f"{name}.svg"])
    assert set(NAMES) <= set(texts)
    if name != "tasks":
        assert LIGHT.celo in drawn[f"{name}.svg"].decode()


def test_numbers_of_the_tasks_are_in_their_cells(drawn, board):
    texts = svg_texts(drawn["tasks.svg"])
    celo = next(one for one in board.standings if one.contestant == "celo")
    assert f"{celo.entries['cifar10_conv'].speedup.mean():.2f}" in texts


def test_names_beside_lines_do_not_cover_each_other(drawn):
    data = drawn["profiles.svg"].decode()
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


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[plots\]'"):
        figures.require_altair()
