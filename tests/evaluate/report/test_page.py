import dataclasses
import html
import json
import re

import numpy as np
import pytest
import synthetic

from celo.evaluate._report.page import as_json, page
from celo.evaluate._report.tables import caption, cells, headline
from celo.evaluate._score.leaderboard import leaderboard

pytest.importorskip("altair", reason="charts need Altair")
pytest.importorskip("vl_convert", reason="charts need vl-convert")
TASKS, NAMES = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")


@pytest.fixture(scope="module")
def board(small):
    return leaderboard(small)


def page_of(board):
    return page(board, headline(board), caption(board))


@pytest.fixture(scope="module")
def text(board):
    return page_of(board)


def data_of(text):
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def renamed(records, names):
    return [dataclasses.replace(one, contestant=names.get(one.contestant, one.contestant)) for one in records]


def test_the_page_needs_no_other_file(text):
    assert "@@" not in text
    own = re.sub(
        r"(?s)<script>.*?</script>", "", text
    )  # Vega names its home page; a browser test sees no request
    assert not re.findall(r"https?://(?!vega\.github\.io/schema|www\.w3\.org)", own)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", own)
    assert "default-src 'none'" in text


def test_the_page_shows_the_numbers_of_the_table(board, text):
    text = html.unescape(re.sub(r"<(?!button)[^>]*>", " ", text))
    header, rows = cells(board)
    for title in header:
        assert f">{title} " in text
    for row in rows:
        for cell in row[2:]:
            assert " ".join(cell.split()) in " ".join(text.split())


def test_every_record_and_its_settings_are_behind_the_numbers(board, small, text):
    data = data_of(text)
    assert data == json.loads(json.dumps(as_json(board)))
    for record in small:
        found = data["records"][record.contestant][record.task]
        facts = dict(zip(data["facts"], found["facts"], strict=True))
        assert facts["learning rate"] == (
            "–" if record.rate is None else f"{record.rate:.0e}".replace("e-0", "e-")
        )
        assert facts["seeds"] == "0, 1, 2"
        settings = dict(data["settings"][i] for i in found["config"])
        assert settings == json.loads(json.dumps(record.facts()))
    lost = data["records"]["momentum"]["quadratic"]["facts"]
    assert "–, –, –" in lost


def test_settings_that_records_share_are_there_once(board):
    settings = as_json(board)["settings"]
    assert len({json.dumps(one) for one in settings}) == len(settings)
    assert len(settings) < 4 * len(TASKS) * len(NAMES)


EVIL = ["</script><script>alert(1)</script>", "<!--<script>", "a\"'&<b>", "@@DATA@@", "  "]


@pytest.mark.parametrize("names", [EVIL, *(pytest.param([name], marks=pytest.mark.slow) for name in EVIL)])
def test_a_name_cannot_break_the_page(small, names):
    muon = [one for one in small if one.contestant == "muon"]
    board = leaderboard([*small, *(one for evil in names for one in renamed(muon, {"muon": evil}))])
    text = page_of(board)
    assert "alert(1)</script>" not in text
    assert text.count("</script>") == 3
    body = text[text.index("<body") : text.index("<noscript>")]
    assert "<!--" not in body
    assert "<b>" not in body
    assert data_of(text) == json.loads(json.dumps(as_json(board)))
    assert set(names) <= set(data_of(text)["order"])


def test_one_task_comes_with_its_curves_first(small, text):
    board = leaderboard([one for one in small if one.task == "cifar10_conv"])
    several, one = (re.findall(r'<section id="(\w+)"', each) for each in (text, page_of(board)))
    assert several == ["leaderboard", "task", "profiles", "tasks", "clock", "diverged", "method"]
    assert one == ["task", "leaderboard", "clock", "diverged", "method"]


def test_diverged_runs_are_listed(text):
    lost = text[text.index('id="lost-runs"') :]
    assert "momentum" in lost[: lost.index("</table>")]
    assert "seed 0 by step" in lost[: lost.index("</table>")]
    assert 'id="lost-trials"' in text


@pytest.mark.slow
def test_a_large_archive_makes_a_page_of_three_megabytes():
    crowd = synthetic.crowd(42)
    records = [dataclasses.replace(one, task=f"task_{i}") for i in range(20) for one in crowd]
    for one in records:
        assert one.train_loss.shape == crowd[0].train_loss.shape
    assert len(page_of(leaderboard(records)).encode()) < 3.2e6


def test_what_is_not_a_number_is_no_error():
    record = synthetic.record("wine_mlp", "celo", seeds=1, num_steps=40)
    losses = {"adam": [[2.0, 1.0, 0.0]], "zero": [[2.0, 0.0, 0.0]], "lost": [[np.nan] * 3]}
    changes = {"metrics": {}, "seconds_per_step": np.nan}
    records = [
        dataclasses.replace(
            record, contestant=name, train_loss=np.array(x), valid_loss=np.array(x), **changes
        )
        for name, x in losses.items()
    ]
    assert "NaN" not in json.dumps(as_json(leaderboard(records, smoothing=0.0)))


def test_a_task_that_is_set_aside_is_shown_with_its_reason(small):
    below = [
        dataclasses.replace(one, train_loss=one.train_loss - 3) if one.task == "quadratic" else one
        for one in small
    ]
    text = page_of(leaderboard(below))
    assert "quadratic is set aside: losses below 0 of celo, adam, muon, momentum, whose ratios" in text
    assert '"quadratic"' in text  # its curves can be looked at all the same
