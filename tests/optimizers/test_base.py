"""The bridge from a learned optimizer to optax, with one whose steps are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError, OutOfRangeWarning
from celo.optimizers import LearnedOptimizer, as_optax
from celo.optimizers._base import chain

PARAMS = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(4.0)}
GRADS = {"w": jnp.asarray([0.5, 1.0]), "b": jnp.asarray(-2.0)}
THETA = {"toy": {"rate": jnp.float32(0.1)}}


@dataclasses.dataclass(frozen=True)
class Toy(LearnedOptimizer):
    """Steps of rate * loss * what is left of the horizon, against the gradient."""

    kernel: str = "auto"
    theta_groups = ("toy",)

    def init_theta(self, key):
        return {"toy": {"rate": jax.random.uniform(key)}}

    def init(self, theta, params, num_steps):
        del theta, params
        return jnp.zeros((), jnp.int32), num_steps

    def update(self, theta, grads, state, params, *, value):
        step, num_steps = state
        left = 1.0 - step.astype(jnp.float32) / num_steps.astype(jnp.float32)
        factor = -theta["toy"]["rate"] * value * left
        return jax.tree.map(lambda g, p: (factor * g).astype(p.dtype), grads, params), (step + 1, num_steps)


def close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), left, right)


def test_weights_horizon_parameters_and_loss_reach_the_optimizer():
    tx = as_optax(Toy(), THETA, 10)
    state = tx.init(PARAMS)
    for step, loss in enumerate((2.0, 3.0)):
        updates, state = tx.update(GRADS, state, PARAMS, value=loss)
        factor = -0.1 * loss * (1 - step / 10)
        close(updates, jax.tree.map(lambda g, f=factor: f * g, GRADS))
    assert [int(x) for x in state] == [2, 10]
    assert {x.dtype for x in state} == {jnp.dtype("int32")}


def test_a_horizon_may_be_traced():
    def state_of(num_steps):
        return as_optax(Toy(), THETA, num_steps).init(PARAMS)

    _, num_steps = jax.jit(state_of)(jnp.int32(25))
    assert (int(num_steps), num_steps.dtype) == (25, jnp.int32)


def test_arguments_that_others_in_a_chain_read_are_swallowed():
    tx = as_optax(Toy(), THETA, 10)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0, batch="anything")
    close(updates, jax.tree.map(lambda g: -0.1 * g, GRADS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"params": None, "value": 1.0}, r"params=None; call update\(grads, state, params, value=loss\)"),
        ({"params": PARAMS}, r"value=None; call update\(grads, state, params, value=loss\)"),
        ({"params": PARAMS, "value": jnp.ones(3)}, r"shape \(3,\); pass its mean"),
    ],
)
def test_what_is_missing_is_named_with_the_call_that_has_it(arguments, message):
    tx = as_optax(Toy(), THETA, 10)
    with pytest.raises(CeloError, match=message):
        tx.update(GRADS, tx.init(PARAMS), **arguments)


def test_a_bad_horizon_is_refused_before_anything_is_made():
    with pytest.raises(CeloError, match="num_steps must be a positive whole number, got 0"):
        as_optax(Toy(), THETA, 0)


@pytest.mark.parametrize("missing", ["init_theta", "init", "update"])
def test_an_optimizer_that_lacks_a_method_cannot_be_made(missing):
    methods = {name: getattr(Toy, name) for name in ("init_theta", "init", "update") if name != missing}
    half = type("Half", (LearnedOptimizer,), methods)
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        half()
    assert LearnedOptimizer.optional_theta == {}


# What optimizers of optax offer besides


def chained(**settings):
    """The first updates of a chain whose link gives back what it gets, which stands for steps downhill."""
    defaults = {"learning_rate": 1.0, "weight_decay": 0.0, "mask": None, "nonfinite": None}
    tx = chain(optax.identity(), **{**defaults, **settings})
    return tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))[0]


def test_the_learning_rate_multiplies_steps_and_does_not_turn_them_around():
    close(chained(), GRADS)
    close(chained(learning_rate=0.25), jax.tree.map(lambda g: 0.25 * g, GRADS))
    close(chained(learning_rate=lambda count: jnp.float32(3.0)), jax.tree.map(lambda g: 3 * g, GRADS))


@pytest.mark.parametrize("decay", [0.5, jnp.float32(0.5), 0.0, jnp.float32(0.0)], ids=repr)
def test_decay_pulls_towards_zero_in_adamws_units(decay):
    expected = jax.tree.map(lambda g, p: 0.1 * (g - 1e-2 * float(decay) * p), GRADS, PARAMS)
    close(chained(learning_rate=0.1, weight_decay=decay), expected)


def test_what_the_mask_leaves_out_does_not_decay():
    updates = chained(weight_decay=0.5, mask={"w": True, "b": False})
    close(updates, {"w": GRADS["w"] - 0.5e-2 * PARAMS["w"], "b": GRADS["b"]})


def test_what_scales_the_steps_scales_the_decay():
    tx = chain(
        optax.clip(1.0),
        optax.scale(2.0),
        learning_rate=0.5,
        weight_decay=10.0,
        mask=None,
        nonfinite=None,
    )
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    close(updates, jax.tree.map(lambda g, p: jnp.clip(g, -1, 1) - 0.1 * p, GRADS, PARAMS))


def test_a_negative_rate_is_refused_and_one_like_adams_warned_of():
    with pytest.raises(CeloError, match=r"learning_rate must be finite and at least 0, got -0\.1"):
        chained(learning_rate=-0.1)
    with pytest.warns(OutOfRangeWarning, match=r"learning_rate is 0\.001, and multiplies learned steps"):
        chained(learning_rate=1e-3)


def test_a_guard_stands_around_all_of_it():
    """A step with a bad gradient does nothing, not even decay."""
    tx = chain(optax.identity(), learning_rate=1.0, weight_decay=0.5, mask=None, nonfinite="skip")
    bad = {"w": GRADS["w"].at[0].set(jnp.nan), "b": GRADS["b"]}
    updates, state = tx.update(bad, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(state.bad_gradients) == 1
    with pytest.raises(CeloError, match="skp"):
        chain(optax.identity(), learning_rate=1.0, weight_decay=0.0, mask=None, nonfinite="skp")
