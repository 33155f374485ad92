"""VeLO: an LSTM for each tensor mixes its update rule from a bank of them (Metz et al., arXiv 2211.09760).

The rules of the bank, k = 1 … K, are networks of the form of Celo's. For tensor i with the inputs f_i,

    x_i = W_skip f_i + max_j relu(W_mix f_j)         the maximum over all tensors
    h_i = LSTM(x_i)
    theta_i = s / K * sum_k (W_control h_i)_k theta_k
    step_i = (w_step . h_i) * network(theta_i)       as in `_kernels.rule_network`

with biases everywhere, and s = 1 or 100. Weights are mixed, not outputs: a tensor's step costs one small
network, whatever K is. Neither the shares of the bank nor the factor w_step . h_i are bounded, and both may
be negative.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo._arguments import (
    check_num_steps,
    check_parameters,
    check_rows,
    check_state,
)
from celo._definitions import (
    CELO,
    HIDDEN,
    MIXTURE_SCALES,
    MOST_AXES,
    NUM_INPUTS,
    SMALLEST_SQUARE,
    STEP_SCALE,
    TENSOR_INPUTS,
    VELO_INPUTS,
)
from celo._errors import CeloError
from celo._kernels import native
from celo._kernels.stacking import PerLayer, as_rows, count_tensors, leading_axes, over_tensors
from celo._kernels.statistics import TensorStats, log_size, mean_and_variance
from celo._layout import varying_zero
from celo._nn import lstm_step, truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, read
from celo.optimizers._rule_steps import (
    RuleState,
    checked_tensors,
    computed_together,
    init_state,
    pack,
    tensor_update,
)
from celo.optimizers._schedule import (
    LossHistory,
    hold_plateau,
    loss_features,
    no_losses,
    observe,
    published_averaging,
    time_features,
)
from celo.transforms._low_precision_state import CompactState

BANK, CONTROLLER = "rule_bank", "controller"


class ControllerState(NamedTuple):
    """What the LSTM remembers of each tensor, and what it hears of time and loss."""

    step: Array  # int32, steps taken
    num_steps: Array  # int32, the horizon
    losses: LossHistory
    hidden: Array  # [tensors, units]; a stacked tensor counts as that many
    cell: Array  # [tensors, units]

    keeps_time = True  # `with_horizon` and plateaus find it by this


class VeloState(NamedTuple):
    """Statistics of the gradients, and the controller."""

    rule: RuleState | CompactState
    controller: ControllerState


@dataclasses.dataclass(frozen=True)
class Velo(LearnedOptimizer):
    """The whole optimizer. The defaults are those of VeLO-S; VeLO has 512 units and a bank of 256.

    θ is {"rule_bank": the weights of `UpdateRule`, each with an axis [banks] in front; "controller": {mix_w
    and skip_w [30, units], lstm_w [2 * units, 4 * units], control_w [units, banks], step_w [units], their
    biases, and the first state h0 and c0 [units]}}.

    Attributes:
      kernel: what computes the tensors' networks, as in `UpdateRule`.
      units: of the LSTM.
      banks: how many rules there are to mix.
      mixture_scale: s. Shapes do not tell it: it is 100 for the weights that VeLO's authors released, and 1
        for trainings on a small scale, which 100 makes unstable.
      per_layer: as in `UpdateRule`; each layer of a stacked tensor has its own network.

    Raises:
      CeloError: for an unknown kernel, or a native one that does not work here; for a `mixture_scale` out of
        its range.
    """

    kernel: str = "auto"
    units: int = 64
    banks: int = 32
    mixture_scale: float = 1.0
    per_layer: PerLayer = None
    theta_groups: ClassVar[tuple[str, ...]] = (BANK, CONTROLLER)

    def __post_init__(self):
        if isinstance(self.mixture_scale, int | float) and not 0 < self.mixture_scale < math.inf:
            raise CeloError(
                f"mixture_scale must be positive and finite, got {self.mixture_scale!r}; it is 100 for the "
                "weights that VeLO's authors released, and 1 for others"
            )
        native.check_kernel(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Truncated normal weights of deviation 1/sqrt(fan in), zero biases and first state.

        44,193 weights in the defaults' size. Their first steps are of 1e-9 of a tensor's size: the mean of a
        bank of independent weights is small.
        """
        key_bank, key_mix, key_skip, key_lstm, key_control, key_step = jax.random.split(key, 6)

        def layer(key: Key, inputs: int, outputs: int, *banks: int) -> tuple[Array, Array]:
            weights = truncated_normal_fan_in(key, (*banks, inputs, outputs), inputs)
            return weights, jnp.zeros((*banks, outputs), jnp.float32)

        units, widths = self.units, (NUM_INPUTS, HIDDEN, HIDDEN, CELO.outputs)
        bank = {}
        for n, layer_key in enumerate(jax.random.split(key_bank, len(widths) - 1)):
            bank[f"w{n}"], bank[f"b{n}"] = layer(layer_key, widths[n], widths[n + 1], self.banks)
        controller = {"h0": jnp.zeros((units,), jnp.float32), "c0": jnp.zeros((units,), jnp.float32)}
        for name, layer_key, inputs, outputs in (
            ("mix", key_mix, VELO_INPUTS, units),
            ("skip", key_skip, VELO_INPUTS, units),
            ("lstm", key_lstm, 2 * units, 4 * units),
            ("control", key_control, units, self.banks),
        ):
            controller[f"{name}_w"], controller[f"{name}_b"] = layer(layer_key, inputs, outputs)
        controller["step_w"] = truncated_normal_fan_in(key_step, (units,), units)
        controller["step_b"] = jnp.zeros((), jnp.float32)
        return {BANK: bank, CONTROLLER: controller}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> VeloState:
        """Zero statistics, and for each tensor the LSTM's first state.

        Raises:
          CeloError: if a parameter is not a real floating-point array, or `per_layer` does not fit.
        """
        check_parameters(params)
        layers = leading_axes(self.per_layer, params)
        rule = init_state(params, layers)
        leaves = jax.tree.leaves(params)
        rows, zero = sum(count_tensors(leaves, layers)), varying_zero(leaves)

        def for_each(first: Array) -> Array:
            return jnp.array(jnp.broadcast_to(first, (rows, *first.shape)), jnp.float32) + zero

        controller = ControllerState(
            step=jnp.zeros((), jnp.int32),
            num_steps=jnp.array(num_steps, jnp.int32),
            losses=no_losses(),
            hidden=for_each(theta[CONTROLLER]["h0"]),
            cell=for_each(theta[CONTROLLER]["c0"]),
        )
        return VeloState(rule, controller)

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, VeloState]:
        """The controller for all tensors at once, then each tensor's own network."""
        check_state(state, VeloState)
        layers = leading_axes(self.per_layer, params)
        kernel = native.resolve(self.kernel)
        tensors = checked_tensors(state.rule, grads, params, layers, kernel)
        # The LSTM hears of gradients up to the last step's, the networks of this one too: as published.
        groups = computed_together(tensors, layers, "xla")
        heard = over_tensors(tensor_inputs, [(stats, p) for stats, _, p in tensors], layers, groups)
        controls, factors, controller = _control(
            theta[CONTROLLER], state.controller, heard, [p.size for _, _, p in tensors], value
        )
        networks = self._mixed(theta[BANK], controls, factors, [x.shape[:-1] for x in heard])
        step = functools.partial(tensor_update, CELO, kernel, 0.0)
        with_networks = [(own, *tensor) for own, tensor in zip(networks, tensors, strict=True)]
        steps = over_tensors(step, with_networks, layers, computed_together(tensors, layers, kernel))
        updates = [update.astype(p.dtype) for (update, _), (_, _, p) in zip(steps, tensors, strict=True)]
        treedef = jax.tree.structure(params)
        rule = pack([stats for _, stats in steps], treedef)
        return jax.tree.unflatten(treedef, updates), VeloState(rule, controller)

    def _mixed(
        self, bank: dict[str, Array], controls: Array, factors: Array, leads: list[tuple[int, ...]]
    ) -> list[dict[str, Array]]:
        """Each tensor's own network, the factor of its step within.

        Args:
          bank: weights of the rules.
          controls: [tensors, banks].
          factors: [tensors].
          leads: sizes of the axes of each leaf that count tensors; its network's weights have them too.
        """
        share = self.mixture_scale / self.banks
        mixed = {name: share * jnp.tensordot(controls, array, axes=1) for name, array in bank.items()}
        # The direction, and with it the step, is linear in the first column of the last layer.
        for name in ("w2", "b2"):
            last = mixed[name]
            scale = jnp.stack([factors, jnp.ones_like(factors)], axis=-1)
            mixed[name] = last * scale.reshape(-1, *[1] * (last.ndim - 2), CELO.outputs)
        ends = np.cumsum([0, *map(math.prod, leads)])
        return [
            {name: w[ends[n] : ends[n + 1]].reshape(*lead, *w.shape[1:]) for name, w in mixed.items()}
            for n, lead in enumerate(leads)
        ]


