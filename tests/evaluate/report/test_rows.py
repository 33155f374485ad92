"""The numbers that charts show, against the same worked out from records by hand."""

import dataclasses
import json

import numpy as np
import pytest
import synthetic

from celo.evaluate._report import rows
from celo.evaluate._score import metrics
from celo.evaluate._score.leaderboard import TAUS, leaderboard


def standing(board, name):
    return next(one for one in board.standings if one.contestant == name)


def row_of(found, name, kind="mean"):
    [row] = [row for row in found if row["contestant"] == name and row.get("kind", kind) == kind]
    return row


def board_of(smoothing=0.0, **losses):
    """A board of one task: contestant -> losses [seeds, evaluations] at steps 0, 20, 40, …"""
    made = []
    for name, values in losses.items():
        values = np.array(values)
        steps = 20 * (values.shape[1] - 1)
        record = synthetic.record("wine_mlp", "celo", seeds=len(values), num_steps=steps)
        made.append(
            dataclasses.replace(record, contestant=name, train_loss=values, valid_loss=values, metrics={})
        )
    return leaderboard(made, smoothing=smoothing)


# Numbers


def test_numbers_are_rounded_to_what_a_chart_can_show():
    assert rows.plain(0.123456) == 0.1235
    assert rows.plain(123456.0) == 123500
    assert rows.plain(np.float32(0.5), 1) == 0.5
    assert rows.plain([1.0, [2.5, np.inf]]) == [1, [2.5, None]]
    assert rows.plain(np.array([[-1e-7, np.nan]])) == [[-1e-7, None]]


def test_whole_numbers_are_written_short_and_only_as_long_as_they_are_exact():
    """So that 1.0 takes one letter of a page."""
    assert json.dumps(rows.plain([1.0, 2000.0, 0.0, -3.0])) == "[1, 2000, 0, -3]"
    assert isinstance(rows.plain(1e300), float)


# Curves


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


def test_long_curves_are_shown_at_41_points_of_which_the_ends_are_two():
    long, short = (synthetic.record("wine_mlp", "adam", num_steps=n, eval_every=1) for n in (1000, 30))
    steps = rows.curve_steps(leaderboard([long]), "wine_mlp")
    assert (len(steps), steps[0], steps[-1]) == (41, 0, 1000)
    assert set(np.diff(steps)) == {25}
    assert rows.curve_steps(leaderboard([short]), "wine_mlp") == list(range(31))


def test_a_mean_ends_where_one_of_its_seeds_does():
    board = board_of(adam=[[4.0, 2.0, 1.0]] * 2, lost=[[4.0, 2.0, 1.0], [4.0, 3.0, np.nan]])
    found = rows.curve_rows(board, "wine_mlp", "train")
    assert row_of(found, "lost")["value"] == [4, 2.5, None]
    assert row_of(found, "lost")["below"] == [0, 200, None]  # thousandths of the mean
    assert row_of(found, "lost")["above"] == [0, 200, None]
    cross = row_of(found, "lost", "lost")
    assert (cross["x"], cross["value"]) == ([20], [3])
    assert not [row for row in found if row["contestant"] == "adam" and row["kind"] == "lost"]


def test_one_seed_has_no_range_and_no_logarithm_shows_a_loss_of_zero():
    board = board_of(adam=[[4.0, 2.0, 1.0]], zero=[[4.0, 0.0, 1.0]])
    row = row_of(rows.curve_rows(board, "wine_mlp", "train"), "zero")
    assert row["value"] == [4, None, 1]
    assert (row["below"], row["above"]) == ([], [])


def test_the_other_loss_is_smoothed_as_the_one_compared(board):
    found = rows.curve_rows(board, "cifar10_conv", "valid")
    record = standing(board, "muon").entries["cifar10_conv"].record
    smoothed = np.zeros(3)
    for i, loss in enumerate(np.asarray(record.valid_loss, np.float64).T):
        smoothed = loss if i == 0 else board.smoothing * smoothed + (1 - board.smoothing) * loss
    assert row_of(found, "muon")["value"][-1] == pytest.approx(smoothed.mean(), rel=1e-3)


