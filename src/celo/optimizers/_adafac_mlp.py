"""AdaFac-MLP, or small_fc_lopt: a small network with Adafactor's statistics among its inputs.

Metz et al., "Practical tradeoffs between memory, compute, and performance in learned optimizers" (arXiv
2203.11860). For a parameter p, the network's direction d and magnitude s give

    update = -0.001 * d * exp(0.001 * s)

Of Celo's 30 inputs (`_kernels.rule_network`) it has all but the clipped gradient and the gradient over its
root mean square, and 11 of time besides, tanh(t / T - 1) for T from 1 to 100,000 steps. What else Celo
changed: here the decays are learned, no gradient is clipped, and steps do not grow with their tensor.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo._arguments import check_parameters, check_state
from celo._definitions import (
    CELO,
    FACTORED_DECAYS,
    INPUTS,
    MOMENTUM_DECAYS,
    SECOND_MOMENT_DECAY,
    STEP_SCALE,
    TIME_SCALES,
)
from celo._kernels import native, rule_network
from celo._kernels.stacking import PerLayer, leading_axes, over_tensors
from celo._kernels.statistics import TensorStats, unclipped_gradient, update_stats
from celo._nn import truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, read
from celo.optimizers._rule_steps import RuleState, checked_tensors, computed_together, init_state, pack

GROUP = "adafac_mlp"
HIDDEN = 4
NAMES = tuple(name for name in INPUTS if name not in ("clipped_grad", "grad_over_rms"))
NUM_TENSOR_INPUTS = sum(INPUTS[name] for name in NAMES)
NUM_INPUTS = NUM_TENSOR_INPUTS + len(TIME_SCALES)
RULE = dataclasses.replace(
    CELO, name="adafac_mlp", matrix_inputs=NAMES, vector_inputs=NAMES, vector_floor=1e-6
)


class AdafacMLPState(NamedTuple):
    """Statistics of the gradients, and the time."""

    statistics: RuleState
    step: Array  # int32, steps taken


@dataclasses.dataclass(frozen=True)
class AdafacMLP(LearnedOptimizer):
    """The whole optimizer, as meta-training takes it. It reads neither the horizon nor the loss.

    θ is {"adafac_mlp": {w0 [39, hidden], b0, w1 [hidden, hidden], b1, w2 [hidden, 2], b2, momentum_decays
    [3], second_moment_decay [], factored_decays [3]}}, 197 weights at 4 hidden units. Those of a decay d say
    how far log(1 - d) / 10 is from that of Celo's. There may be a scalar `log_step`: steps are the
    exponential of it times as long.

    Attributes:
      kernel: of no consequence: there is no native one.
      per_layer: how many leading axes of each tensor count tensors, as in `UpdateRule`.
      hidden: units of each of the two hidden layers.

    Raises:
      CeloError: for an unknown kernel.
    """

    kernel: str = "auto"
    per_layer: PerLayer = None
    hidden: int = HIDDEN
    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = {f"{GROUP}/log_step": ()}

    def __post_init__(self):
        native.check_name(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Truncated normal weights of deviation 1/sqrt(fan in), zero biases, Celo's decays."""
        keys = jax.random.split(key, 3)
        sizes = (NUM_INPUTS, self.hidden, self.hidden, 2)
        group = {
            "momentum_decays": jnp.zeros((len(MOMENTUM_DECAYS),), jnp.float32),
            "second_moment_decay": jnp.zeros((), jnp.float32),
            "factored_decays": jnp.zeros((len(FACTORED_DECAYS),), jnp.float32),
        }
        for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
            group[f"w{layer}"] = truncated_normal_fan_in(keys[layer], (inputs, outputs), inputs)
            group[f"b{layer}"] = jnp.zeros((outputs,), jnp.float32)
        return {GROUP: group}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> AdafacMLPState:
        """Zero statistics, step 0.

        Raises:
          CeloError: if a parameter is not a real floating-point array, or `per_layer` does not fit.
        """
        del theta, num_steps
        check_parameters(params)
        statistics = init_state(params, leading_axes(self.per_layer, params))
        return AdafacMLPState(statistics, jnp.zeros((), jnp.int32))

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, AdafacMLPState]:
        """One step of the rule for every tensor."""
        del value
        check_state(state, AdafacMLPState)
        own = theta[GROUP]
        # What time contributes to the first layer is the same for all parameters: part of its bias.
        bias = own["b0"] + time_inputs(state.step) @ own["w0"][NUM_TENSOR_INPUTS:]
        network = {**own, "w0": own["w0"][:NUM_TENSOR_INPUTS], "b0": bias}
        step = partial(_tensor_update, network, _decays(own))
        layers = leading_axes(self.per_layer, params)
        tensors = checked_tensors(state.statistics, grads, params, layers, "xla")
        groups = computed_together(tensors, "xla", layers)
        steps = over_tensors(step, tensors, layers, groups).apart()
        updates = [u.astype(p.dtype) for (u, _), (_, _, p) in zip(steps, tensors, strict=True)]
        treedef = jax.tree.structure(params)
        statistics = pack([stats for _, stats in steps], treedef)
        return jax.tree.unflatten(treedef, updates), AdafacMLPState(statistics, state.step + 1)


