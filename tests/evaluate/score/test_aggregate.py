import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celo.evaluate._score import aggregate

stats = pytest.importorskip("scipy.stats")

POOLED = [aggregate.iqm, aggregate.optimality_gap, lambda s: aggregate.profile(s, [0.5, 1.0])]
STATISTICS = [*POOLED, aggregate.mean, aggregate.median]


@pytest.fixture
def scores():
    """[tasks 5, seeds 7], some of them tied."""
    return np.random.default_rng(0).integers(0, 12, (5, 7)) / 4


def test_iqm_drops_a_quarter_at_each_end():
    assert aggregate.iqm([100.0, 1.0, 2.0, -50.0]) == 1.5
    assert aggregate.iqm([[1.0, 2.0], [3.0, 1000.0]]) == 2.5
    assert aggregate.iqm([1.0, 2.0, 6.0]) == 3.0  # a quarter of three is less than one


def test_known_answers():
    scores = [[0.0, 1.0], [2.0, 4.0], [0.0, 1.0]]
    assert aggregate.mean(scores) == pytest.approx(4 / 3)
    assert aggregate.median(scores) == 0.5
    assert aggregate.optimality_gap(scores) == pytest.approx(2 / 6)
    np.testing.assert_allclose(aggregate.profile(scores, [0.0, 1.0, 1.5, 5.0]), [1.0, 4 / 6, 2 / 6, 0.0])


def test_a_task_with_more_seeds_weighs_as_one_task_in_means_and_by_its_runs_when_pooled():
    scores = [[1.0, 1.0, 1.0], [5.0]]
    assert aggregate.mean(scores) == 3.0
    assert aggregate.optimality_gap(scores, 5.0) == 3.0


def test_iqm_is_that_of_scipy(scores):
    assert aggregate.iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


def test_improvement_is_mann_whitneys(scores):
    others = np.roll(scores, 3) + 0.25
    wanted = [stats.mannwhitneyu(a, b).statistic / 49 for a, b in zip(scores, others, strict=True)]
    assert aggregate.improvement(scores, others) == pytest.approx(np.mean(wanted))
    assert aggregate.improvement(others, scores) == pytest.approx(1 - np.mean(wanted))
    assert aggregate.improvement(scores, scores) == 0.5


def test_ranks_are_those_of_scipy(scores):
    np.testing.assert_array_equal(aggregate.ranks(scores), stats.rankdata(-scores, axis=0))


# Five runs on four tasks, one row a task, and another method's. What is expected is what rliable 1.2.0 gives,
# which does not run beside pandas 3 and so is not here: its aggregate_{iqm,median,mean,optimality_gap},
# probability_of_improvement, create_performance_profile (it counts scores above tau, hence taus between
# scores) and get_interval_estimates with 50,000 resamples.
MINE = np.array([[3, 11, 8, 19, 5], [17, 4, 15, 7, 10], [9, 13, 10, 6, 24], [22, 0, 31, 12, 2]]) / 10
THEIRS = np.array([[5, 9, 10, 2, 7], [12, 6, 15, 17, 8], [9, 11, 8, 6, 19], [10, 3, 20, 9, 2]]) / 10


def test_aggregates_are_those_of_rliable():
    found = [one(MINE) for one in (aggregate.iqm, aggregate.median, aggregate.mean, aggregate.optimality_gap)]
    np.testing.assert_allclose(found, [1.01, 1.15, 1.14, 0.23])
    assert aggregate.improvement(MINE, THEIRS) == pytest.approx(0.56)
    taus = np.array([0.01, 0.51, 1.01, 1.51, 2.01, 3.01])
    np.testing.assert_allclose(aggregate.profile(MINE, taus), [0.95, 0.75, 0.45, 0.25, 0.15, 0.05])
    for statistic, wanted in ((aggregate.iqm, (0.71, 1.41)), (aggregate.optimality_gap, (0.105, 0.365))):
        _, low, high = aggregate.interval(statistic, MINE, resamples=50_000)
        np.testing.assert_allclose((low, high), wanted, atol=0.011)


def test_a_score_that_is_not_known_makes_the_iqm_and_the_profile_unknown():
    assert np.isnan(aggregate.iqm([1.0, 2.0, 3.0, np.nan]))
    assert np.isnan(aggregate.profile([[1.0, 2.0], [3.0, np.nan]], [0.5, 1.5])).all()


# Tasks drawn again


