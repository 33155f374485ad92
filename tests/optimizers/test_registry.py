"""The registry of learned optimizers: what its entries must agree on, and that it is all there is to do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from celo.convert import LAYOUTS, read_official, to_official
from celo.meta import Recipe
from celo.optimizers import OPTIMIZERS, LearnedOptimizer, as_optax

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.asarray([0.5, -0.5])}


@pytest.fixture(params=OPTIMIZERS)
def name(request):
    return request.param


PUBLISHED = tuple(dict.fromkeys(layout.architecture for layout in LAYOUTS))


@pytest.mark.parametrize(
    "published",  # the larger VeLOs differ from the small one in size alone
    slow_but([name for name in PUBLISHED if name not in ("velo", "velo_4000")], PUBLISHED),
)
def test_files_of_every_published_architecture_hold_the_weights_of_an_optimizer(
    published, tmp_path, noisy_theta
):
    theta = jax.tree.map(np.asarray, noisy_theta(OPTIMIZERS[published].optimizer(kernel="xla")))
    to_official(theta, {}, tmp_path / "theta.state")
    found, _, architecture = read_official(tmp_path / "theta.state", published)
    assert architecture == published
    jax.tree.map(np.testing.assert_array_equal, found, theta)


@pytest.mark.parametrize(
    "name", slow_but(["celo", "celo_adam", "celo_rule", "celo2", "velo_s", "toy"], OPTIMIZERS)
)
def test_users_and_meta_training_get_the_same_optimizer(name, noisy_theta):
    """Half the learning rate is half the step."""
    entry = OPTIMIZERS[name]
    optimizer = entry.optimizer(kernel="xla")
    theta = noisy_theta(optimizer)

    def step(tx):
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))[0]

    whole = step(as_optax(optimizer, theta, 40))
    for rate in (1.0, 0.5):
        users = step(entry.transform(40, weights=theta, learning_rate=rate, kernel="xla"))
        jax.tree.map(lambda a, b, r=rate: np.testing.assert_allclose(a, r * b, rtol=1e-5), users, whole)
    assert all(leaf.any() for leaf in jax.tree.leaves(whole))


def test_phases_train_every_group_and_have_fields_in_a_recipe(name):
    entry = OPTIMIZERS[name]
    fields = {field.name for field in dataclasses.fields(Recipe)}
    for phase in entry.phases:
        assert {f"{phase.name}_steps", f"{phase.name}_learning_rate"} <= fields
    names = [phase.name for phase in entry.phases]
    assert len(set(names)) == len(names)
    trained = {group for phase in entry.phases for group in phase.trains}
    assert trained == set(entry.optimizer(kernel="xla").theta_groups)


def test_what_trains_in_a_phase_reads_what_is_trained(name):
    """And takes the θ of the whole optimizer, with all its groups."""
    entry = OPTIMIZERS[name]
    theta = jax.eval_shape(entry.optimizer(kernel="xla").init_theta, jax.random.key(0))
    for phase in entry.phases:
        for make in filter(None, (phase.optimizer, phase.decayed)):
            inner = make(kernel="xla")
            assert isinstance(inner, LearnedOptimizer)
            assert set(phase.trains) <= set(inner.theta_groups) <= set(theta)
            state = jax.eval_shape(inner.init, theta, PARAMS, jnp.int32(10))
            updates, after = jax.eval_shape(
                lambda t, s, inner=inner: inner.update(t, PARAMS, s, PARAMS, value=jnp.float32(1)),
                theta,
                state,
            )
            assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)
            assert after == state


def test_groups_of_fresh_weights_are_those_that_are_read(name):
    optimizer = OPTIMIZERS[name].optimizer(kernel="xla")
    theta = jax.eval_shape(optimizer.init_theta, jax.random.key(0))
    assert set(theta) == set(optimizer.theta_groups)
    for flat in optimizer.optional_theta:
        group, weight = flat.split("/")
        assert group in theta
        assert weight not in theta[group], "what is always there is not optional"


def test_the_rule_has_no_use_for_a_horizon(noisy_theta):
    entry = OPTIMIZERS["celo_rule"]
    theta = noisy_theta(entry.optimizer(kernel="xla"))
    short, long = (
        entry.transform(horizon, weights=theta, learning_rate=1.0, kernel="xla") for horizon in (1, 10_000)
    )
    steps = [tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0] for tx in (short, long)]
    jax.tree.map(np.testing.assert_array_equal, *steps)
