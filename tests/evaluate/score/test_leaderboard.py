import dataclasses

import numpy as np
import pytest
import synthetic
from marks import slow_but

from celo._errors import CeloError
from celo.evaluate._records import EqualTime, Record, load_records, write_record
from celo.evaluate._score import aggregate, metrics
from celo.evaluate._score.leaderboard import TAUS, leaderboard
from celo.evaluate._settings import ContestantFacts, Kind, Protocol, Provenance, Settings, TaskSettings


def made(task, contestant, train_loss, *, seconds=1.0, rate=1e-3, in_time=None, **protocol):
    """A record of known losses [S, E], evaluated every step; those in the time of Adam's end at `in_time`."""
    train_loss = np.array(train_loss, np.float32)
    none = np.zeros(0)
    protocol = Protocol(**{"seeds": tuple(range(len(train_loss))), **protocol})
    facts = ContestantFacts(weights_sha256="0") if rate is None else ContestantFacts(optimizer=contestant)
    last = train_loss.shape[1] - 1
    runs = None
    if in_time is not None:
        ends = np.array(in_time, np.float32)[:, None]
        runs = EqualTime(np.array([0, 1]), np.concatenate([train_loss[:, :1], ends], axis=1), ends)
    return Record(
        task=task,
        contestant=contestant,
        rate=rate,
        steps=np.arange(train_loss.shape[1]),
        train_loss=train_loss,
        valid_loss=train_loss,
        metrics={},
        rates=none,
        rung_steps=none,
        rung_losses=np.zeros((0, 0)),
        seconds_per_step=seconds,
        adam_seconds_per_step=1.0,
        settings=Settings(TaskSettings(task, last, 1), protocol, facts, None),
        provenance=Provenance(),
        equal_time=runs,
    )


@pytest.fixture
def known():
    """Without smoothing: `twice` ends at half of Adam's loss, reaches Adam's in half the steps, costs 4.

    In the time of Adam's run `twice` ends at 6 and 12, beside Adam's 4 and 8; `lost` is lost once more.
    """
    adam = [[8.0, 6.0, 5.0, 4.5, 4.0], [16.0, 12.0, 10.0, 9.0, 8.0]]
    twice = [[8.0, 6.0, 4.0, 3.0, 2.0], [16.0, 12.0, 8.0, 6.0, 4.0]]
    lost = [[8.0, np.nan, np.nan, np.nan, np.nan], [16.0, 16.0, 16.0, 16.0, 16.0]]
    return [
        *(made(task, "adam", adam) for task in ("one", "two")),
        *(made(task, "twice", twice, seconds=4.0, rate=None, in_time=[6.0, 12.0]) for task in ("one", "two")),
        *(made(task, "lost", lost, in_time=[np.nan, 16.0]) for task in ("one", "two")),
    ]


def scores(board, name, key):
    return next(one for one in board.standings if one.contestant == name).scores[key].value


def test_known_answers(known):
    board = leaderboard(known, smoothing=0.0)
    assert [one.contestant for one in board.standings] == ["twice", "adam", "lost"]
    assert [one.learned for one in board.standings] == [True, False, False]
    wanted = {
        "adam": {"ratio_iqm": 1, "speedup_iqm": 1, "clock_iqm": 1, "improvement": 0.5, "rank": 2},
        "twice": {"ratio_iqm": 2, "speedup_iqm": 2, "clock_iqm": 0.5, "improvement": 0.875, "rank": 1},
        "lost": {"ratio_iqm": 0.25, "speedup_iqm": 0, "improvement": 0, "rank": 3, "ratio_gap": 0.75},
    }
    wanted["adam"] |= {"algoperf": 2 / 3, "algoperf_clock": 1}
    # Half the steps at four times the cost.
    wanted["twice"] |= {"algoperf": 1, "algoperf_clock": 2 / 3}
    # Halfway down on a log scale is 5.66 and 11.31: Adam is there after 1.34 steps, `twice` after 1.17.
    wanted["adam"] |= {"early_iqm": 1}
    halfway = 8 * np.sqrt(0.5)
    wanted["twice"] |= {"early_iqm": (1 + 6 - halfway) / (1 + (6 - halfway) / 2)}
    wanted["lost"] |= {"early_iqm": 0}
    wanted["twice"] |= {"ratio_clock_iqm": 2 / 3, "ratio_gap_clock": 1 / 3, "improvement_clock": 0.25}
    wanted["twice"] |= {"rank_clock": 2}
    wanted["adam"] |= {"ratio_clock_iqm": 1, "improvement_clock": 0.5, "rank_clock": 1}
    wanted["lost"] |= {"algoperf": 0, "ratio_clock_iqm": 0.25, "rank_clock": 3}
    for name, known_scores in wanted.items():
        for key, value in known_scores.items():
            assert scores(board, name, key) == pytest.approx(value), (name, key)
    lost = board.standings[-1]
    assert (lost.diverged, lost.runs, board.standings[0].cost) == (2, 4, 4.0)


