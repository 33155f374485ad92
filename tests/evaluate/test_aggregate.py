import numpy as np
import pytest

from celo.evaluate import aggregate

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