def tensor_inputs(stats: TensorStats, param: Array) -> Array:
    """What the LSTM hears of one tensor by itself; shape [12].

    The mean of the second moments (1), one-hot how many axes are longer than one (5; more than four: zeros),
    the variances of the momenta (3) and of the second moments (3). Momenta and second moments are divided by
    the tensor's root mean square, and given as half a logarithm, between -2.5 and 2.5.
    """
    if param.size == 0:  # means over nothing are NaN
        return jnp.zeros((TENSOR_INPUTS,), jnp.float32)
    param = param.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.maximum(SMALLEST_SQUARE, jnp.mean(jnp.square(param))))
    of_momenta = [mean_and_variance([m]) for m in stats.momenta]
    mean, variance = mean_and_variance([stats.second_moment])
    # The published variance of second moments is taken around the momenta's means, hence once for each.
    around = [variance + jnp.square(mean - other) for other, _ in of_momenta]
    variances = jnp.stack([*(own for _, own in of_momenta), *around]) * jnp.square(inverse)
    axes = jax.nn.one_hot(sum(size > 1 for size in param.shape), MOST_AXES + 1, dtype=jnp.float32)
    sizes = [0.5 * log_size(10.0 * x) for x in (mean[None] * inverse, variances)]
    return jnp.concatenate([sizes[0], axes, sizes[1]])