def test_profiles_are_of_the_same_scores(known):
    board = leaderboard(known, smoothing=0.0)
    for one in board.standings:
        rows = [one.entries[task].ratio for task in board.counted]
        np.testing.assert_array_equal(one.profiles["ratio"].value, aggregate.profile(rows, TAUS["ratio"]))
    assert [one.profiles["target"].value[-1] for one in board.standings] == [1, 1, 0]


def test_units_of_loss_and_order_of_records_do_not_matter(known):
    scaled = [
        dataclasses.replace(record, train_loss=record.train_loss * (1024.0 if record.task == "two" else 1.0))
        for record in reversed(known)
    ]
    one, other = leaderboard(known), leaderboard(scaled)
    for name in ("adam", "twice", "lost"):
        for key in ("ratio_iqm", "speedup_iqm", "clock_mean", "rank", "algoperf"):
            assert scores(one, name, key) == pytest.approx(scores(other, name, key))


def test_curves_are_smoothed_as_asked(known):
    entry = leaderboard(known, smoothing=0.5).standings[0].entries["one"]
    np.testing.assert_array_equal(entry.smoothed, metrics.smooth(entry.record.train_loss, 0.5))


def test_tasks_that_some_lack_are_set_aside_unless_asked_otherwise(known):
    fewer = [record for record in known if (record.task, record.contestant) != ("two", "lost")]
    board = leaderboard(fewer)
    assert (board.tasks, board.counted) == (("one", "two"), ("one",))
    assert board.set_aside == {"two": "no record of lost"}
    assert all(one.counted == ("one",) for one in board.standings)
    assert set(board.standings[0].entries) == {"one", "two"}
    every = leaderboard(fewer, common=False)
    assert [one.counted for one in every.standings] == [("one", "two"), ("one", "two"), ("one",)]
    assert leaderboard(fewer, contestants=["twice"]).counted == ("one", "two")


def test_a_task_on_which_the_reference_diverged_counts_for_nobody(known):
    board = leaderboard([*known, made("three", "adam", [[1.0, np.nan, 1, 1, 1], [1.0] * 5])])
    assert board.set_aside["three"] == "adam diverged"
    assert board.counted == ("one", "two")
    every = leaderboard([*known, made("three", "adam", [[1.0, np.nan, 1, 1, 1], [1.0] * 5])], common=False)
    assert all(one.counted == ("one", "two") for one in every.standings)


def test_a_task_of_which_smoothing_shows_the_start_is_set_aside(known):
    """A loss that falls by many powers of ten: its average is still made of the first value."""
    steep = [[1e6, 10.0, 1.0, 0.1, 0.01], [1e6, 10.0, 1.0, 0.1, 0.01]]
    level = [[4.0, 4.0, 4.0, 4.0, 3.9], [8.0, 8.0, 8.0, 8.0, 7.9]]
    records = [made("steep", "adam", steep), made("level", "adam", level)]
    board = leaderboard(records, smoothing=0.8)
    assert board.counted == ("level",)
    assert board.too_short == ("steep",)
    assert board.set_aside["steep"].startswith("100% of adam's smoothed final loss is the loss at the start")
    assert leaderboard(records, smoothing=0.8, common=False).standings[0].counted == ("level",)
    assert leaderboard(records, smoothing=0.0).counted == ("level", "steep")
    alone = leaderboard(records[:1], smoothing=0.8)  # better than nothing
    assert (alone.counted, alone.too_short) == (("steep",), ("steep",))


