"""NN-Adam where recordings are silent: Adam as its beginning, numbers that are not finite, layers, states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from small_model import PARAMS, normal

from celo._errors import CeloError
from celo.optimizers import NNAdam, nn_adam


@pytest.fixture(scope="module")
def weights(noisy_theta):
    return noisy_theta(NNAdam())


@pytest.fixture(scope="module")
def step(weights):
    tx = nn_adam(weights=weights)
    return tx, jax.jit(lambda grads, state: tx.update(grads, state, PARAMS))


def test_fresh_weights_are_adam_without_its_correction():
    """Of learning rate 1e-4: the LSTM moves nothing yet."""
    tx = nn_adam(weights=NNAdam().init_theta(jax.random.key(0)))
    state, m, v = tx.init(PARAMS), 0.0, 0.0
    for t in range(5):
        grads = normal(10 + t)
        updates, state = tx.update(grads, state, PARAMS)
        g = np.asarray(grads["w"], np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        np.testing.assert_allclose(updates["w"], -1e-4 * m / (1e-8 + np.sqrt(v + 1e-10)), rtol=1e-3)


def test_each_tensor_has_hyperparameters_of_its_own(step):
    tx, update = step
    state = tx.init(PARAMS)
    for t in range(3):
        _, state = update(normal(10 + t), state)
    rows = np.asarray(state[0].hyperparameters)
    assert rows.shape == (4, 4)
    assert len(np.unique(rows[:, 0])) == 4
    assert not np.any(rows == np.asarray(tx.init(PARAMS)[0].hyperparameters))


def test_hyperparameters_count_from_the_next_step_on(step):
    """In one step they decide the update, and then the LSTM moves them."""
    tx, update = step
    state = tx.init(PARAMS)
    moved = state[0]._replace(hyperparameters=state[0].hyperparameters + jnp.asarray([0.1, 0, 0, 0]))
    (ours, _), (theirs, _) = update(PARAMS, (moved, *state[1:])), update(PARAMS, state)
    np.testing.assert_allclose(ours["w"], np.e * theirs["w"], rtol=1e-4)  # 0.1 is a factor of e


@pytest.mark.parametrize(("bad", "counted"), [(np.nan, 0.0), (np.inf, 1e3), (-1e30, -1e3)])
def test_a_bad_element_is_clipped_and_does_not_stay(step, bad, counted):
    tx, update = step
    grads = normal(1)
    ours, theirs = (
        update({**grads, "w": grads["w"].at[1, 2].set(x)}, tx.init(PARAMS)) for x in (bad, counted)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for leaf in jax.tree.leaves(update(grads, ours[1])):
        assert np.all(np.isfinite(leaf))


def test_zero_gradients_move_nothing_at_all(step):
    tx, update = step
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, state = update(zeros, tx.init(PARAMS))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.slow
def test_stacked_layers_are_stepped_as_tensors_of_their_own(weights):
    stacked = {"block": jax.random.normal(jax.random.key(3), (3, 4, 5))}
    apart = {str(i): stacked["block"][i] for i in range(3)}
    together, one_by_one = (nn_adam(weights=weights, per_layer=axes) for axes in (1, None))
    states = [together.init(stacked), one_by_one.init(apart)]
    for t in range(3):
        grads = jax.random.normal(jax.random.key(10 + t), (3, 4, 5))
        ours, states[0] = together.update({"block": grads}, states[0], stacked)
        theirs, states[1] = one_by_one.update({str(i): grads[i] for i in range(3)}, states[1], apart)
        for i in range(3):
            np.testing.assert_allclose(ours["block"][i], theirs[str(i)], rtol=1e-4)


def test_half_the_moments(weights):
    narrow = nn_adam(weights=weights, state_dtype="bfloat16")
    state = narrow.init(PARAMS)[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.moments.inner_state)} == {"bfloat16"}
    assert state.hyperparameters.dtype == jnp.float32
    updates, state = narrow.update(normal(1), narrow.init(PARAMS), PARAMS)
    whole = nn_adam(weights=weights)
    wanted, _ = whole.update(normal(1), whole.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, wanted)


@pytest.mark.parametrize("policy", slow_but(["hold"], ["hold", "skip"]))  # RNN-MLP's quick one is "skip"
def test_a_bad_step_leaves_the_whole_state_alone(weights, policy):
    """All of it is made of gradients."""
    tx = nn_adam(weights=weights, nonfinite=policy)
    _, state = tx.update(normal(1), tx.init(PARAMS), PARAMS)
    bad = {**normal(5), "b": jnp.full(4, jnp.nan)}
    updates, after = tx.update(bad, state, PARAMS)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, after.inner_state[0], state.inner_state[0])


def test_states_and_gradients_of_other_parameters_are_refused(step):
    tx, _ = step
    with pytest.raises(CeloError, match="its gradient"):
        tx.update({**PARAMS, "w": jnp.ones((4, 3))}, tx.init(PARAMS), PARAMS)
    with pytest.raises(CeloError, match="its state"):
        tx.update(PARAMS, tx.init({**PARAMS, "w": jnp.ones((4, 3))}), PARAMS)
    state = tx.init(PARAMS)
    short = jax.tree.map(lambda x: x[:2] if x.shape == (4, 64) else x, state)
    with pytest.raises(CeloError, match=r"\(2, 64\), and \(4, 64\) belongs"):
        tx.update(PARAMS, short, PARAMS)
    with pytest.raises(CeloError, match="real floating-point"):
        tx.init({"w": jnp.ones(3, jnp.int32)})
