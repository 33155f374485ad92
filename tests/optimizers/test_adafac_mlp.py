"""AdaFac-MLP where recordings are silent: numbers that are not finite, layers, widths, states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import PARAMS, normal

from celo._errors import CeloError
from celo._kernels import rule_network
from celo.optimizers import AdafacMLP, adafac_mlp
from celo.optimizers._adafac_mlp import time_inputs


@pytest.fixture(scope="module")
def weights(noisy_theta):
    return noisy_theta(AdafacMLP())


@pytest.fixture(scope="module")
def step(weights):
    tx = adafac_mlp(weights=weights)
    return tx, jax.jit(lambda grads, state: tx.update(grads, state, PARAMS))


def test_time_is_eleven_inputs_that_end_at_one():
    np.testing.assert_allclose(time_inputs(jnp.int32(0)), np.full(11, np.tanh(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(time_inputs(jnp.int32(30))[3], 0.0, atol=1e-6)
    np.testing.assert_allclose(time_inputs(jnp.int32(10**7)), np.ones(11), atol=1e-6)


def test_steps_change_with_time_alone(step):
    """The same gradient at an age of 0 and of 500 steps, with the same statistics."""
    tx, update = step
    _, state = update(normal(1), tx.init(PARAMS))
    aged = jax.tree.map(lambda x: jnp.int32(500) if x.dtype == jnp.int32 else x, state)
    now, then = (update(normal(2), s)[0]["w"] for s in (state, aged))
    assert jnp.any(now != then)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_a_bad_element_counts_for_something_finite_and_does_not_stay(step, bad):
    """NaN as 0, infinities as ±1000, and what is too large for float32 squares as 1e15."""
    tx, update = step
    counted = {np.inf: 1000.0, -np.inf: -1000.0, 1e38: 1e15}.get(bad, 0.0)
    grads = normal(1)
    for value in (bad, counted):
        broken = {**grads, "w": grads["w"].at[1, 2].set(value)}
        updates, state = update(broken, tx.init(PARAMS))
        if value is bad:
            first = updates, state
    jax.tree.map(np.testing.assert_array_equal, first, (updates, state))
    for leaf in jax.tree.leaves(update(grads, first[1])):
        assert np.all(np.isfinite(leaf))


@pytest.mark.slow
def test_stacked_layers_are_stepped_as_tensors_of_their_own(weights):
    stacked = {"block": jax.random.normal(jax.random.key(3), (3, 4, 5))}
    apart = {str(i): stacked["block"][i] for i in range(3)}
    together, one_by_one = (adafac_mlp(weights=weights, per_layer=axes) for axes in (1, None))
    states = [together.init(stacked), one_by_one.init(apart)]
    for t in range(3):
        grads = jax.random.normal(jax.random.key(10 + t), (3, 4, 5))
        ours, states[0] = together.update({"block": grads}, states[0], stacked)
        theirs, states[1] = one_by_one.update({str(i): grads[i] for i in range(3)}, states[1], apart)
        for i in range(3):
            np.testing.assert_allclose(ours["block"][i], theirs[str(i)], rtol=1e-5)


@pytest.mark.slow
def test_weights_of_any_width_are_taken(noisy_theta):
    wide = noisy_theta(AdafacMLP(hidden=32))
    updates, _ = (tx := adafac_mlp(weights=wide)).update(PARAMS, tx.init(PARAMS), PARAMS)
    assert jnp.any(updates["w"] != 0)
    wide["adafac_mlp"]["w1"] = jnp.ones((32, 4))
    with pytest.raises(CeloError, match=r"w1 is \(32, 4\), expected \(32, 32\)"):
        adafac_mlp(weights=wide)
    with pytest.raises(CeloError, match="missing: adafac_mlp/b0"):
        adafac_mlp(weights={"update_rule": {}})


def test_units_of_no_weight_change_nothing(weights, step):
    """A network of 32 units of which 4 are those of the narrow one."""
    tx, update = step
    narrow = weights["adafac_mlp"]
    own = {**AdafacMLP(hidden=32).init_theta(jax.random.key(0))["adafac_mlp"]}
    for name in own:
        if name in ("w0", "b0", "w1", "b1", "w2"):
            own[name] = jnp.zeros(own[name].shape).at[tuple(map(slice, narrow[name].shape))].set(narrow[name])
        else:
            own[name] = narrow[name]
    wide = adafac_mlp(weights={"adafac_mlp": own})
    theirs, _ = update(normal(1), tx.init(PARAMS))
    ours, _ = wide.update(normal(1), wide.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), ours, theirs)


def test_log_step_lengthens_steps(weights, step):
    tx, update = step
    longer = {"adafac_mlp": {**weights["adafac_mlp"], "log_step": jnp.log(jnp.float32(10.0))}}
    other = adafac_mlp(weights=longer)
    theirs, _ = update(normal(1), tx.init(PARAMS))
    ours, _ = other.update(normal(1), other.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 10 * b, rtol=1e-5), ours, theirs)


def test_decay_and_rate(weights, step):
    tx, update = step
    decayed = adafac_mlp(weights=weights, learning_rate=0.5, weight_decay=0.1)
    plain, _ = update(normal(1), tx.init(PARAMS))
    ours, _ = decayed.update(normal(1), decayed.init(PARAMS), PARAMS)
    for name, p in PARAMS.items():
        np.testing.assert_allclose(ours[name], 0.5 * (plain[name] - 0.001 * 0.1 * p), rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_half_the_state(weights):
    def nbytes(tx):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(PARAMS)))

    narrow = adafac_mlp(weights=weights, state_dtype="bfloat16")
    assert nbytes(narrow) - 4 == pytest.approx((nbytes(adafac_mlp(weights=weights)) - 4) / 2 + 4, abs=4)
    updates, _ = narrow.update(normal(1), narrow.init(PARAMS), PARAMS)
    whole = adafac_mlp(weights=weights)
    wanted, _ = whole.update(normal(1), whole.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, wanted)


def test_states_and_gradients_of_other_parameters_are_refused(step):
    tx, _ = step
    with pytest.raises(CeloError, match="shape"):
        tx.update({**PARAMS, "w": jnp.ones((4, 3))}, tx.init(PARAMS), PARAMS)
    with pytest.raises(CeloError, match="its state"):
        tx.update(PARAMS, tx.init({**PARAMS, "w": jnp.ones((4, 3))}), PARAMS)
    with pytest.raises(CeloError, match="real floating-point"):
        tx.init({"w": jnp.ones(3, jnp.int32)})


@pytest.mark.slow
def test_a_wide_network_says_the_same_block_by_block(noisy_theta, monkeypatch):
    """Of matrices, vectors, more axes, and of rows whose number has no divisors."""
    optimizer = AdafacMLP(hidden=32)
    theta = noisy_theta(optimizer)
    shapes = {"matrix": (24, 16), "vector": (512,), "prime": (37, 16), "deep": (6, 8, 16), "thin": (2, 300)}
    keys = jax.random.split(jax.random.key(0), 2 * len(shapes))
    params, grads = (
        {name: jax.random.normal(k, shape) for k, (name, shape) in zip(ks, shapes.items(), strict=True)}
        for ks in (keys[::2], keys[1::2])
    )

    def steps(size):
        monkeypatch.setattr(rule_network, "BLOCK", size)
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        update = jax.jit(
            lambda grads, state, value: optimizer.update(theta, grads, state, params, value=value)
        )
        state = optimizer.init(theta, params, jnp.int32(10))
        seen = []
        for scale in (1.0, -0.3):
            now = jax.tree.map(lambda g, by=scale: by * g, grads)
            updates, state = update(now, state, jnp.float32(scale))
            seen.append(updates)
        return seen, state

    monkeypatch.setattr(rule_network, "BLOCK", 64)
    assert [rule_network._rows_of_a_block(shape) for shape in ((24, 16), (37, 16), (2, 4))] == [4, 1, None]
    assert rule_network._rows_of_a_block((9_973,)) is None  # blocks of a single number
    for a, b in zip(jax.tree.leaves(steps(10**9)), jax.tree.leaves(steps(64)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