def test_the_axis_of_losses_is_from_the_lowest_to_the_start_and_a_little_more():
    curves = [{"kind": "mean", "value": [2, 1, None]}, {"kind": "mean", "value": [2, 2.7, 2.5, 0.5]}]
    low, high = rows.curve_range(curves)
    assert low == pytest.approx(0.5 / 1.08, rel=1e-3)
    assert high == pytest.approx(2.5 * 1.08, rel=1e-3)  # what is above 1.3 times the start does not count
    assert rows.curve_range([]) == pytest.approx((0.1 / 1.08, 1.08), rel=1e-3)
    flat = rows.curve_range([{"kind": "mean", "value": [1, 1]}])
    assert flat == pytest.approx((1 / 1.08, 2), rel=1e-3)


def test_what_flies_off_does_not_stretch_an_axis(board):
    some = next(row for row in rows.curve_rows(board, "cifar10_conv", "train"))
    high = rows.curve_range([some])[1]
    assert rows.curve_range([some, {**some, "value": [some["value"][0], 1e9]}])[1] == high


# Learning rates


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


def test_rates_early_stand_where_all_rates_do_and_the_others_where_they_were_tried(board):
    found = rows.rate_rows(board, "cifar10_conv")
    record = standing(board, "muon").entries["cifar10_conv"].record
    assert rows.tried_rates(board, "cifar10_conv") == sorted(record.rates.tolist())
    early, final, lost = (row_of(found, "muon", kind) for kind in ("early", "final", "lost"))
    assert "x" not in early
    np.testing.assert_allclose(
        [np.inf if x is None else x for x in early["value"]], record.rung_losses[0], rtol=1e-2
    )
    kept = np.isfinite(record.rung_losses[-1])
    np.testing.assert_allclose(final["x"], record.rates[kept], rtol=1e-3)
    np.testing.assert_allclose(final["value"], record.rung_losses[-1][kept], rtol=1e-3)
    np.testing.assert_allclose(lost["x"], record.rates[np.isinf(record.rung_losses[0])], rtol=1e-3)


def test_one_that_was_tuned_over_fewer_rates_says_over_which():
    full, short = (synthetic.record("wine_mlp", name) for name in ("adam", "muon"))
    some = [i for i, rate in enumerate(short.rates) if rate >= 1e-3]
    short = dataclasses.replace(short, rates=short.rates[some], rung_losses=short.rung_losses[:, some])
    board = leaderboard([full, short])
    early = row_of(rows.rate_rows(board, "wine_mlp"), "muon", "early")
    finite = np.isfinite(short.rung_losses[0])
    np.testing.assert_allclose(early["x"], short.rates[finite])
    assert len(early["value"]) == len(early["x"])


def test_the_axes_of_rates_hold_all_of_them_and_losses_up_to_twice_the_start(board):
    found = rows.rate_rows(board, "cifar10_conv")
    (left, right), (low, high) = rows.rate_range(board, "cifar10_conv", found)
    tried = rows.tried_rates(board, "cifar10_conv")
    assert left < tried[0] < 2 * left
    assert right / 2 < tried[-1] < right
    start = standing(board, "adam").entries["cifar10_conv"].record.train_loss[:, 0].mean()
    assert 0 < low < high <= 2.2 * start


def test_where_nobody_was_tuned_there_is_a_level_for_each():
    board = board_of(adam=[[4.0, 2.0]], other=[[4.0, 3.0]])
    found = rows.rate_rows(board, "wine_mlp")
    assert {(row["contestant"], row["kind"], *row["value"]) for row in found} == {
        ("adam", "level", 2),
        ("other", "level", 3),
    }
    assert rows.tried_rates(board, "wine_mlp") == []
    assert rows.rate_range(board, "wine_mlp", found)[0] == (6.25e-5, 1.6)