def time_inputs(step: Array) -> Array:
    """tanh(step / T - 1) for the eleven time scales T; shape [11]."""
    return jnp.tanh(step.astype(jnp.float32) / jnp.asarray(TIME_SCALES, jnp.float32) - 1.0)


def _decays(theta: dict[str, Array]) -> dict[str, Any]:
    """The decays that the weights stand for, as `update_stats` takes them.

    Momenta's are not kept from going below zero, the others' are; published so, and weights are trained with
    it.
    """

    def decays(offsets: Array, start: tuple[float, ...]) -> Array:
        return 1.0 - (1.0 - jnp.asarray(start, jnp.float32)) * jnp.exp(10.0 * offsets)

    second = decays(theta["second_moment_decay"][None], (SECOND_MOMENT_DECAY,))
    return {
        "momentum_decays": list(decays(theta["momentum_decays"], MOMENTUM_DECAYS)),
        "second_moment_decay": jnp.clip(second[0], 0.0, 1.0),
        "factored_decays": list(jnp.clip(decays(theta["factored_decays"], FACTORED_DECAYS), 0.0, 1.0)),
    }


def _tensor_update(
    network: dict[str, Array], decays: dict[str, Any], stats: TensorStats, grad: Array, param: Array
) -> tuple[Array, TensorStats]:
    """The rule for one tensor of any shape: (update, float32; new statistics)."""
    if param.size == 0:  # means over nothing are NaN
        return jnp.zeros(param.shape, jnp.float32), stats
    grad, param = unclipped_gradient(grad), param.astype(jnp.float32)
    stats = update_stats(stats, grad, **decays)
    step = rule_network.network_step(RULE, network, stats, grad, param)
    scale = STEP_SCALE * jnp.exp(network["log_step"]) if "log_step" in network else STEP_SCALE
    return scale * step, stats


def adafac_mlp(
    *,
    weights: WeightsLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """AdaFac-MLP as an optax transformation. No weights of it are bundled: convert published ones, or train.

    Weights of muLO and PyLO are of this architecture, with 32 hidden units; for muLO's scaling put
    `celo.transforms.mup_scale` after it.

    >>> import celo, jax, jax.numpy as jnp
    >>> theta = celo.optimizers.AdafacMLP().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.adafac_mlp(weights=theta)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)  # no value=

    Args:
      weights: a path to a .safetensors file (`celo convert theta.state adafac_mlp.safetensors`), or θ itself,
        of any number of hidden units.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: in AdamW's units: each step also subtracts weight_decay * parameter times what stands in
        for AdamW's learning rate, 0.001 * learning_rate.
      mask: what is decayed, as in `celo.celo`; so are the others.
      nonfinite: what a step does whose gradient is not finite.
      per_layer: for tensors that stack layers.
      state_dtype: "bfloat16" halves the state.
      kernel: as in `AdafacMLP`.

    Returns:
      A transformation whose `update` needs the parameters; `value=` may be given and is not read.

    Raises:
      CeloError: as `celo.celo`.

    References:
      Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, "Practical tradeoffs between memory, compute,
      and performance in learned optimizers", arXiv 2203.11860.
    """
    found = read(weights)
    units = np.shape(found.theta.get(GROUP, {}).get("b0", ()))
    bound = found.bind(AdafacMLP(kernel, hidden=units[0] if len(units) == 1 else HIDDEN))
    return chain(
        with_weights(AdafacMLP(kernel, per_layer), bound, state_dtype=state_dtype),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
        unit=STEP_SCALE,
    )
