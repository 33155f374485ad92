"""NN-Adam: Adam whose hyperparameters an LSTM moves, tensor by tensor (arXiv 2203.11860).

With Adam's moments m and v, not bias-corrected, and the tensor's own learning rate, decays and epsilon,

    update = -learning_rate * (1 + epsilon) * m / (epsilon + sqrt(v + 1e-10))

The factor 1 + epsilon lets a large epsilon turn Adam into momentum without a large learning rate. The LSTM
then hears of parameters, gradients, moments and hyperparameters, and moves these for the next step, each on a
scale of a tenth of a logarithm.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import check_parameters, check_rows, check_shapes, check_state
from celo._kernels import native
from celo._kernels.stacking import (
    PerLayer,
    as_rows,
    count_tensors,
    from_rows,
    leading_axes,
    over_tensors,
    stackable,
)
from celo._kernels.statistics import finite_gradient, log_size, mean_and_variance
from celo._layout import varying_zero, zeros_beside
from celo._nn import lstm_step, truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, bind
from celo.transforms._low_precision_state import CompactState

GROUP = "nn_adam"
UNITS, INPUTS = 64, 19
ROOT_FLOOR = 1e-10  # added inside the root
CONTROL_SCALE = 0.01  # of what the LSTM adds to a hyperparameter

# Hyperparameters in their order, as 0.1 * log: of the learning rate, of 1 - each decay, of epsilon.
START = (1e-4, 1.0 - 0.9, 1.0 - 0.999, 1e-8)
SMALLEST = (1e-8, math.exp(-10.0), math.exp(-10.0), 1e-11)
LARGEST = (1e3, 1.0, 1.0, 1e4)


class Moments(NamedTuple):
    """Averages of the gradients and of their squares, float32 and not bias-corrected."""

    first: Params
    second: Params


class NNAdamState(NamedTuple):
    """All that the optimizer remembers; it is made of gradients alone."""

    moments: Moments | CompactState
    hyperparameters: Array  # [tensors, 4] as 0.1 * log; a stacked tensor counts as that many
    hidden: Array  # [tensors, 64]
    cell: Array  # [tensors, 64]

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


@dataclasses.dataclass(frozen=True)
class NNAdam(LearnedOptimizer):
    """The whole optimizer, as meta-training takes it. It reads neither the horizon nor the loss.

    θ is {"nn_adam": {lstm_w [83, 256], lstm_b, h0 [64], c0 [64], out_w [64, 4], out_b [4], hyperparameters
    [4]}}, 21,896 weights. `hyperparameters` are what each tensor begins with.

    Attributes:
      kernel: of no consequence: there is no native one.
      per_layer: how many leading axes of each tensor count tensors, as in `UpdateRule`; each of them then has
        hyperparameters of its own.

    Raises:
      CeloError: for an unknown kernel.
    """

    kernel: str = "auto"
    per_layer: PerLayer = None
    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)

    def __post_init__(self):
        native.check_name(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """An LSTM that moves nothing yet: this is Adam of learning rate 1e-4 without bias correction."""
        group = {
            "lstm_w": truncated_normal_fan_in(key, (INPUTS + UNITS, 4 * UNITS), INPUTS + UNITS),
            "lstm_b": jnp.zeros((4 * UNITS,), jnp.float32),
            "h0": jnp.zeros((UNITS,), jnp.float32),
            "c0": jnp.zeros((UNITS,), jnp.float32),
            "out_w": jnp.zeros((UNITS, len(START)), jnp.float32),
            "out_b": jnp.zeros((len(START),), jnp.float32),
            "hyperparameters": 0.1 * jnp.log(jnp.asarray(START, jnp.float32)),
        }
        return {GROUP: group}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> NNAdamState:
        """Zero moments; hyperparameters and the LSTM's state are those of θ for each tensor.

        Raises:
          CeloError: if a parameter is not a real floating-point array, or `per_layer` does not fit.
        """
        del num_steps
        check_parameters(params)
        leaves = jax.tree.leaves(params)
        rows = sum(count_tensors(leaves, leading_axes(self.per_layer, params)))
        own, zero = theta[GROUP], varying_zero(leaves)
        first, second = (jax.tree.map(lambda p: zeros_beside(p, jnp.shape(p)), params) for _ in range(2))
        tiled = (jnp.tile(own[name], (rows, 1)) + zero for name in ("hyperparameters", "h0", "c0"))
        return NNAdamState(Moments(first, second), *tiled)

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, NNAdamState]:
        """A step of every tensor's Adam, then the LSTM for all tensors at once."""
        del value
        check_state(state, NNAdamState)
        own = theta[GROUP]
        leaves, treedef = jax.tree.flatten(params)
        layers = leading_axes(self.per_layer, params)
        for name, tree in (("its gradient", grads), *(("its state", moments) for moments in state.moments)):
            check_shapes(params, tree, name)
        check_rows(state.hidden, (sum(count_tensors(leaves, layers)), UNITS))

        grad_leaves = treedef.flatten_up_to(grads)
        settings = from_rows(state.hyperparameters, leaves, layers)
        moments = [treedef.flatten_up_to(tree) for tree in state.moments]
        tensors = list(zip(*moments, grad_leaves, leaves, settings, strict=True))
        groups = stackable(params, [(axes, g.dtype) for axes, g in zip(layers, grad_leaves, strict=True)])
        steps = over_tensors(_step, tensors, layers, groups)
        updates, first, second, heard = ([step[n] for step in steps] for n in range(4))

        lstm = jax.vmap(lstm_step, in_axes=(0, 0, 0, None, None))
        inputs = as_rows(heard, INPUTS)
        hidden, cell = lstm(inputs, state.hidden, state.cell, own["lstm_w"], own["lstm_b"])
        moved = state.hyperparameters + CONTROL_SCALE * (hidden @ own["out_w"] + own["out_b"])
        moments = Moments(jax.tree.unflatten(treedef, first), jax.tree.unflatten(treedef, second))
        return jax.tree.unflatten(treedef, updates), NNAdamState(moments, _bounded(moved), hidden, cell)


