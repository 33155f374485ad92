import csv
import dataclasses

import numpy as np
import pytest
import synthetic

from celo._plotting import Slot
from celo.evaluate._report.tables import (
    caption,
    cells,
    colours,
    duration,
    headline,
    loss_text,
    markdown,
    result_cells,
    score_text,
    scores_csv,
    task_cells,
)
from celo.evaluate._score import metrics
from celo.evaluate._score.leaderboard import leaderboard
from celo.evaluate._settings import ContestantFacts

TASKS, NAMES = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")


@pytest.fixture(scope="module")
def small():
    """Two tasks, four contestants; momentum has diverged on all seeds of one."""
    return [synthetic.record(task, name) for task in TASKS for name in NAMES]


@pytest.fixture(scope="module")
def board(small):
    return leaderboard(small)


@pytest.fixture(scope="module")
def alone(small):
    """A board of one task."""
    return leaderboard([one for one in small if one.task == "cifar10_conv"])


def standing(board, name):
    return next(one for one in board.standings if one.contestant == name)


def test_the_scores_are_a_table_of_every_run(board):
    header, *lines = scores_csv(board).splitlines()
    assert header == (
        "contestant,task,seed,final_loss,loss_ratio,equal_time_ratio,early_speedup,speedup,step_cost"
    )
    assert len(lines) == len(NAMES) * len(TASKS) * 3
    for name, task, seed, *told in csv.reader(lines):
        entry = standing(board, name).entries[task]
        here = entry.seeds.index(int(seed))
        ratios = entry.ratio[here], entry.ratio_clock[here]
        wanted = entry.smoothed[here, -1], *ratios, entry.early[here], entry.speedup[here], entry.cost
        np.testing.assert_allclose([float(x) for x in told], wanted, rtol=1e-5)


def test_markdown_has_headline_table_and_caption(board):
    text = markdown(board)
    header, rows = cells(board)
    for row in (header, *rows):
        assert f"| {' | '.join(row)} |" in text
    assert text.startswith(f"# {headline(board)}\n")
    assert caption(board) in text


def test_markdown_tells_the_ratio_on_each_task(board):
    header, rows = task_cells(board)
    assert header == ["task", "adam's loss", "muon", "celo", "momentum"]
    adam, muon = standing(board, "adam"), standing(board, "muon")
    for task, loss, ratio, *_ in rows:
        final = adam.entries[task].smoothed[:, -1].mean()
        assert loss == f"{final:.4g} at 1e-3"
        assert ratio == f"{muon.entries[task].ratio.mean():.3f}"
        assert f"| {task} | {loss} | {ratio} |" in markdown(board)


def test_results_of_a_task_are_the_entries_the_lowest_loss_first(board):
    header, rows = result_cells(board, "quadratic")
    assert header[:3] == ["contestant", "rate", "training loss"]
    assert rows[-1][:3] == ["momentum", "1e-1", "diverged [3 of 3]"]
    losses = [float(row[2]) for row in rows[:-1]]
    assert losses == sorted(losses)
    for name, _, loss, ratio, _, _, speedup, *_ in rows[:-1]:
        entry = standing(board, name).entries["quadratic"]
        assert float(loss) == pytest.approx(entry.final.mean(), rel=1e-3)
        assert ratio == f"{entry.ratio.mean():.2f}"
        assert speedup in (f"{entry.speedup.mean():.2f}", "never")


def test_one_task_shows_its_losses_and_no_ranks(alone):
    header, rows = cells(alone)
    assert header[:6] == ["#", "contestant", "rate", "training loss", "validation loss", "accuracy"]
    assert not {"rank", "P(better)", "target score", "over tasks"} & set(header)
    celo = next(row for row in rows if row[1] == "celo")
    record = standing(alone, "celo").entries["cifar10_conv"].record
    assert celo[2] == "–"
    assert celo[4] == f"{metrics.smooth(record.valid_loss, alone.smoothing)[:, -1].mean():.4g}"
    assert "## Loss ratio on each task" not in markdown(alone)
    assert "On cifar10_conv, 2,000 steps, 3 seeds." in caption(alone)
    assert "P(better)" not in caption(alone)
    assert "Over tasks" not in caption(alone)