def test_an_interval_over_tasks_is_about_tasks_and_not_seeds():
    alike = [[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]]
    value, low, high = aggregate.interval_over_tasks(aggregate.mean, alike)
    assert (value, low, high) == (2.0, 2.0, 2.0)
    assert aggregate.interval(aggregate.mean, alike).low < 2.0
    apart = [[1.0, 1.0], [2.0, 2.0], [6.0, 6.0]]
    assert aggregate.interval(aggregate.mean, apart).low == aggregate.mean(apart) == 3.0
    assert aggregate.interval_over_tasks(aggregate.mean, apart)[1:] == (1.0, 6.0)


def test_an_interval_over_tasks_is_that_of_a_mean_of_many():
    scores = np.random.default_rng(1).normal(size=(60, 3))
    _, low, high = aggregate.interval_over_tasks(aggregate.mean, scores)
    wide = 1.96 * scores.mean(axis=1).std() / np.sqrt(60)
    np.testing.assert_allclose((low, high), scores.mean() + np.array([-wide, wide]), rtol=0.15, atol=0.02)


def test_one_task_says_nothing_of_others():
    value, low, high = aggregate.interval_over_tasks(aggregate.iqm, [[1.0, 2.0, 3.0]])
    assert value == 2.0
    assert np.isnan([low, high]).all()


def test_tasks_of_other_numbers_of_seeds_are_drawn_among_themselves():
    """So that every resample has as many runs."""
    scores = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [5.0]]
    sizes = []

    def statistic(rows):
        sizes.append(sum(np.shape(row)[-1] for row in rows))
        return aggregate.mean(rows)

    assert aggregate.interval_over_tasks(statistic, scores)[1:] == (7 / 3, 3.0)
    assert sizes == [7, 7]


def test_who_is_ahead():
    scores = np.random.default_rng(2).uniform(1, 2, (8, 3))
    assert aggregate.ahead(scores + 0.01, scores) == 1.0  # on every run, however the runs themselves differ
    assert aggregate.ahead(scores, scores + 0.01) == 0.0
    assert aggregate.ahead(scores, scores) == 0.5
    lucky = scores + np.where(np.arange(8) < 4, 0.3, -0.3)[:, None]
    assert 0.2 < aggregate.ahead(lucky, scores, aggregate.mean) < 0.8
    assert aggregate.ahead(lucky, scores) == pytest.approx(1 - aggregate.ahead(scores, lucky))


def test_ahead_is_the_normal_probability_for_means_of_many():
    """The difference of means of 50 tasks, one seed each, at one and a half standard errors."""
    rng = np.random.default_rng(3)
    gap = rng.normal(size=(50, 1))
    gap += 1.5 * gap.std() / np.sqrt(50) - gap.mean()
    theirs = rng.normal(size=(50, 1)) * 100  # what both share cancels out
    assert aggregate.ahead(theirs + gap, theirs, aggregate.mean) == pytest.approx(
        stats.norm.cdf(1.5), abs=0.03
    )


def test_ahead_needs_more_than_one_run_of_the_same_on_both_sides():
    assert np.isnan(aggregate.ahead([[2.0]], [[1.0]]))
    assert np.isnan(aggregate.ahead([[2.0, np.nan]], [[1.0, 1.0]]))
    assert aggregate.ahead([[2.0, 2.0]], [[1.0, 1.0]]) == 1.0  # one task, two seeds
    assert aggregate.ahead([[2.0], [3.0, 3.0]], [[1.0], [1.0, 1.0]]) == 1.0
    with pytest.raises(ValueError, match="the same tasks and seeds on both sides"):
        aggregate.ahead([[2.0, 2.0]], [[1.0]])


ROWS = st.lists(
    st.lists(st.floats(0, 100, width=32), min_size=3, max_size=5).map(np.array), min_size=1, max_size=6
)


@given(ROWS)
def test_aggregates_lie_between_the_scores(rows):
    low, high = min(map(np.min, rows)), max(map(np.max, rows))
    for statistic in (aggregate.iqm, aggregate.mean, aggregate.median):
        assert low - 1e-9 <= statistic(rows) <= high + 1e-9


@given(ROWS, st.floats(0.125, 8, width=32), st.floats(0, 10, width=32))
def test_aggregates_follow_scale_and_shift(rows, scale, shift):
    moved = [scale * row + shift for row in rows]
    for statistic in (aggregate.iqm, aggregate.mean, aggregate.median):
        np.testing.assert_allclose(statistic(moved), scale * statistic(rows) + shift, rtol=1e-9, atol=1e-9)


