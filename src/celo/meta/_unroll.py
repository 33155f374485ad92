"""Inner training as a series of truncations: the problem a meta-gradient estimator works on."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo import _tree as tree
from celo._errors import CeloError
from celo._types import Array, Key, ModelState, OptState, Params, Theta
from celo.meta._estimators.base import Trajectory
from celo.meta._expert import Expert
from celo.meta._objective import Objective
from celo.optimizers._base import LearnedOptimizer
from celo.optimizers._horizon import prolonged
from celo.tasks._base import TaskFamily, value_and_grad


class UnrollState(NamedTuple):
    """One inner problem in the middle of its training."""

    number: Array  # int32, which particle this is
    task: Any
    params: Params
    model_state: ModelState
    opt_state: OptState
    step: Array  # int32, inner steps taken
    num_steps: Array  # int32, the horizon
    expert_state: Any = ()  # of `Unroll.expert`, if there is one


@dataclasses.dataclass(frozen=True)
class Unroll:
    """Tasks of a family, trained by a learned optimizer over random horizons.

    Horizons h lie in [horizon_min, horizon_max] with density h^-horizon_power (1: log-uniform), rounded to
    whole truncations: a problem then ends between two calls of `run`, no step is wasted on a reset, and
    resets cost once a truncation.
    Particle i trains on the family's kind i modulo the number of kinds.

    Attributes:
      family: where tasks and data come from.
      optimizer: what trains them.
      truncation_length: K, the `length` that `run` will be called with.
      objective: the cost of each step, which meta-training lowers.
      frozen: weights of θ that are used but not given by the estimator (not perturbed, not trained).
      expert: a hand-made optimizer that takes part in the steps (teacher forcing), or None.

    Raises:
      CeloError: if the horizons are not 1 <= min <= max, or max is below one truncation.
    """

    family: TaskFamily
    optimizer: LearnedOptimizer
    truncation_length: int = 50
    horizon_min: int = 100
    horizon_max: int = 2000
    horizon_power: float = 1.0
    objective: Objective = dataclasses.field(default_factory=Objective)
    frozen: Theta = dataclasses.field(default_factory=dict)
    expert: Expert | None = None

    def __post_init__(self):
        if not 1 <= self.horizon_min <= self.horizon_max or self.horizon_max < self.truncation_length:
            raise CeloError(
                "horizons need 1 <= horizon_min <= horizon_max and horizon_max >= truncation_length, got "
                f"{self.horizon_min}, {self.horizon_max} and {self.truncation_length}"
            )

    def init(self, theta: Theta, key: Key, index: Array) -> UnrollState:
        """A problem at a random point of its life, trained up to there with `theta`.

        At a random moment a horizon is the likelier to be met the longer it is: the density gains a factor h.
        """
        key_horizon, key_age, key_start, key_run = jax.random.split(key, 4)
        num_steps = self._horizon(key_horizon, self.horizon_power - 1)
        age = jax.random.randint(key_age, (), 0, num_steps // self.truncation_length)
        state = self._fresh(theta, key_start, index)._replace(num_steps=num_steps)
        state = state._replace(opt_state=self._init_optimizer(theta, state.params, num_steps))

        def older(carry: tuple[UnrollState, Array]) -> tuple[UnrollState, Array]:
            state, truncation = carry
            state, _ = self.run(theta, state, jax.random.fold_in(key_run, truncation), self.truncation_length)
            return state, truncation + 1

        start = (state, jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda carry: carry[1] < age, older, start)[0]

    def start(self, theta: Theta, key: Key, index: Array, key_horizon: Key) -> UnrollState:
        """A problem before its first step."""
        key_task, key_params, _ = jax.random.split(key, 3)
        task = self.family.sample(key_task, index % len(self.family.members))
        params, model_state = task.init(key_params)
        num_steps = self._horizon(key_horizon, self.horizon_power)
        opt_state = self._init_optimizer(theta, params, num_steps)
        step = jnp.zeros((), jnp.int32)
        expert_state = self.expert.init(params) if self.expert else ()
        return UnrollState(index, task, params, model_state, opt_state, step, num_steps, expert_state)

    def prolong(self, state: UnrollState, key: Key) -> UnrollState:
        """The same problem, with as many steps before it as a new one would have: an end becomes a middle.

        The optimizer's state is told the longer horizon where it keeps time, as `celo.with_horizon` does.
        """
        num_steps = state.step + self._horizon(key, self.horizon_power)
        return state._replace(num_steps=num_steps, opt_state=prolonged(state.opt_state, num_steps))

    def run(self, theta: Theta, state: UnrollState, key: Key, length: int) -> tuple[UnrollState, Trajectory]:
        """`length` inner steps; a problem that has ended is replaced by a new one first."""
        key_start, key_data, key_loss = jax.random.split(key, 3)
        over = state.step >= state.num_steps
        state = tree.where(over, self._fresh(theta, key_start, state.number), state)

        def step(state: UnrollState, now: tuple[Any, Key]) -> tuple[UnrollState, Trajectory]:
            draw, key = now
            batch = self.family.batch(state.task, "train", draw)
            loss, grads, model_state = value_and_grad(state.task, state.params, state.model_state, key, batch)
            updates, opt_state = self.optimizer.update(
                tree.united(self.frozen, theta), grads, state.opt_state, state.params, value=loss
            )
            finite = jnp.isfinite(loss)
            taken = state.step + 1
            loss = jnp.where(finite, jnp.clip(loss, 0.0, self.family.loss_cap), self.family.loss_cap)
            passed = taken.astype(jnp.float32) / state.num_steps.astype(jnp.float32)
            cost, expert_state = self.objective.cost(loss, passed, self.family.loss_cap), ()
            if self.expert:
                before = state.step.astype(jnp.float32) / state.num_steps.astype(jnp.float32)
                updates, distance, expert_state = self.expert.force(
                    updates, grads, state.expert_state, state.params, before
                )
                cost = self.expert.cost(cost, distance)
            params = jax.tree.map(jnp.add, state.params, updates)
            seen = Trajectory(losses=loss, costs=cost, nonfinite=~finite, ended=taken >= state.num_steps)
            return state._replace(
                params=params,
                model_state=model_state,
                opt_state=opt_state,
                step=taken,
                expert_state=expert_state,
            ), seen

        draws = self.family.draw(key_data, length)
        return jax.lax.scan(step, state, (draws, jax.random.split(key_loss, length)))

    def _fresh(self, theta: Theta, key: Key, index: Array) -> UnrollState:
        """A problem before its first step, with a horizon of its own: the last third of the key."""
        return self.start(theta, key, index, jax.random.split(key, 3)[2])

    def _init_optimizer(self, theta: Theta, params: Params, num_steps: Array) -> OptState:
        return self.optimizer.init(tree.united(self.frozen, theta), params, num_steps)

    def _horizon(self, key: Key, power: float) -> Array:
        """A horizon of density h^-power, in whole truncations: uniform in h^(1 - power), or in log h."""
        low, high, rise = float(self.horizon_min), float(self.horizon_max), 1.0 - power
        if rise == 0:
            horizon = jnp.exp(jax.random.uniform(key, (), jnp.float32, math.log(low), math.log(high)))
        else:
            ends = sorted((low**rise, high**rise))
            horizon = jax.random.uniform(key, (), jnp.float32, *ends) ** (1 / rise)
        truncations = jnp.maximum(1, jnp.round(horizon / self.truncation_length))
        return (truncations * self.truncation_length).astype(jnp.int32)