def test_adams_own_step_costs_what_it_costs(known):
    """It is the same program as the one timed beside it, whatever the clock said."""
    slow = [dataclasses.replace(r, seconds_per_step=2.0) if r.contestant == "adam" else r for r in known]
    for name in ("adam", "twice", "lost"):
        assert scores(leaderboard(slow), name, "clock_iqm") == scores(leaderboard(known), name, "clock_iqm")


def test_tasks_without_the_reference_are_said(known):
    board = leaderboard([*known, made("own", "twice", [[1.0] * 5])])
    assert board.set_aside == {"own": "no record of adam"}


def test_another_reference(known):
    board = leaderboard(known, reference="twice", smoothing=0.0)
    assert scores(board, "adam", "ratio_iqm") == 0.5
    assert scores(board, "twice", "speedup_iqm") == 1.0
    assert next(one for one in board.standings if one.contestant == "adam").cost == 0.25


def without(records, name, **changes):
    """The records, those of one contestant changed."""
    return [dataclasses.replace(one, **changes) if one.contestant == name else one for one in records]


def test_unknown_step_times_spoil_no_other_score(known):
    board = leaderboard(without(known, "lost", seconds_per_step=np.nan), smoothing=0.0)
    for key in ("clock_iqm", "algoperf_clock"):
        assert np.isnan(scores(board, "lost", key)), key
    assert np.isnan(standing(board, "lost").profiles["target_clock"].value).all()
    assert scores(board, "lost", "ratio_iqm") == pytest.approx(0.25)
    assert scores(board, "adam", "algoperf_clock") == 1.0


def test_who_did_not_run_in_the_time_of_adams_has_no_score_at_equal_time(known):
    """As in older archives: unknown, and not that of a run cut off half-way through its schedule."""
    board = leaderboard(without(known, "lost", equal_time=None), smoothing=0.0)
    for key in ("ratio_clock_iqm", "ratio_gap_clock", "improvement_clock", "rank_clock"):
        assert np.isnan(scores(board, "lost", key)), key
    assert np.isnan(standing(board, "lost").profiles["ratio_clock"].value).all()
    assert scores(board, "twice", "ratio_clock_iqm") == pytest.approx(2 / 3)
    assert scores(board, "twice", "rank_clock") == 2
    assert scores(board, "lost", "clock_iqm") == 0


def test_at_equal_time_another_reference_has_the_time_of_adams_too(known):
    board = leaderboard(known, reference="twice", smoothing=0.0)
    assert scores(board, "adam", "ratio_clock_iqm") == pytest.approx(3 / 2)
    assert scores(board, "twice", "ratio_clock_iqm") == 1
    unknown = leaderboard(without(known, "twice", equal_time=None), reference="twice", smoothing=0.0)
    assert np.isnan(scores(unknown, "adam", "ratio_clock_iqm"))


def test_equal_time_is_scored_by_the_loss_that_is_compared(known):
    """`made` has the same validation loss at the end of those runs, and no other."""
    board = leaderboard(known, smoothing=0.0, loss="valid")
    assert scores(board, "twice", "ratio_clock_iqm") == pytest.approx(2 / 3)


# Kinds, and who is ahead


def standing(board, name):
    return next(one for one in board.standings if one.contestant == name)


def fixed(record, rate):
    """The record of a contestant at one learning rate."""
    facts = ContestantFacts(optimizer="optax.adam", rate=rate)
    settings = dataclasses.replace(record.settings, contestant=facts)
    return dataclasses.replace(record, contestant="fixed", rate=rate, settings=settings)


def test_what_a_contestant_was_given(known):
    adam = known[:2]
    board = leaderboard([*known, *(fixed(record, 0.1) for record in adam)])
    kinds = {one.contestant: one.kind for one in board.standings}
    assert kinds == {"adam": Kind.TUNED, "twice": Kind.LEARNED, "lost": Kind.TUNED, "fixed": Kind.ONE_SETTING}
    assert [one.contestant for one in board.standings if one.learned] == ["twice"]


