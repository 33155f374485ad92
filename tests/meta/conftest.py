"""optax's own promotion of dtypes, which is not strict, and problems whose meta-gradient is known."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.meta._unroll import Unroll
from celo.optimizers._base import LearnedOptimizer
from celo.tasks import Quadratics


@pytest.fixture(scope="module", autouse=True)
def users_dtype_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


class SgdState(NamedTuple):
    """The place in the run."""

    step: Any
    num_steps: Any

    keeps_time = True


@dataclasses.dataclass(frozen=True)
class Sgd(LearnedOptimizer):
    """Gradient descent with a learned rate and a learned decay of it: two weights with exact gradients."""

    theta_groups = ("sgd",)

    def init_theta(self, key):
        del key
        return {"sgd": {"log_rate": jnp.float32(-2.5), "slope": jnp.float32(0.1)}}

    def init(self, theta, params, num_steps):
        del theta, params
        return SgdState(jnp.zeros((), jnp.int32), num_steps)

    def update(self, theta, grads, state, params, *, value):
        del params, value
        step, num_steps = state
        fraction = step.astype(jnp.float32) / num_steps.astype(jnp.float32)
        rate = jnp.exp(theta["sgd"]["log_rate"] + theta["sgd"]["slope"] * 3.0 * fraction)
        return jax.tree.map(lambda g: -rate * g, grads), SgdState(step + 1, num_steps)


LENGTH = 5  # of a truncation


@pytest.fixture(scope="session")
def make_problem():
    """A function: shortest and longest horizon -> quadratics trained by gradient descent."""

    def make(horizon_min, horizon_max):
        family = Quadratics(dim=3, condition=4.0)
        return Unroll(
            family, Sgd(), truncation_length=LENGTH, horizon_min=horizon_min, horizon_max=horizon_max
        )

    return make


@pytest.fixture(scope="session")
def problem(make_problem):
    """Quadratics of four truncations each."""
    return make_problem(4 * LENGTH, 4 * LENGTH)


@pytest.fixture(scope="session")
def back_propagate():
    """A function: (problem, number of last steps that count, or None for all) -> gradient.

    The gradient is (mean, standard error) over many lives, of the mean loss over the steps that count.
    """

    def gradient(problem, last=None):
        def meta_loss(theta, key):
            life = problem.start(theta, key, jnp.int32(0), jax.random.fold_in(key, 1))

            def step(carry, number):
                params, state = carry
                loss, grads = jax.value_and_grad(lambda p: life.task.loss(p, (), None, ())[0])(params)
                updates, state = Sgd().update(theta, grads, state, params, value=loss)
                counts = number < life.num_steps
                if last is not None:
                    counts &= number >= life.num_steps - last
                return (jax.tree.map(jnp.add, params, updates), state), (jnp.where(counts, loss, 0.0), counts)

            steps = jnp.arange(problem.horizon_max, dtype=jnp.int32)
            losses, counts = jax.lax.scan(step, (life.params, life.opt_state), steps)[1]
            return jnp.sum(losses) / jnp.sum(counts, dtype=jnp.float32)

        keys = jax.random.split(jax.random.key(7), 20_000)
        theta = problem.optimizer.init_theta(None)
        gradients = stacked(jax.jit(jax.vmap(jax.grad(meta_loss), in_axes=(None, 0)))(theta, keys))
        return gradients.mean(axis=1), gradients.std(axis=1) / np.sqrt(gradients.shape[1])

    return gradient


@pytest.fixture(scope="session")
def exact(problem, back_propagate):
    """(mean, standard error) of the back-propagated gradient of the mean loss over whole lives."""
    return back_propagate(problem)


def stacked(gradients):
    return np.stack([gradients["sgd"]["log_rate"], gradients["sgd"]["slope"]])
