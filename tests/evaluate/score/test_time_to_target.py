import numpy as np
import pytest

from celo.evaluate._score import time_to_target as targets

TIMES = [[10.0, 30.0, np.inf], [20.0, 10.0, np.inf], [50.0, np.inf, np.inf]]  # contestants x tasks


def test_ratios_are_to_the_best_and_end_at_four():
    np.testing.assert_array_equal(
        targets.ratios(TIMES), [[1.0, 3.0, np.inf], [2.0, 1.0, np.inf], [np.inf, np.inf, np.inf]]
    )


def test_score_is_the_integral_of_the_profile():
    ratio, grid = targets.ratios(TIMES), np.linspace(1, 4, 30_001)
    curve = targets.profile(ratio, grid)
    areas = ((curve[:, 1:] + curve[:, :-1]) / 2 * np.diff(grid)).sum(axis=-1) / 3
    np.testing.assert_allclose(targets.score(ratio), areas, atol=1e-4)
    np.testing.assert_allclose(targets.score(ratio), [(1 + 1 / 3) / 3, (2 / 3 + 1) / 3, 0.0])


def test_the_fastest_everywhere_scores_one():
    assert targets.score(targets.ratios([[1.0, 2.0], [2.0, 9.0]])).tolist() == pytest.approx([1.0, 1 / 3])


def test_the_unit_of_time_does_not_matter():
    scales = np.array([1e-6, 1.0, 1e3])
    np.testing.assert_array_equal(targets.ratios(TIMES), targets.ratios(np.array(TIMES) * scales))


def test_an_unknown_time_is_nobodys_but_its_own_affair():
    ratio = targets.ratios([[1.0, 2.0], [np.nan, 4.0]])
    np.testing.assert_equal(ratio, [[1.0, 1.0], [np.nan, 2.0]])
    np.testing.assert_equal(targets.score(ratio), [1.0, np.nan])


def test_typical_times_are_medians_and_need_most_seeds():
    rows = [[3.0, 1.0, 2.0], [np.inf, 1.0, 2.0], [np.inf, np.inf, 2.0], [1.0, np.inf]]
    np.testing.assert_array_equal(targets.typical_times(rows), [2.0, 2.0, np.inf, np.inf])
    many = [np.stack([row, row]) for row in rows]
    assert targets.typical_times(many).shape == (2, 4)


def test_a_time_that_is_not_known_has_no_share():
    ratio = targets.ratios([[1.0, np.nan], [2.0, 3.0]])
    np.testing.assert_array_equal(targets.profile(ratio, [1.0, 4.0]), [[np.nan, np.nan], [0.5, 1.0]])
