import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celo.evaluate._score import metrics

STEPS = [0, 10, 20, 30, 40]


def test_smooth_is_the_moving_average_worked_out_by_hand():
    np.testing.assert_allclose(metrics.smooth([1.0, 0.0, 2.0]), [1.0, 0.9, 1.01])


def test_smooth_leaves_its_argument_alone():
    curve = np.array([1.0, 0.0])
    metrics.smooth(curve)
    assert curve.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_run_that_has_diverged_stays_diverged(bad):
    smoothed = metrics.smooth([1.0, bad, 0.1, 0.1])
    assert np.isfinite(smoothed).tolist() == [True, False, False, False]


def test_the_best_rate_is_one_for_all_seeds_or_one_for_each():
    final = [[3.0, 1.0], [1.5, 2.0], [0.5, np.nan]]  # the last is lowest, and diverges with the second seed
    assert metrics.best_rate(final) == 1
    assert metrics.best_rate(final, per_seed=True).tolist() == [2, 0]


def test_of_equal_rates_the_first_is_best_and_so_if_all_diverge():
    assert metrics.best_rate([[2.0], [1.0], [1.0]]) == 1
    assert metrics.best_rate([[np.inf], [np.nan]]) == 0


@pytest.mark.parametrize(
    ("final", "reference", "score"),
    [
        (0.5, 1.0, 2.0),
        (2.0, 1.0, 0.5),
        (np.nan, 1.0, 0.0),
        (np.inf, 1.0, 0.0),
        (0.0, 0.0, 1.0),
        (0.0, 1.0, np.inf),
        (1.0, np.inf, np.nan),
    ],
)
def test_final_loss_ratio(final, reference, score):
    np.testing.assert_equal(metrics.final_loss_ratio(final, reference), score)


@pytest.mark.parametrize(
    ("curve", "reference", "score"),
    [
        ([4.0, 3.0, 2.0, 1.0, 0.5], 2.0, 2.0),  # reached at step 20 of 40
        ([4.0, 3.0, 2.0, 1.0, 0.5], 0.5, 1.0),
        ([4.0, 3.0, 2.0, 3.0, 3.0], 2.0, 2.0),  # the first hit counts, whatever comes after
        ([4.0, 3.0, 2.0, 1.0, 0.5], 0.4, 0.0),
        ([4.0, 3.0, 2.0, 1.0, np.nan], 2.0, 0.0),
        ([1.0, 2.0, 2.0, 2.0, 2.0], 1.0, 1.0),  # a hit at step 0 counts as one at the end
        ([4.0, 3.0, 2.0, 1.0, 0.5], np.nan, np.nan),
    ],
)
def test_speedup(curve, reference, score):
    np.testing.assert_equal(metrics.speedup(STEPS, curve, reference), score)


REFERENCE = [4.0, 3.0, 2.0, 1.5, 1.0]  # halfway down on a log scale is 2, at step 20


@pytest.mark.parametrize(
    ("curve", "score"),
    [
        (REFERENCE, 1.0),
        ([4.0, 2.0, 2.0, 2.0, 2.0], 2.0),
        ([4.0, 1.0, 9.0, 9.0, 9.0], 3.0),  # two thirds of the way to step 10; the first hit counts
        ([4.0, 4.0, 4.0, 3.0, 1.0], 20 / 35),
        ([4.0, 3.0, 3.0, 3.0, 2.5], 0.0),
        ([4.0, 1.0, 1.0, 1.0, np.nan], 0.0),
        ([4.0, np.inf, 1.0, 1.0, 1.0], 0.0),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 0.5),  # there from the start, which is worth as much as the end
    ],
)
def test_early_speedup(curve, score):
    assert metrics.early_speedup(STEPS, curve, REFERENCE, 0.0) == pytest.approx(score)
    many = metrics.early_speedup(STEPS, [curve, REFERENCE], [REFERENCE] * 2, 0.0)
    np.testing.assert_allclose(many, [score, 1.0])


def test_early_speedup_beside_a_reference_that_diverged_or_never_fell():
    assert np.isnan(metrics.early_speedup(STEPS, REFERENCE, [4.0, 3.0, np.nan, 1.0, 1.0]))
    level = [4.0] * 5
    assert metrics.early_speedup(STEPS, level, level) == 1.0
    assert metrics.early_speedup(STEPS, REFERENCE, [*REFERENCE[:4], 0.0], 0.0) == 0.0  # the target is 0
    assert metrics.early_speedup(STEPS, [*REFERENCE[:4], 0.0], [*REFERENCE[:4], 0.0], 0.0) == 1.0


def test_early_speedup_tells_apart_what_a_moving_average_would_not():
    """Both are below the target by the first evaluations, of which the average is made of the start."""
    steps = np.arange(101)
    fast, slow = (4.0 * np.exp(-steps / scale) + 0.01 for scale in (1.0, 3.0))
    target = np.sqrt(4.01 * metrics.smooth(slow)[-1])
    blurred = [metrics.steps_to_target(steps, metrics.smooth(curve), target) for curve in (slow, fast)]
    assert metrics.early_speedup(steps, fast, slow) > 2.5
    assert blurred[0] / blurred[1] < 1.2


