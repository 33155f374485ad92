"""The update rule under a linear decay to zero: what trains a rule that will later run under a schedule."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax.numpy as jnp

from celo._arguments import check_state
from celo._definitions import REFERENCE_HORIZON
from celo._kernels import native
from celo._tree import scaled
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer
from celo.optimizers._update_rule import MATRIX_STEP, RuleState, SplitState, UpdateRule

# At -0.5 undirected steps would carry a run as far at any horizon. Tried on a rule trained without it, -0.33
# to -0.5 was best beyond its horizons and -0.25 to -0.5 below (results/LOG.md).
HORIZON_POWER = -0.4


class DecayedState(NamedTuple):
    """The rule's statistics and the place in the run."""

    rule: RuleState | SplitState
    step: Array  # int32, steps taken
    num_steps: Array  # int32, the horizon

    keeps_time = True  # `with_horizon` finds it by this


@dataclasses.dataclass(frozen=True)
class DecayedRule(LearnedOptimizer):
    """`UpdateRule` times (1 - step / num_steps) * (num_steps / 1000)^-0.4.

    Under a constant step a rule must choose between fast steps and calm ones. The published first phase
    asks it to; ours (recipe `laptop`) trains it for the decay that the scheduler begins with.

    It steps matrices, too, where θ has them step along their momentum afterwards: a network that had seen
    vectors alone would step thin matrices badly.

    Attributes:
      kernel: as in `UpdateRule`.

    Raises:
      CeloError: as `UpdateRule`.
    """

    kernel: str = "auto"
    theta_groups: ClassVar[tuple[str, ...]] = UpdateRule.theta_groups
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = UpdateRule.optional_theta
    fixed_theta: ClassVar[tuple[str, ...]] = (*UpdateRule.fixed_theta, MATRIX_STEP)

    def __post_init__(self):
        native.check_kernel(self.kernel)

    @property
    def _rule(self) -> UpdateRule:
        return UpdateRule(self.kernel, orthogonalize=False)

    def init_theta(self, key: Key) -> Theta:
        """As `UpdateRule`."""
        return self._rule.init_theta(key)

    def init(self, theta: Theta, params: Params, num_steps: Array) -> DecayedState:
        """Zero statistics, step 0."""
        rule = self._rule.init(theta, params, num_steps)
        return DecayedState(rule, jnp.zeros((), jnp.int32), jnp.array(num_steps, jnp.int32))

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, DecayedState]:
        """The rule's step, times what is left of the run; zero beyond the horizon."""
        check_state(state, DecayedState)
        updates, rule = self._rule.update(theta, grads, state.rule, params, value=value)
        eta = linear_decay(state.step, state.num_steps) * horizon_scale(state.num_steps)
        return scaled(updates, eta), DecayedState(rule, state.step + 1, state.num_steps)


def linear_decay(step: Array, num_steps: Array) -> Array:
    """1 - step / num_steps, not below 0; float32."""
    return jnp.maximum(0.0, 1.0 - step.astype(jnp.float32) / num_steps.astype(jnp.float32))


def horizon_scale(num_steps: Array) -> Array:
    """(num_steps / 1000)^-0.4: makes a step that suits 1,000 steps suit another horizon; float32."""
    return jnp.power(num_steps.astype(jnp.float32) / REFERENCE_HORIZON, HORIZON_POWER)