@given(ROWS, st.data())
def test_a_better_run_never_makes_an_aggregate_worse(rows, data):
    task = data.draw(st.integers(0, len(rows) - 1))
    seed = data.draw(st.integers(0, len(rows[task]) - 1))
    better = [row.copy() for row in rows]
    better[task][seed] += data.draw(st.floats(0, 100, width=32))
    for statistic in (aggregate.iqm, aggregate.mean, aggregate.median):
        assert statistic(better) >= statistic(rows) - 1e-9
    assert aggregate.optimality_gap(better) <= aggregate.optimality_gap(rows) + 1e-9
    assert aggregate.improvement(better, rows) >= 0.5


@given(ROWS)
def test_profiles_fall_and_improvement_is_a_contest_of_two(rows):
    profile = aggregate.profile(rows, np.linspace(0, 100, 21))
    assert np.all(np.diff(profile) <= 0)
    others = [row[::-1] / 2 for row in rows]
    both = aggregate.improvement(rows, others) + aggregate.improvement(others, rows)
    assert both == pytest.approx(1.0)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_order_of_tasks_and_seeds_does_not_matter(statistic, scores):
    rng = np.random.default_rng(1)
    shuffled = rng.permutation(rng.permuted(scores, axis=1), axis=0)
    np.testing.assert_allclose(statistic(shuffled), statistic(scores))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_leading_axis_is_kept(statistic, scores):
    many = [np.stack([row, 2 * row]) for row in scores]
    np.testing.assert_allclose(statistic(many), np.stack([statistic(scores), statistic(2 * scores)]))


def test_intervals_are_repeatable_and_hold_the_value(scores):
    one, again = (aggregate.interval(aggregate.iqm, scores, seed=3) for _ in range(2))
    assert one == again
    assert one.low < one.value < one.high
    assert aggregate.interval(aggregate.iqm, scores, seed=4) != one


def test_seeds_are_resampled_within_their_task():
    """Between tasks there is a world of difference, between seeds none: so the mean is certain."""
    assert aggregate.interval(aggregate.mean, [[1.0, 1.0], [9.0, 9.0]]) == (5.0, 5.0, 5.0)


def test_what_is_not_known_has_no_probability_and_no_rank():
    assert np.isnan(aggregate.improvement([[1.0, np.nan]], [[0.0, 0.0]]))
    np.testing.assert_equal(aggregate.ranks([[1.0], [np.nan], [3.0]]), [[2.0], [np.nan], [1.0]])


def test_one_seed_has_no_interval():
    found = aggregate.interval(aggregate.iqm, [[1.0], [2.0]])
    np.testing.assert_equal(found, (1.5, np.nan, np.nan))


def test_infinite_scores_give_infinite_ends_and_no_warning():
    found = aggregate.interval(aggregate.mean, [[1.0, np.inf], [1.0, 2.0]])
    assert (found.value, found.high) == (np.inf, np.inf)


def test_two_samples_are_resampled_apart(scores):
    found = aggregate.interval(aggregate.improvement, scores, scores)
    assert found.value == 0.5
    assert found.low < 0.5 < found.high


@pytest.mark.parametrize("statistic", [aggregate.mean, aggregate.iqm])
def test_intervals_cover_the_truth_as_often_as_they_say(statistic):
    """A symmetric distribution has its mean and IQM at its centre; small samples cover a little less."""
    rng, hits = np.random.default_rng(0), []
    for i in range(300):
        scores = 1.0 + rng.normal(size=(4, 15))
        found = aggregate.interval(statistic, scores, resamples=300, seed=i)
        hits.append(found.low <= 1.0 <= found.high)
    assert 0.88 <= np.mean(hits) <= 0.98


def test_intervals_of_three_seeds_cover_less():
    """Resampling S seeds loses 1/S of the variance, here as in rliable: about 87 % where 95 % are said."""
    rng, hits = np.random.default_rng(0), []
    for i in range(400):
        scores = 1.0 + rng.normal(size=(20, 3))
        found = aggregate.interval(aggregate.mean, scores, resamples=300, seed=i)
        hits.append(found.low <= 1.0 <= found.high)
    assert 0.82 <= np.mean(hits) <= 0.92