@given(st.integers(-10, 10))
def test_early_speedup_does_not_depend_on_the_unit_of_the_loss(power):
    curves = 2.0**power * np.random.default_rng(0).uniform(1, 2, (3, 5))
    curves[:, 0] *= 4
    expected = metrics.early_speedup(STEPS, curves / 2.0**power, curves[::-1] / 2.0**power)
    np.testing.assert_allclose(metrics.early_speedup(STEPS, curves, curves[::-1]), expected)


def test_scores_do_not_depend_on_the_unit_of_the_loss():
    rng = np.random.default_rng(0)
    curves = rng.uniform(1, 2, (4, 5))
    reference = rng.uniform(1, 2, 4)
    for scale in (1e-6, 1.0, 1024.0):
        smoothed = metrics.smooth(scale * curves)
        np.testing.assert_allclose(
            metrics.final_loss_ratio(smoothed[:, -1], scale * reference),
            metrics.final_loss_ratio(metrics.smooth(curves)[:, -1], reference),
        )
        np.testing.assert_allclose(
            metrics.speedup(STEPS, smoothed, scale * reference),
            metrics.speedup(STEPS, metrics.smooth(curves), reference),
        )


def test_scores_over_many_seeds_are_those_of_each_seed():
    curves = np.random.default_rng(0).uniform(1, 2, (4, 5))
    reference = np.array([1.2, 1.4, 1.6, 1.8])
    one_by_one = [metrics.speedup(STEPS, c, r) for c, r in zip(curves, reference, strict=True)]
    np.testing.assert_array_equal(metrics.speedup(STEPS, curves, reference), one_by_one)


@pytest.mark.parametrize(
    ("curve", "target", "first"),
    [
        ([4.0, 3.0, 2.0, 1.0, 0.5], 2.0, 20.0),
        ([4.0, 3.0, 2.0, 1.0, 0.5], 0.4, np.inf),
        ([1.0, 2.0, 2.0, 2.0, 2.0], 1.0, 40.0),  # the start is not an achievement
        ([4.0, 3.0, 2.0, 1.0, np.nan], 2.0, np.inf),
        ([4.0, 3.0, 2.0, 1.0, 0.5], np.nan, np.nan),
    ],
)
def test_steps_to_target(curve, target, first):
    np.testing.assert_equal(metrics.steps_to_target(STEPS, curve, target), first)


def test_relative_cost_needs_both_times():
    cost = metrics.relative_cost([3.0, 1.0, np.nan, 1.0], [1.0, 2.0, 1.0, 0.0])
    np.testing.assert_equal(cost, [3.0, 0.5, np.nan, np.nan])


@pytest.mark.parametrize(
    ("loss", "steps"),
    [
        (8.0, 0.0),  # no better than the start
        (2.0, 10.0),
        (1.5, 20.0),  # half way between the new minima at 10 and 30
        (1.0, 30.0),
        (0.1, 30.0),  # the yardstick ends here
        (np.nan, 0.0),
        (np.inf, 0.0),
    ],
)
def test_equivalent_steps_are_read_off_the_running_minimum(loss, steps):
    assert metrics.equivalent_steps(loss, STEPS, [4.0, 2.0, 3.0, 1.0, 1.0]) == steps


def test_an_envelope_is_the_lowest_that_any_reference_has_been():
    curves = [[4.0, 3.0, 3.5, 1.0], [5.0, 2.0, np.nan, np.nan]]
    np.testing.assert_array_equal(metrics.envelope(curves), [4.0, 2.0, 2.0, 1.0])


def test_equivalent_speedups_are_capped():
    found = metrics.equivalent_speedup([2.0, 0.5, np.inf], 10, [0, 50, 200], [4.0, 2.0, 1.0], cap=10)
    np.testing.assert_allclose(found, [5.0, 10.0, 0.0])


CURVES = st.lists(st.floats(2**-10, 2**10, width=32), min_size=2, max_size=12).map(np.array)


@given(CURVES, st.floats(2**-10, 2**10, width=32), st.integers(-10, 10))
def test_no_score_depends_on_the_unit_of_the_loss_whatever_the_curve(curve, reference, power):
    unit, steps = 2.0**power, np.arange(len(curve))
    smoothed = metrics.smooth(curve)
    np.testing.assert_allclose(metrics.smooth(unit * curve), unit * smoothed)
    for score in (
        lambda c, r: metrics.final_loss_ratio(c[-1], r),
        lambda c, r: metrics.speedup(steps, c, r),
    ):
        np.testing.assert_allclose(score(unit * smoothed, unit * reference), score(smoothed, reference))


@given(CURVES, st.floats(2**-10, 2**10, width=32), st.floats(1, 4, width=32))
def test_a_harder_target_is_never_reached_sooner(curve, target, harder):
    steps = np.arange(len(curve)) + 1
    assert metrics.steps_to_target(steps, curve, target) <= metrics.steps_to_target(
        steps, curve, target / harder
    )


@given(CURVES)
def test_smoothed_curves_stay_between_the_lowest_and_the_highest_loss(curve):
    smoothed = metrics.smooth(curve)
    assert smoothed[0] == curve[0]
    assert curve.min() * (1 - 1e-12) <= smoothed.min() <= smoothed.max() <= curve.max() * (1 + 1e-12)
