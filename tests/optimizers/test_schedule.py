"""The scheduler's parts against slow references in float64, and what bad losses do to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.optimizers import _schedule as scheduler

BAD = [np.nan, np.inf, -np.inf]


def reference_loss_features(losses, num_steps):
    """Nine features at each loss, from the definition; all losses finite."""
    half_lives = np.logspace(1, np.log10(num_steps), 10)
    decay = np.exp(-1.0 / half_lives)
    means, minima, features = np.zeros(10), np.full(10, np.inf), []
    for t, loss in enumerate(losses, start=1):
        if t > 1:
            loss = min(loss, 2 * abs(np.max(means / (1 - decay ** (t - 1)))))
        means = decay * means + (1 - decay) * loss
        corrected = means / (1 - decay**t)
        minima = np.minimum(minima, corrected)
        now = np.zeros(9)
        if t > 2:
            for i in range(9):
                slower = max(1e-8, corrected[i + 1] - minima[i])
                now[i] = np.clip((corrected[i] - minima[i]) / slower - 1, -1, 1)
        features.append(now)
    return np.array(features)


@pytest.fixture(scope="module")
def observe():
    """(loss features, finite state of the averages) along a sequence of losses; jitted."""

    @jax.jit
    def run(losses, num_steps):
        def step(state, loss):
            history, means = scheduler.observe(state, loss, num_steps)
            return history, (scheduler.loss_features(means, history), history)

        start = scheduler.init({"h0": jnp.zeros(64), "c0": jnp.zeros(64)}, num_steps).losses
        return jax.lax.scan(step, start, losses)[1]

    return lambda losses, num_steps: run(jnp.asarray(losses, jnp.float32), jnp.int32(num_steps))


def noisy_losses(count=60):
    rng = np.random.default_rng(0)
    return 2.3 * np.exp(-np.arange(count) / 30) + 0.1 * rng.normal(size=count)


@pytest.mark.parametrize("num_steps", [5, 10, 60, 100_000])
def test_loss_features_are_their_definition(observe, num_steps):
    """Five steps are fewer than the shortest average: the half-lives then fall instead of rising."""
    losses = noisy_losses()
    features, _ = observe(losses, num_steps)
    expected = reference_loss_features(losses, num_steps)
    assert features.shape == (60, 9)
    # Quotients of small differences: float32 leaves noise in the first steps of a long horizon.
    np.testing.assert_allclose(features, expected, atol=2e-2)
    np.testing.assert_allclose(features[10:], expected[10:], atol=2e-3)
    if num_steps != 10:  # there all ten averages are one
        assert np.ptp(expected) > 0.5


def test_first_two_losses_give_no_features(observe):
    features, _ = observe([2.0, 1.0, 3.0], 100)
    np.testing.assert_array_equal(features[:2], 0.0)
    assert np.any(features[2] != 0)


def test_a_spike_counts_as_twice_the_largest_average(observe):
    spiked, _ = observe([2.0, 2.0, 2.0, 1e6, 1.0, 1.5], 100)
    capped, _ = observe([2.0, 2.0, 2.0, 4.0, 1.0, 1.5], 100)
    np.testing.assert_allclose(spiked, capped, atol=1e-5)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_bad_loss_does_not_poison(observe, bad, at):
    losses = noisy_losses()
    broken = losses.copy()
    broken[at] = bad
    features, history = observe(broken, 60)
    assert np.all(np.isfinite(features))
    seen = history.step > 0
    assert np.all(np.isfinite(history.means[seen]))
    assert np.all(np.isfinite(history.minima[seen]))
    changed = losses.copy()
    changed[40:] += 1.0  # later losses still matter
    changed[at] = bad
    assert np.any(np.abs(observe(changed, 60)[0][41] - features[41]) > 0.1)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_first_loss_is_as_if_it_had_not_been(observe, bad):
    features, history = observe([bad, bad, 2.0, 1.0, 1.5], 100)
    without, _ = observe([2.0, 1.0, 1.5], 100)
    np.testing.assert_array_equal(history.step, [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(features[:2], 0.0)
    np.testing.assert_array_equal(features[2:], without)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_later_loss_counts_as_a_spike(observe, bad):
    """Not as nothing: divergence is what the scheduler must see."""
    with_bad, _ = observe([2.0, 2.0, 2.0, bad, 1.0, 1.5], 100)
    capped, _ = observe([2.0, 2.0, 2.0, 4.0, 1.0, 1.5], 100)
    np.testing.assert_allclose(with_bad, capped, atol=1e-5)


def test_time_features():
    centres = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
    for step in (0, 7, 50, 1000):  # past the horizon as well
        ours = scheduler.time_features(jnp.int32(step), jnp.int32(50))
        np.testing.assert_allclose(ours, np.tanh(10 * (step / 50 - centres)), atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 10, 777, 10_000_000])
def test_half_lives(num_steps):
    ours = scheduler.half_lives(jnp.int32(num_steps))
    np.testing.assert_allclose(ours, np.logspace(1, np.log10(num_steps), 10), rtol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_step_size_is_its_definition(theta):
    """Two steps of the whole network in float64."""
    weights = {name: np.asarray(array, np.float64) for name, array in theta["scheduler"].items()}
    state = scheduler.init(theta["scheduler"], jnp.int32(50))
    hidden, cell = weights["h0"], weights["c0"]
    for step, loss in enumerate([2.0, 1.5]):
        eta, state = scheduler.advance(theta["scheduler"], state, jnp.float32(loss))
        centres = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
        x = np.concatenate([np.tanh(10 * (step / 50 - centres)), np.zeros(9)])
        x = np.maximum(x @ weights["mix_w"] + weights["mix_b"], 0) + x @ weights["skip_w"] + weights["skip_b"]
        i, g, f, o = np.split(np.concatenate([x, hidden]) @ weights["lstm_w"] + weights["lstm_b"], 4)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        np.testing.assert_allclose(eta, 0.1 * np.exp(hidden @ weights["out_w"] + weights["out_b"]), rtol=1e-4)
        np.testing.assert_allclose(state.hidden, hidden, atol=1e-5)
        np.testing.assert_allclose(state.cell, cell, atol=1e-5)
    assert int(state.step) == 2
    assert int(state.num_steps) == 50


def test_the_weight_of_the_horizon_makes_the_step_a_power_of_it_and_changes_nothing_else(theta):
    fresh = scheduler.init_theta(jax.random.key(0))
    assert "horizon_w" not in fresh  # the published scheduler has none
    plain = theta["scheduler"]
    knowing = {**plain, "horizon_w": jnp.float32(-0.4)}
    for horizon in (10, 1_000, 64_000):
        a, b = (scheduler.init(plain, jnp.int32(horizon)) for _ in range(2))
        for loss in (2.0, 1.5):
            eta, a = scheduler.advance(plain, a, jnp.float32(loss))
            sized, b = scheduler.advance(knowing, b, jnp.float32(loss))
            np.testing.assert_allclose(sized, float(eta) * (horizon / 1000) ** -0.4, rtol=1e-5)
            jax.tree.map(np.testing.assert_array_equal, a, b)


def test_theta_has_35649_weights(key):
    fresh = scheduler.init_theta(key)
    assert sum(leaf.size for leaf in fresh.values()) == 35_649
    assert all(not np.any(fresh[name]) for name in ("mix_b", "skip_b", "lstm_b", "out_b", "h0", "c0"))


@pytest.mark.parametrize("first", [0.0, -0.0])
def test_after_a_first_loss_of_zero_later_ones_still_count(first):
    """A first policy or baseline-subtracted loss is 0 often; a cap of twice that would hold for ever."""
    steps = jnp.int32(100)
    zeros = jnp.zeros(scheduler.NUM_LOSS_AVERAGES)
    history = scheduler.LossHistory(zeros, zeros + jnp.inf, jnp.int32(0))
    for loss in (first, first, *[2.0] * 300):
        history, means = scheduler.observe(history, jnp.float32(loss), steps)
    np.testing.assert_allclose(means, 2.0, rtol=0.1)
