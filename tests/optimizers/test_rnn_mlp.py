"""RNN-MLP where recordings are silent: numbers that are not finite, layers, states, losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from small_model import PARAMS, normal

from celo._errors import CeloError
from celo.optimizers import RNNMLP, rnn_mlp
from celo.optimizers._rnn_mlp import LossAverages, observe


@pytest.fixture(scope="module")
def weights(noisy_theta):
    return noisy_theta(RNNMLP())


@pytest.fixture(scope="module")
def step(weights):
    tx = rnn_mlp(weights=weights)
    return tx, jax.jit(lambda grads, state, loss: tx.update(grads, state, PARAMS, value=loss))


def trained(tx, steps=3, params=PARAMS, size=1.0):
    """Updates of the last step, and the state."""
    state, updates = tx.init(params), None
    for t in range(steps):
        grads = normal(10 + t, {name: p.shape for name, p in params.items()}, size)
        updates, state = tx.update(grads, state, params, value=jnp.float32(2.0 - 0.1 * t))
    return updates, state


def test_what_the_lstm_hears_of_the_loss():
    """How far it is above its mean of ten steps, in deviations; and how far 0 is, which no one told it."""
    zero = jnp.zeros(())
    losses, heard = LossAverages(zero, zero, jnp.int32(0)), []
    for loss in (2.0, 2.0, 3.0, 1.0):
        losses, inputs = observe(losses, jnp.float32(loss))
        heard.append(np.asarray(inputs))
    np.testing.assert_allclose(heard[0], [0.0, -1.0 / 0.9], rtol=1e-4, atol=1e-5)  # variance (2 - 0.2)²
    mean = 0.9 * (0.9 * (0.9 * 0.2 + 0.2) + 0.3) + 0.1
    np.testing.assert_allclose(losses.mean, mean, rtol=1e-6)
    assert heard[2][0] > 0 > heard[3][0]
    assert int(losses.seen) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_heard_and_left_out(bad):
    zero = jnp.zeros(())
    for before in (
        LossAverages(zero, zero, jnp.int32(0)),
        LossAverages(zero + 0.2, zero + 0.3, jnp.int32(1)),
    ):
        after, heard = observe(before, jnp.float32(bad))
        jax.tree.map(np.testing.assert_array_equal, after, before)
        assert heard[0] == (-5.0 if bad < 0 else 5.0)
        assert np.isfinite(heard[1])


def test_enormous_losses_stay_finite():
    zero = jnp.zeros(())
    losses, heard = observe(LossAverages(zero, zero, jnp.int32(0)), jnp.float32(3e38))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((losses, heard)))


def test_gradients_are_clipped_to_ten_times_their_usual_size(step):
    """Which is 1 at first: a gradient of 1000 counts as one of 10; NaN counts as 0."""
    tx, update = step
    grads = normal(1)
    for bad, counted in ((1000.0, 10.0), (np.inf, 10.0), (-np.inf, -10.0), (np.nan, 0.0)):
        ours, theirs = (
            update({**grads, "w": grads["w"].at[1, 2].set(x)}, tx.init(PARAMS), jnp.float32(1.0))
            for x in (bad, counted)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-8), ours, theirs)
        for leaf in jax.tree.leaves(update(grads, ours[1], jnp.float32(np.nan))):
            assert np.all(np.isfinite(leaf))


def test_the_usual_size_follows_the_gradients(step):
    tx, update = step
    state = tx.init(PARAMS)
    for t in range(3):
        _, state = update(normal(t, size=3.0), state, jnp.float32(1.0))
    size = 0.01
    for t in range(3):
        squares = [np.mean(np.square(g)) for name, g in normal(t, size=3.0).items() if name != "none"]
        size = 0.99 * size + 0.01 * np.sqrt(1e-8 + np.mean(squares))
    np.testing.assert_allclose(state[0].memory.gradient_size, size, rtol=1e-4)


def test_tensors_hear_of_each_other(weights, step):
    """By what the LSTMs say on average: from the second step on."""
    tx, _ = step
    _, state = trained(tx, 2)
    alone = {"w": PARAMS["w"]}
    _, lonely = trained(tx, 2, alone)
    assert jnp.any(state[0].memory.hidden[3] != lonely[0].memory.hidden[0])


def test_tensors_without_elements_are_not_heard(step):
    tx, _ = step
    fewer = {name: p for name, p in PARAMS.items() if name != "none"}
    grads = normal(1)
    ours, _ = tx.update(grads, tx.init(PARAMS), PARAMS, value=1.0)
    theirs, _ = tx.update({n: grads[n] for n in fewer}, tx.init(fewer), fewer, value=1.0)
    for name in fewer:
        largest = jnp.abs(theirs[name]).max()
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.slow
def test_stacked_layers_are_stepped_as_tensors_of_their_own(weights):
    stacked = {"block": jax.random.normal(jax.random.key(3), (3, 4, 5))}
    apart = {str(i): stacked["block"][i] for i in range(3)}
    together, one_by_one = (rnn_mlp(weights=weights, per_layer=axes) for axes in (1, None))
    states = [together.init(stacked), one_by_one.init(apart)]
    for t in range(3):
        grads, loss = jax.random.normal(jax.random.key(10 + t), (3, 4, 5)), jnp.float32(2.0 - t)
        ours, states[0] = together.update({"block": grads}, states[0], stacked, value=loss)
        each = {str(i): grads[i] for i in range(3)}
        theirs, states[1] = one_by_one.update(each, states[1], apart, value=loss)
        for i in range(3):
            np.testing.assert_allclose(ours["block"][i], theirs[str(i)], rtol=1e-4)


@pytest.mark.slow
def test_half_the_moments(weights):
    whole, narrow = (rnn_mlp(weights=weights, state_dtype=d) for d in ("float32", "bfloat16"))
    state = narrow.init(PARAMS)[0]
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(state.moments.inner_state)}
    assert dtypes == {"bfloat16"}
    assert state.memory.hidden.dtype == jnp.float32  # an LSTM's memory is small and exact
    wanted, updates = (trained(tx, 3)[0] for tx in (whole, narrow))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.05, atol=2e-5), updates, wanted)


@pytest.mark.parametrize("policy", slow_but(["skip"], ["hold", "skip"]))  # NN-Adam's quick one is "hold"
def test_a_bad_step_leaves_moments_and_memory_alone(weights, policy):
    """Under "skip" time goes on, and the loss is heard."""
    tx = rnn_mlp(weights=weights, nonfinite=policy)
    _, state = trained(tx, 2)
    bad = {**normal(5), "b": jnp.full(4, jnp.nan)}
    updates, after = tx.update(bad, state, PARAMS, value=jnp.float32(1.0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    before, after = (s.inner_state[0] for s in (state, after))
    jax.tree.map(np.testing.assert_array_equal, after.moments, before.moments)
    jax.tree.map(np.testing.assert_array_equal, after.memory, before.memory)
    assert int(after.step) == int(before.step) + (policy == "skip")
    assert int(after.losses.seen) == int(before.losses.seen) + (policy == "skip")


def test_states_and_gradients_of_other_parameters_are_refused(step):
    tx, _ = step
    with pytest.raises(CeloError, match="its gradient"):
        tx.update({**PARAMS, "w": jnp.ones((4, 3))}, tx.init(PARAMS), PARAMS, value=1.0)
    with pytest.raises(CeloError, match="its state"):
        tx.update(PARAMS, tx.init({**PARAMS, "w": jnp.ones((4, 3))}), PARAMS, value=1.0)
    state = tx.init(PARAMS)
    short = jax.tree.map(lambda x: x[:2] if x.shape == (4, 64) else x, state)
    with pytest.raises(CeloError, match=r"\(2, 64\), and \(4, 64\) belongs"):
        tx.update(PARAMS, short, PARAMS, value=1.0)
    with pytest.raises(CeloError, match="real floating-point"):
        tx.init({"w": jnp.ones(3, jnp.int32)})


def test_slopes_of_a_step_are_finite_where_a_tensor_is_zero(weights):
    tx, params = rnn_mlp(weights=weights), {"bias": jnp.zeros(3)}

    def length(params):
        updates, _ = tx.update({"bias": jnp.ones(3)}, tx.init(params), params, value=1.0)
        return jnp.sum(jnp.square(updates["bias"]))

    assert np.isfinite(jax.jit(jax.grad(length))(params)["bias"]).all()
