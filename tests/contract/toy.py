"""A learned optimizer and a task family from outside the package, as anyone would add them: one file.

`--import toy` and `toy:least_squares` are how the command line learns of them.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo.optimizers import OPTIMIZERS, Entry, LearnedOptimizer, TrainingPhase, as_optax
from celo.tasks import Task, TaskFamily


class ToyState(NamedTuple):
    momentum: dict  # pytree like the parameters, float32
    step: jax.Array  # int32


@dataclasses.dataclass(frozen=True)
class ToyMomentum(LearnedOptimizer):
    """Momentum with a learned rate and a learned decay; θ is two numbers."""

    kernel: str = "auto"
    theta_groups = ("toy",)

    def init_theta(self, key):
        log_rate = -3.0 + 0.1 * jax.random.normal(key, ())
        return {"toy": {"log_rate": log_rate, "decay": jnp.zeros(())}}

    def init(self, theta, params, num_steps):
        del theta, num_steps
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return ToyState(zeros, jnp.zeros((), jnp.int32))

    def update(self, theta, grads, state, params, *, value):
        del value
        decay = jax.nn.sigmoid(theta["toy"]["decay"])
        rate = jnp.exp(theta["toy"]["log_rate"])
        momentum = jax.tree.map(lambda m, g: decay * m + g.astype(jnp.float32), state.momentum, grads)
        updates = jax.tree.map(lambda m, p: (-rate * m).astype(p.dtype), momentum, params)
        return updates, ToyState(momentum, state.step + 1)


def toy_momentum(num_steps, *, weights, learning_rate=1.0, kernel="auto"):
    """As users would call it."""
    from celo import weights as weights_files

    theta = weights if isinstance(weights, dict) else weights_files.load(weights).theta
    return optax.chain(as_optax(ToyMomentum(kernel), theta, num_steps), optax.scale(learning_rate))


OPTIMIZERS["toy"] = Entry(ToyMomentum, toy_momentum, (TrainingPhase("rule", ("toy",), ToyMomentum),))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeastSquares(Task):
    """A line through noisy points."""

    slope: jax.Array

    def init(self, key):
        return {"w": jax.random.normal(key, (4,))}, ()

    def loss(self, params, model_state, key, batch):
        del key
        x, noise = batch
        return jnp.mean(jnp.square(x @ params["w"] - x @ self.slope - noise)), (model_state, {})


class LeastSquaresFamily(TaskFamily):
    members = ("line",)
    loss_cap = 100.0

    def sample(self, key, member):
        del member
        return LeastSquares(jax.random.normal(key, (4,)))

    def draw(self, key, count):
        return jax.random.normal(key, (count, 16, 5))

    def batch(self, task, split, draw):
        del task, split
        return draw[:, :4], np.float32(0.1) * draw[:, 4]


def least_squares():
    return LeastSquaresFamily()