def test_what_was_not_the_same_on_all_tasks_is_as_good_as_tuned(known):
    mixed = [fixed(record, rate) for record, rate in zip(known[:2], (0.1, 0.2), strict=True)]
    assert standing(leaderboard([*known, *mixed]), "fixed").kind == Kind.TUNED
    other = dataclasses.replace(known[3].settings, contestant=ContestantFacts(weights_sha256="1"))
    several = [dataclasses.replace(one, settings=other) if one is known[3] else one for one in known]
    assert standing(leaderboard(several), "twice").kind == Kind.TUNED


def test_each_is_told_how_surely_it_is_ahead_of_the_next(known):
    board = leaderboard(known, smoothing=0.0)
    pairs = zip(board.standings, board.standings[1:], strict=False)
    for one, other in pairs:
        rows = [[side.entries[task].ratio for task in board.counted] for side in (one, other)]
        assert one.ahead == aggregate.ahead(*rows)
    assert board.standings[0].ahead == 1.0  # 2 on every run, beside 1
    assert np.isnan(board.standings[-1].ahead)


def test_the_headline_score_has_an_interval_over_tasks(known):
    better = [
        dataclasses.replace(one, train_loss=one.train_loss / 2)
        if (one.task, one.contestant) == ("two", "twice")
        else one
        for one in known
    ]
    found = standing(leaderboard(better, smoothing=0.0), "twice").over_tasks
    assert (found.value, found.low, found.high) == (3.0, 2.0, 4.0)


# What cannot be scored is set aside, and costs nobody else anything


FALLING, LEVEL = [8.0, 6.0, 5.0, 4.5, 4.0], [1.0] * 5


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (made("one", "new", [LEVEL[:4]] * 2), "new was run with num_steps 3, adam with 4"),
        (made("one", "new", [LEVEL] * 3), "new was run with seeds (0, 1, 2), adam with (0, 1)"),
        (made("one", "new", [LEVEL] * 2, seeds=(3, 4)), "new was run with seeds (3, 4), adam with (0, 1)"),
        (made("one", "new", [LEVEL] * 2, rates=(1.0,)), "new was run with rates (1.0,), adam with "),
        (made("none", "new", [LEVEL] * 2), "no record beside adam's that can be scored"),
    ],
)
def test_a_contestant_without_a_record_that_can_be_scored_is_left_out(known, extra, reason):
    board, without = leaderboard([*known, extra]), leaderboard(known)
    assert list(board.left_out) == ["new"]
    assert board.left_out["new"].startswith(reason)
    assert board.counted == without.counted
    assert [one.scores for one in board.standings] == [one.scores for one in without.standings]


def test_a_record_that_may_not_stand_beside_adams_costs_its_task_alone(known):
    new = [made("one", "new", [LEVEL[:4]] * 2), made("two", "new", [FALLING] * 2)]
    board = leaderboard([*known, *new])
    assert (board.counted, board.left_out) == (("two",), {})
    assert board.set_aside == {"one": "new was run with num_steps 3, adam with 4"}


@pytest.mark.parametrize(
    ("adams", "others", "reason"),
    [
        ([4.0, 1.0, -1.0, -2.0, -3.0], FALLING, "losses below 0 of adam, "),
        (FALLING, [8.0, 2.0, -1.0, -9.0, -40.0], "losses below 0 of new, "),
        ([-1.0, 0.0, 1.0, 2.0, 3.0], [-1.0] * 5, "losses below 0 of adam, new, whose ratios mean nothing; "),
        ([0.0] * 5, [0.0] * 5, "adam's loss never changes"),
        (LEVEL, FALLING, "adam's loss never changes"),
        ([8.0, 6.0, np.inf, np.nan, np.nan], FALLING, "adam diverged"),
        ([np.nan] * 5, [np.nan] * 5, "adam diverged"),
    ],
)
@pytest.mark.parametrize("common", slow_but([True], [True, False]))
def test_a_task_without_meaning_costs_no_other_task_its_scores(known, adams, others, reason, common):
    new = [made(task, "new", [FALLING] * 2) for task in ("one", "two")]
    odd = [made("odd", "adam", [adams] * 2), made("odd", "new", [others] * 2)]
    # Others who never ran it lose nothing either.
    board, without = (leaderboard(known + new + more, smoothing=0.5, common=common) for more in (odd, []))
    assert board.set_aside["odd"].startswith(reason)
    assert board.counted == without.counted
    for one, other in zip(board.standings, without.standings, strict=True):
        assert (one.contestant, one.counted) == (other.contestant, other.counted)
        np.testing.assert_equal(one.scores, other.scores)
    alone = odd if reason != "adam diverged" else odd[:1]
    with pytest.raises(CeloError, match=r"no task can be compared on \(odd: "):
        leaderboard(alone, smoothing=0.5)