def _control(
    theta: dict[str, Array], state: ControllerState, heard: list[Array], sizes: list[int], loss: Array
) -> tuple[Array, Array, ControllerState]:
    """One step of the LSTM for all tensors.

    Args:
      theta: the controller's weights.
      state: before this step.
      heard: `tensor_inputs` of each leaf, [..., 12] where it is a stack.
      sizes: of the leaves; those without elements have no say in what others hear.
      loss: a scalar.

    Returns:
      (shares of the bank [tensors, banks], factors of the steps [tensors], new state).
    """
    losses, means = observe(state.losses, loss, state.num_steps, published_averaging)
    shared = [time_features(state.step, state.num_steps), loss_features(means, losses)]
    own = as_rows(heard, TENSOR_INPUTS)
    check_rows(state.hidden, (len(own), theta["h0"].size))
    inputs = jnp.concatenate([*(jnp.broadcast_to(x, (len(own), x.size)) for x in shared), own], axis=1)
    # A layer before this one, whose output the published code overwrites, is not part of θ.
    mix = jax.nn.relu(inputs @ theta["mix_w"] + theta["mix_b"])
    has_say = np.repeat(np.array(sizes, bool), [x.size // TENSOR_INPUTS for x in heard])
    loudest = jnp.max(mix, axis=0, initial=0.0, where=has_say[:, None])
    x = inputs @ theta["skip_w"] + theta["skip_b"] + loudest
    lstm = jax.vmap(lstm_step, in_axes=(0, 0, 0, None, None))
    hidden, cell = lstm(x, state.hidden, state.cell, theta["lstm_w"], theta["lstm_b"])
    state = ControllerState(state.step + 1, state.num_steps, losses, hidden, cell)
    controls = hidden @ theta["control_w"] + theta["control_b"]
    return controls, hidden @ theta["step_w"] + theta["step_b"], state


def velo(
    num_steps: int,
    *,
    weights: WeightsLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    plateau: float | None = None,
    per_layer: PerLayer = None,
    mixture_scale: float | None = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """VeLO as an optax transformation. No weights of it are bundled: convert the published ones.

    >>> import celo, jax, jax.numpy as jnp
    >>> theta = celo.optimizers.Velo().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.velo(num_steps=100, weights=theta)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params, value=1.0)

    Args:
      num_steps: the steps that training will take (the horizon); `celo.with_horizon` changes it in mid-run.
      weights: a path to a .safetensors file (`celo convert theta.state velo.safetensors`), or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: decoupled, in AdamW's units: each step also subtracts weight_decay * parameter times 0.001
        * learning_rate. It does not follow the learned steps, which differ from tensor to tensor.
      mask: what is decayed, as in `celo.celo`.
      nonfinite: what a step does whose gradient or loss is not finite, as in `celo.celo`.
      plateau: a share of the horizon where time stands still until `celo.cool_down`.
      per_layer: for tensors that stack layers, as in `celo.celo`; each layer then has its own network.
      mixture_scale: as in `Velo`. None: what the architecture in the file says, 100 for "velo_4000"; else 1.
      state_dtype: "bfloat16" halves the statistics of the gradients.
      kernel: "auto", "native" or "xla", as in `celo.celo`.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: as `celo.celo`.

    Warns:
      OutOfRangeWarning: as `celo.celo`.

    References:
      Metz, Harrison, Freeman, et al., "VeLO: Training Versatile Learned Optimizers by Scaling Up",
      arXiv 2211.09760.
    """
    found = read(weights)
    if mixture_scale is None:
        mixture_scale = MIXTURE_SCALES.get(found.architecture or "", 1.0)
    units, banks = _sizes(found.theta)
    optimizer = Velo(kernel, units, banks, mixture_scale, per_layer)
    bound = found.bind(optimizer)
    horizon = check_num_steps(num_steps)
    bound.check_horizon(horizon)
    tx = with_weights(
        optimizer, bound, num_steps=horizon, reads_loss=True, state_dtype=state_dtype, field="rule"
    )
    return chain(
        tx if plateau is None else hold_plateau(tx, plateau),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
        unit=STEP_SCALE,
    )


def _sizes(theta: Any) -> tuple[int, int]:
    """(units, banks) of θ; the defaults where it is no θ of VeLO, which is then refused by name."""
    try:
        return theta[CONTROLLER]["h0"].shape[0], theta[CONTROLLER]["control_b"].shape[0]
    except (KeyError, IndexError, AttributeError, TypeError):
        return Velo.units, Velo.banks