def test_one_that_was_not_tuned_is_a_level_whatever_its_rate():
    muon = synthetic.record("wine_mlp", "muon")
    fixed = dataclasses.replace(
        muon, contestant="muon@0.01", rates=np.zeros(0), rung_steps=np.zeros(0), rung_losses=np.zeros((0, 0))
    )
    found = rows.rate_rows(leaderboard([synthetic.record("wine_mlp", "adam"), fixed]), "wine_mlp")
    [row] = [row for row in found if row["contestant"] == "muon@0.01"]
    assert row["kind"] == "level"
    assert row["value"] == [pytest.approx(metrics.smooth(fixed.train_loss)[:, -1].mean(), rel=1e-3)]


# Scores


def test_profiles_are_shares_of_runs_by_their_score(board):
    for kind in ("ratio", "ratio_clock", "early", "speedup"):
        found = rows.profile_rows(board, kind)
        assert [row["contestant"] for row in found] == [one.contestant for one in board.standings]
        for row in found:
            entries = standing(board, row["contestant"]).entries.values()
            shares = [np.mean(getattr(one, kind)[:, None] >= TAUS[kind], axis=0) for one in entries]
            np.testing.assert_allclose(row["value"], np.mean(shares, axis=0), atol=2e-3)
            assert (np.array(row["low"]) <= np.array(row["value"]) + 1e-9).all()
            assert (np.array(row["high"]) >= np.array(row["value"]) - 1e-9).all()


def test_a_score_comes_with_its_words():
    board = board_of(adam=[[4.0, 2.0]], twice=[[4.0, 1.0]])
    row = row_of(rows.score_rows(board, "ratio"), "twice")
    assert (row["value"], row["text"]) == (2, "2.00")


def test_a_score_that_is_not_known_is_a_dash():
    records = [
        dataclasses.replace(synthetic.record("wine_mlp", name), seconds_per_step=np.nan)
        for name in ("celo", "adam")
    ]
    board = leaderboard(records)
    row = row_of(rows.score_rows(board, "clock"), "celo")
    assert (row["value"], row["text"], row["low"], row["high"]) == (None, "–", None, None)
    assert rows.cost_rows(board) == []


def test_the_axis_of_scores_holds_one_and_all_intervals_up_to_five():
    wide = [{"value": 2, "low": 0.5, "high": 7}, {"value": None, "low": None, "high": None}]
    assert rows.score_range(wide) == pytest.approx((0.5 - 0.27, 5 + 0.27))
    assert rows.score_range([{"value": 1, "low": 1, "high": 1}]) == pytest.approx((0.888, 1.112))


def test_scores_on_tasks_are_means_of_the_seeds():
    board = board_of(adam=[[4.0, 2.0]] * 2, other=[[4.0, 1.0], [4.0, 2.0]], never=[[4.0, 3.0]] * 2)
    ratios, speedups = (rows.task_rows(board, kind) for kind in ("ratio", "speedup"))
    assert row_of(ratios, "other")["value"] == [1.5]
    assert row_of(ratios, "other")["text"] == ["1.50"]
    assert row_of(ratios, "other")["task"] == ["wine_mlp"]
    assert row_of(speedups, "never")["text"] == ["never"]
    assert row_of(speedups, "never")["value"] == [0]


def test_costs_are_medians_over_tasks_in_steps_of_the_reference(board):
    found = {row["contestant"]: row["x"] for row in rows.cost_rows(board)}
    for name, cost in found.items():
        entries = standing(board, name).entries.values()
        each = [one.record.seconds_per_step / one.record.adam_seconds_per_step for one in entries]
        assert cost == pytest.approx(np.median(each), rel=1e-3)
    assert found["adam"] == 1


def test_the_axes_of_costs_hold_every_dot_and_interval():
    costs = [{"x": 1, "value": 1, "high": 1.1}, {"x": 3, "value": 2, "high": None}]
    assert rows.cost_range(costs) == ((pytest.approx(0.7), pytest.approx(3.3)), pytest.approx(2.16))
    assert rows.cost_range([]) == ((pytest.approx(0.85), pytest.approx(1.15)), pytest.approx(1.296))