def test_headline_names_the_best(board, small, alone):
    best = board.standings[0]
    assert best.contestant != "adam"
    ratio = best.scores["ratio_iqm"]
    assert headline(board).startswith(
        f"Over 2 tasks, {best.contestant}'s training loss ends {ratio.value:.2f}× below adam's"
    )
    assert headline(alone).startswith("On cifar10_conv, ")
    low, high = best.over_tasks[1:]
    assert f"over seeds, {low:.2f} to {high:.2f} over tasks)" in headline(board)
    assert "over tasks" not in headline(alone)
    behind = leaderboard(small, contestants=["momentum"])
    assert headline(behind) == "Over 2 tasks, nobody's training loss ends below adam's"
    assert "validation loss ends" in headline(leaderboard(small, loss="valid"))


def falling(name, losses, *, valid=None, seconds=1e-3, accuracy=None):
    """A record of one task, the same losses with every seed."""
    one = synthetic.record("wine_mlp", name, num_steps=100, eval_every=10)
    rows = np.tile(np.array(losses, np.float32), (3, 1))
    valid = rows if valid is None else np.tile(np.array(valid, np.float32), (3, 1))
    metrics = {} if accuracy is None else {"accuracy": np.full_like(rows, accuracy)}
    changes = {"train_loss": rows, "valid_loss": valid, "metrics": metrics, "seconds_per_step": seconds}
    return dataclasses.replace(one, adam_seconds_per_step=1e-3, **changes)


SLOW, FAST = np.linspace(2.0, 1.0, 11), np.maximum(np.linspace(2.0, 0.0, 11), 0.9)


def test_on_one_task_the_headline_is_steps_time_and_cost():
    def told(*records):
        return headline(leaderboard(records, smoothing=0.0))

    adam, celo = falling("adam", SLOW), falling("celo", FAST, seconds=3e-3)
    assert told(adam, celo) == (
        "On wine_mlp, celo reaches tuned adam's final training loss (1) in 50 steps instead of 100 and "
        "150 ms instead of 100 ms; a step costs 3.00 times adam's"
    )
    untimed = [dataclasses.replace(one, seconds_per_step=np.nan) for one in (adam, celo)]
    assert told(*untimed).endswith("in 50 steps instead of 100")
    behind = falling("celo", SLOW + 1, seconds=3e-3)
    assert told(adam, behind) == (
        "On wine_mlp, celo does not reach tuned adam's final training loss (1); "
        "a step costs 3.00 times adam's"
    )
    # Of several the best one, be the reference ahead of it or not.
    assert "muon does not reach" in told(adam, behind, falling("muon", SLOW + 0.1))
    assert told(adam) == "On wine_mlp, adam ran alone"
    assert "validation loss (1)" in headline(leaderboard([adam, celo], smoothing=0.0, loss="valid"))


def test_where_data_is_learned_by_heart_the_headline_is_of_other_data():
    """Celo ends far lower in training, where that says nothing, and behind in validation."""

    def told(**accuracies):
        adam = falling("adam", SLOW / 1e3, valid=SLOW / 10, accuracy=accuracies.get("adam"))
        celo = falling("celo", SLOW / 1e5, valid=SLOW / 8, accuracy=accuracies.get("celo"))
        return headline(leaderboard([adam, celo], smoothing=0.0))

    by_heart = "On wine_mlp, where the training data is learned by heart (training loss 0.001), celo's "
    accurate = told(adam=0.992, celo=0.987)
    assert accurate == f"{by_heart}validation accuracy ends at 98.7%, tuned adam's at 99.2%"
    assert told() == f"{by_heart}validation loss ends at 0.125, tuned adam's at 0.1"