def _bounded(hyperparameters: Array) -> Array:
    """Those that are out of their range, [..., 4], set to its end."""
    smallest, largest = (0.1 * jnp.log(jnp.asarray(end, jnp.float32)) for end in (SMALLEST, LARGEST))
    return jnp.clip(hyperparameters, smallest, largest)


def _step(
    first: Array, second: Array, grad: Array, param: Array, hyperparameters: Array
) -> tuple[Array, Array, Array, Array]:
    """One tensor's step of Adam, and what the LSTM hears of it.

    Returns:
      (update in the parameter's dtype, first moment, second moment, [19] inputs of the LSTM).
    """
    if param.size == 0:  # means over nothing are NaN
        return jnp.zeros_like(param), first, second, jnp.zeros((INPUTS,), jnp.float32)
    grad, dtype = finite_gradient(grad), param.dtype
    rate, share_first, share_second, epsilon = jnp.exp(10.0 * _bounded(hyperparameters))
    first = first + share_first * (grad - first)
    second = second + share_second * (grad * grad - second)
    update = -rate * (1.0 + epsilon) / (epsilon + jnp.sqrt(second + ROOT_FLOOR)) * first

    param = param.astype(jnp.float32)
    (mean_g, var_g), (mean_m, var_m), (mean_p, var_p), (mean_v, var_v) = (
        mean_and_variance((x,)) for x in (grad, first, param, second)
    )
    now_rate, now_first, now_second, now_epsilon = 0.2 * jnp.clip(hyperparameters, -5.0, 5.0)
    inputs = [
        *(now_first, now_second, now_epsilon),
        *(jnp.float32(1.0 if param.ndim == axes else -1.0) for axes in (1, 0)),
        now_rate,
        *(0.5 * log_size(mean_g), jnp.sign(mean_g), 0.5 * log_size(jnp.mean(jnp.abs(grad)))),
        *(0.5 * log_size(mean_m), jnp.sign(mean_m)),
        *(0.5 * log_size(mean_p), jnp.sign(mean_p)),
        *(0.5 * log_size(mean_v), jnp.sign(mean_v)),
        *(0.5 * log_size(variance) for variance in (var_g, var_m, var_p, var_v)),
    ]
    return update.astype(dtype), first, second, jnp.stack(inputs)


def nn_adam(
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
    """NN-Adam as an optax transformation. No weights of it are bundled: convert published ones, or train.

    >>> import celo, jax, jax.numpy as jnp
    >>> theta = celo.optimizers.NNAdam().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.nn_adam(weights=theta)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)  # no value=

    Args:
      weights: a path to a .safetensors file (`celo convert theta.state nn_adam.safetensors`), or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: in AdamW's units: each step also subtracts weight_decay * parameter times 1e-4,
        where fresh weights begin, times `learning_rate`. It does not follow the learned rates, which differ
        from tensor to tensor.
      mask: what is decayed, as in `celo.celo`; so are the others.
      nonfinite: what a step does whose gradient is not finite.
      per_layer: for tensors that stack layers; each layer then has its own hyperparameters.
      state_dtype: "bfloat16" halves Adam's moments.
      kernel: as in `NNAdam`.

    Returns:
      A transformation whose `update` needs the parameters; `value=` may be given and is not read.

    Raises:
      CeloError: as `celo.celo`.

    References:
      Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, "Practical tradeoffs between memory, compute,
      and performance in learned optimizers", arXiv 2203.11860.
    """
    optimizer = NNAdam(kernel, per_layer)
    bound = bind(weights, optimizer)
    return chain(
        with_weights(optimizer, bound, state_dtype=state_dtype, field="moments"),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
        unit=START[0],
    )