def test_runs_in_the_time_of_adams_may_end_below_0_alone(known):
    below = EqualTime(np.array([0, 2]), *(np.array([[8.0, -200.0]] * 2, np.float32) for _ in range(2)))
    board = leaderboard(
        [dataclasses.replace(known[2], equal_time=below) if r is known[2] else r for r in known]
    )
    assert list(board.set_aside) == [known[2].task]


def test_validation_losses_that_are_not_finite_have_their_own_words(known):
    blind = [
        dataclasses.replace(one, valid_loss=one.valid_loss * np.nan) for one in known if one.task == "two"
    ]
    board = leaderboard([*(one for one in known if one.task == "one"), *blind], loss="valid")
    assert board.set_aside == {"two": "adam's loss is not finite"}


def test_two_records_of_one_contestant_are_an_error(known):
    with pytest.raises(CeloError, match="adam has two records on one; leave one archive out"):
        leaderboard([*known, made("one", "adam", [LEVEL] * 2)])


def test_validation_losses_may_be_compared_instead(known):
    better = [
        dataclasses.replace(record, valid_loss=record.valid_loss / (8 if record.contestant == "lost" else 1))
        for record in known
        if record.contestant != "twice"
    ]
    board = leaderboard(better, smoothing=0.0, loss="valid")
    assert scores(board, "lost", "ratio_iqm") == pytest.approx(2.0)  # half of the runs are lost, half at 4
    with pytest.raises(CeloError, match="unknown loss 'test'"):
        leaderboard(known, loss="test")


def test_a_run_that_was_infinite_in_between_has_diverged(known):
    passing = made("one", "passing", [[8.0, np.inf, 5.0, 4.0, 3.0], [16.0, 12.0, 10.0, 9.0, 8.0]])
    board = leaderboard([*known[:1], passing], smoothing=0.0)
    one = next(one for one in board.standings if one.contestant == "passing")
    assert one.diverged == 1
    assert one.entries["one"].ratio.tolist() == [0.0, 1.0]


def test_what_has_nothing_to_tune_may_have_been_given_other_rates(known):
    learned = made("one", "learned", [[8.0, 6.0, 4.0, 3.0, 2.0]] * 2, rate=None, rates=[1.0])
    assert scores(leaderboard([known[0], learned], smoothing=0.0), "learned", "ratio_iqm") > 1


def test_some_tasks_alone(known):
    board = leaderboard(known, tasks=["two"])
    assert (board.tasks, board.counted, board.set_aside) == (("two",), ("two",), {})


def test_names_are_checked(known):
    with pytest.raises(CeloError, match=r"unknown task 'tow'.*nearest first: two"):
        leaderboard(known, tasks=["tow"])
    with pytest.raises(CeloError, match=r"unknown contestant 'adan'.*nearest first: adam"):
        leaderboard(known, reference="adan")
    with pytest.raises(CeloError, match=r"unknown contestant 'twise'.*nearest first: twice"):
        leaderboard(known, contestants=["twise"])
    with pytest.raises(CeloError, match=r"no records.*celo evaluate"):
        leaderboard([])


def test_records_survive_the_archive(tmp_path):
    records = synthetic.records(num_steps=200)
    for one in records:
        write_record(tmp_path, one)
    first, second = leaderboard(records), leaderboard(load_records(tmp_path))
    assert [one.contestant for one in first.standings] == [one.contestant for one in second.standings]
    assert first.standings[0].scores == second.standings[0].scores  # the same seed, the same intervals