def test_how_surely_each_is_ahead_is_a_column(board):
    header, rows = cells(board)
    column, over = header.index("P(ahead)"), header.index("over tasks")
    assert [row[column] for row in rows[:-1]] == [f"{one.ahead:.2f}" for one in board.standings[:-1]]
    assert rows[-1][column] == "–"
    ends = board.standings[0].over_tasks[1:]
    assert rows[0][over] == "{:.2f} to {:.2f}".format(*ends)


def test_a_score_at_equal_time_that_nobody_ran_for_is_a_dash(small):
    older = leaderboard([dataclasses.replace(one, equal_time=None) for one in small])
    header, rows = cells(older)
    column = header.index("equal-time ratio")
    assert {row[1]: row[column] for row in rows if row[1] != "adam"} == dict.fromkeys(
        ("celo", "muon", "momentum"), "–"
    )
    header, rows = result_cells(older, "cifar10_conv")
    assert {row[0]: row[header.index("equal-time ratio")] for row in rows if row[0] != "adam"} == (
        dict.fromkeys(("celo", "muon", "momentum"), "–")
    )


def test_the_caption_says_who_was_given_what(board, small):
    assert "Learned, with nothing to tune: celo. Learning rates of all others were tuned" in caption(board)
    facts = ContestantFacts(optimizer="made up", rate=0.01)
    fixed = [
        dataclasses.replace(
            one, contestant="muon@0.01", settings=dataclasses.replace(one.settings, contestant=facts)
        )
        for one in small
        if one.contestant == "muon"
    ]
    text = caption(leaderboard([*small, *fixed]))
    assert "At one learning rate on all tasks, the one behind an @: muon@0.01." in text
    nobody = caption(leaderboard([one for one in small if one.contestant in ("adam", "muon")]))
    assert "Learning rates were tuned on each task, on training losses." in nobody
    assert "@" not in nobody


def test_one_seed_is_shown_without_an_interval():
    board = leaderboard([synthetic.record("wine_mlp", name, seeds=1, num_steps=100) for name in NAMES])
    assert "interval" not in headline(board)
    assert "[" not in " ".join(cells(board)[1][0])
    assert "–" in cells(board)[1][0]  # nor how surely it is ahead
    assert " 1 seed." in caption(board)


def test_missing_records_are_said(small):
    fewer = [one for one in small if (one.task, one.contestant) != ("quadratic", "celo")]
    text = markdown(leaderboard(fewer))
    assert "set aside: quadratic (no record of celo)" in text
    assert "- celo has no record on quadratic" in text


def test_what_cannot_be_scored_is_said_with_its_reason(small):
    below = [
        dataclasses.replace(one, train_loss=one.train_loss - 3) if one.task == "quadratic" else one
        for one in small
    ]
    stray = dataclasses.replace(small[0], task="own", contestant="stray")
    text = markdown(leaderboard([*below, stray]))
    assert "set aside: own (no record of adam); quadratic (losses below 0 of celo, adam, muon, " in text
    assert "- stray is left out: no record beside adam's that can be scored" in text
    [row] = [line for line in text.splitlines() if line.startswith("| quadratic")]
    assert row.count("–") == 3
    assert "nan" not in text


def test_colours_are_those_of_reference_learned_and_others(board):
    found = colours(board)
    assert found["adam"] == Slot.REFERENCE
    assert found["celo"] == Slot.LEARNED
    assert {found["muon"], found["momentum"]} == {Slot.OTHER_1, Slot.OTHER_2}


def test_numbers_in_words():
    assert score_text("speedup", np.array([0.0, 0.0])) == "never"
    assert score_text("ratio", np.array([0.0, 0.0])) == "0.00"
    assert score_text("clock", np.array([1.0, np.nan])) == "–"
    assert loss_text(np.array([1.0, np.inf])) == "diverged [1 of 2]"
    assert [duration(x) for x in (2.5, 1.5e-3, 7.2e-5, np.nan)] == ["2.5 s", "1.5 ms", "72 µs", "–"]
