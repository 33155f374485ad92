"""RNN-MLP: an LSTM for each tensor, and a network for each parameter that it talks with (arXiv 2009.11243).

For a tensor i and a parameter p of it, with inputs f_i and f_p, and means over parameters and over tensors,

    h_i = LSTM([a, mean_p b_p, f_i])                      a and b from the step before
    (d, s, b_p) = network([f_p, W h_i])                   two hidden layers of 32 units
    update = -0.001 * d * exp(0.001 * s),    a = mean_i V h_i

The LSTM hears of moments, of the tensor's size and shape, and of the loss; the network of the gradient, the
parameter, five momenta and second moments, each divided by its root mean square, and of the time.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo import _tree as tree
from celo._arguments import (
    check_parameters,
    check_rows,
    check_shapes,
    check_state,
)
from celo._definitions import INPUT_FLOOR, LARGEST_GRADIENT, MAGNITUDE_SCALE, STEP_SCALE, TIME_SCALES
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
from celo._kernels.statistics import ema, finite_gradient, log_size, mean_and_variance
from celo._layout import varying_zero, zeros_beside
from celo._nn import lstm_step, truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, bind
from celo.transforms._low_precision_state import CompactState

GROUP = "rnn_mlp"
DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)  # of momenta and of second moments
UNITS, HIDDEN = 64, 32  # of the LSTM, and of each hidden layer
TO_NETWORK, TO_LSTM, ACROSS = 17, 16, 18  # W h, b, and a
SHOWN_AXES = 4  # of a tensor's shape
TENSOR_INPUTS = 18
PARAMETER_INPUTS = 3 + 4 * len(DECAYS)
NETWORK_INPUTS = PARAMETER_INPUTS + len(TIME_SCALES) + 3 + TO_NETWORK
LSTM_INPUTS = ACROSS + TO_LSTM + TENSOR_INPUTS
LOSS_DECAY, LOSS_FLOOR, LOSS_LIMIT = 0.9, 1e-8, 5.0
CLIP_DECAY, CLIP = 0.99, 10.0  # gradients are clipped to so many times the average of their size
LARGEST_LOSS = 1e15  # whose square is finite
TRUNCATED_DEVIATION = 0.87962566  # of a normal truncated at two deviations


class Moments(NamedTuple):
    """Averages of the gradients and of their squares, not bias-corrected; one pytree for each decay."""

    first: tuple[Params, ...]
    second: tuple[Params, ...]

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


class Memory(NamedTuple):
    """What the networks tell each other, and how large gradients are."""

    hidden: Array  # [tensors, 64]; a stacked tensor counts as that many
    cell: Array  # [tensors, 64]
    from_network: Array  # [tensors, 16], b
    across: Array  # [18], a
    gradient_size: Array  # average over time of gradients' root mean square, not bias-corrected
    seen: Array  # int32, gradients taken in

    holds_gradient_statistics = True


class LossAverages(NamedTuple):
    """Mean and variance of the loss over about ten steps, not bias-corrected."""

    mean: Array
    variance: Array
    seen: Array  # int32, losses taken in; those that are not finite are left out


class RNNMLPState(NamedTuple):
    """All that the optimizer remembers."""

    moments: Moments | CompactState
    memory: Memory
    losses: LossAverages
    step: Array  # int32, steps taken


@dataclasses.dataclass(frozen=True)
class RNNMLP(LearnedOptimizer):
    """The whole optimizer, as meta-training takes it. It reads the loss, and not the horizon.

    θ is {"rnn_mlp": {lstm_w [116, 256], lstm_b, h0 [64], c0 [64], to_network_w [64, 17], to_network_b,
    across_w [64, 18], across_b, w0 [54, 32], b0, w1 [32, 32], b1, w2 [32, 18], b2, first_across [18],
    first_from_network [16]}}, 35,799 weights.

    Attributes:
      kernel: of no consequence: there is no native one.
      per_layer: how many leading axes of each tensor count tensors, as in `UpdateRule`; the LSTM then has a
        state for each of them.

    Raises:
      CeloError: for an unknown kernel.
    """

    kernel: str = "auto"
    per_layer: PerLayer = None
    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)

    def __post_init__(self):
        native.check_name(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Truncated normal weights of deviation 1/sqrt(fan in), zero biases and initial state of the LSTM."""
        keys = iter(jax.random.split(key, 8))

        def linear(name: str, inputs: int, outputs: int) -> dict[str, Array]:
            weights = truncated_normal_fan_in(next(keys), (inputs, outputs), inputs)
            infix = "_" if name else ""
            return {f"{name}{infix}w": weights, f"{name}{infix}b": jnp.zeros((outputs,), jnp.float32)}

        group = {
            "first_across": _unit_variance(next(keys), ACROSS),
            "first_from_network": _unit_variance(next(keys), TO_LSTM),
            "h0": jnp.zeros((UNITS,), jnp.float32),
            "c0": jnp.zeros((UNITS,), jnp.float32),
            **linear("lstm", LSTM_INPUTS + UNITS, 4 * UNITS),
            **linear("to_network", UNITS, TO_NETWORK),
            **linear("across", UNITS, ACROSS),
        }
        sizes = (NETWORK_INPUTS, HIDDEN, HIDDEN, 2 + TO_LSTM)
        for layer in range(3):
            own = linear("", *sizes[layer : layer + 2])
            group |= {f"{name}{layer}": array for name, array in own.items()}
        return {GROUP: group}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> RNNMLPState:
        """Zero moments and averages; what is told for the first time is in θ.

        Raises:
          CeloError: if a parameter is not a real floating-point array, or `per_layer` does not fit.
        """
        del num_steps
        check_parameters(params)
        leaves = jax.tree.leaves(params)
        rows = sum(count_tensors(leaves, leading_axes(self.per_layer, params)))
        own, zero = theta[GROUP], varying_zero(leaves)

        def zeros() -> tuple[Params, ...]:
            return tuple(jax.tree.map(lambda p: zeros_beside(p, jnp.shape(p)), params) for _ in DECAYS)

        def scalar(value: float) -> Array:
            return jnp.full((), value, jnp.float32)

        memory = Memory(
            hidden=jnp.tile(own["h0"], (rows, 1)) + zero,
            cell=jnp.tile(own["c0"], (rows, 1)) + zero,
            from_network=jnp.tile(own["first_from_network"], (rows, 1)) + zero,
            # A copy: a donated state must not take θ along.
            across=jnp.array(own["first_across"], jnp.float32) + zero,
            gradient_size=scalar(1.0 - CLIP_DECAY) + zero,  # as after one gradient of size 1
            seen=jnp.zeros((), jnp.int32),
        )
        losses = LossAverages(scalar(0.0), scalar(0.0), jnp.zeros((), jnp.int32))
        return RNNMLPState(Moments(zeros(), zeros()), memory, losses, jnp.zeros((), jnp.int32))

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, RNNMLPState]:
        """The LSTM for all tensors at once, then the network for every parameter."""
        check_state(state, RNNMLPState)
        own, memory = theta[GROUP], state.memory
        leaves, treedef = jax.tree.flatten(params)
        layers = leading_axes(self.per_layer, params)
        check_shapes(params, grads, "its gradient")
        for moments in (*state.moments.first, *state.moments.second):
            check_shapes(params, moments, "its state")
        counts = count_tensors(leaves, layers)
        check_rows(memory.hidden, (sum(counts), UNITS))
        # Tensors without elements have an LSTM, too, which nobody hears.
        heard_of = np.repeat(np.array([p.size > 0 for p in leaves], bool), np.array(counts, int))
        present = max(int(heard_of.sum()), 1)

        clipped, size = _clipped(treedef.flatten_up_to(grads), memory, counts, present)
        first, second = (
            list(zip(*(treedef.flatten_up_to(moment) for moment in trees), strict=True))
            for trees in state.moments
        )
        groups = stackable(params, [(axes, g.dtype) for axes, g in zip(layers, clipped, strict=True)])
        tensors = list(zip(first, second, clipped, leaves, strict=True))
        heard = over_tensors(_hear, tensors, layers, groups)
        first, second = ([moments[n] for moments, _ in heard] for n in (0, 1))

        losses, loss_inputs = observe(state.losses, value)
        of_tensors = as_rows([inputs for _, inputs in heard], TENSOR_INPUTS - 2)
        shared = [jnp.broadcast_to(x, (sum(counts), len(x))) for x in (memory.across, loss_inputs)]
        split = TENSOR_INPUTS - 2 - 3  # where the loss comes in among the others
        inputs = [shared[0], memory.from_network, of_tensors[:, :split], shared[1], of_tensors[:, split:]]
        lstm = jax.vmap(lstm_step, in_axes=(0, 0, 0, None, None))
        inputs = jnp.concatenate(inputs, axis=1)
        hidden, cell = lstm(inputs, memory.hidden, memory.cell, own["lstm_w"], own["lstm_b"])
        across = hidden @ own["across_w"] + own["across_b"]
        across = jnp.sum(across, axis=0, where=heard_of[:, None]) / present

        told = from_rows(hidden @ own["to_network_w"] + own["to_network_b"], leaves, layers)
        bias = _shared_bias(own, state.step, present)
        tensors = list(zip(first, second, clipped, leaves, told, strict=True))
        steps = over_tensors(partial(_step, own, bias), tensors, layers, groups)
        updates = [u.astype(p.dtype) for (u, _), p in zip(steps, leaves, strict=True)]
        from_network = as_rows([said for _, said in steps], TO_LSTM)

        def trees(of_leaves: list[tuple[Array, ...]]) -> tuple[Params, ...]:
            return tuple(jax.tree.unflatten(treedef, [x[k] for x in of_leaves]) for k in range(len(DECAYS)))

        memory = Memory(hidden, cell, from_network, across, size, memory.seen + 1)
        moments = Moments(trees(first), trees(second))
        return jax.tree.unflatten(treedef, updates), RNNMLPState(moments, memory, losses, state.step + 1)


def _clipped(
    grads: list[Array], memory: Memory, counts: list[int], present: int
) -> tuple[list[Array], Array]:
    """Gradients, float32, clipped to ten times their usual size; and that size, with them taken in."""
    usual = memory.gradient_size / (1.0 - CLIP_DECAY ** (memory.seen + 1).astype(jnp.float32))
    limit = jnp.minimum(CLIP * usual, LARGEST_GRADIENT)
    clipped = [finite_gradient(g, limit) for g in grads]
    squares = [n * jnp.mean(jnp.square(g)) for g, n in zip(clipped, counts, strict=True) if g.size]
    size = jnp.sqrt(1e-8 + sum(squares, jnp.zeros(())) / present)
    return clipped, ema(memory.gradient_size, size, CLIP_DECAY)


def observe(losses: LossAverages, loss: Array) -> tuple[LossAverages, Array]:
    """Takes one loss in, and gives [2] inputs of the LSTM: how far it is above the mean, and how far 0 is.

    The second is what the published code makes of the loss on validation data as long as it is told none, as
    in its meta-training. It, and the first few values of the other, depend on the level of the loss.

    A loss that is not finite is left out, and NaN counts as infinite.
    """
    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
    bounded = jnp.clip(loss, -LARGEST_LOSS, LARGEST_LOSS)
    mean = ema(losses.mean, bounded, LOSS_DECAY)
    variance = ema(losses.variance, jnp.square(mean - bounded), LOSS_DECAY)
    after = LossAverages(mean, variance, losses.seen + 1)
    after = tree.where(jnp.isfinite(loss), after, losses)
    whole = 1.0 / (1.0 - LOSS_DECAY ** after.seen.astype(jnp.float32) + LOSS_FLOOR)
    distance = jnp.stack([loss, jnp.zeros(())]) - whole * after.mean
    inputs = distance * jax.lax.rsqrt(whole * after.variance + LOSS_FLOOR)
    return after, jnp.clip(inputs, -LOSS_LIMIT, LOSS_LIMIT)


def _hear(
    first: tuple[Array, ...], second: tuple[Array, ...], grad: Array, param: Array
) -> tuple[tuple[tuple[Array, ...], tuple[Array, ...]], Array]:
    """One tensor's moments with `grad` taken in, and its 16 inputs of the LSTM besides the loss's."""
    first = tuple(ema(m, grad, decay) for m, decay in zip(first, DECAYS, strict=True))
    second = tuple(ema(v, grad * grad, decay) for v, decay in zip(second, DECAYS, strict=True))
    if param.size == 0:  # means over nothing are NaN
        return (first, second), jnp.zeros((TENSOR_INPUTS - 2,), jnp.float32)
    param = param.astype(jnp.float32)
    (mean_m, var_m), (mean_v, var_v) = mean_and_variance(first), mean_and_variance(second)
    mean_p, var_p = mean_and_variance((param,))
    sizes = [*param.shape, *[1] * SHOWN_AXES][:SHOWN_AXES]  # of further axes nothing is heard, as published
    norms = [_norm(x) for x in (grad, param)]
    inputs = [
        log_size(norms[0]),
        jnp.float32(1.0 if param.ndim == 0 else -1.0),
        *(log_size(mean_m), jnp.sign(mean_m)),
        *(log_size(mean_v), jnp.sign(mean_v)),
        *(log_size(mean_p), jnp.sign(mean_p)),
        log_size(norms[1]),
        *(jnp.float32(math.log(size) - 1.0) for size in sizes),
        *(log_size(var_m), log_size(var_v), log_size(var_p)),
    ]
    return (first, second), jnp.stack(inputs)


def _shared_bias(own: dict[str, Array], step: Array, present: int) -> Array:
    """The network's first bias with what is the same for all parameters: time and the number of tensors."""
    rows = own["w0"][PARAMETER_INPUTS:]
    scales = jnp.pi * jnp.asarray(TIME_SCALES, jnp.float32)
    time = jnp.sin(step.astype(jnp.float32) / scales)
    return own["b0"] + time @ rows[: len(TIME_SCALES)] + (math.log(present) - 1.0) * rows[len(TIME_SCALES)]


def _step(
    own: dict[str, Array],
    bias: Array,
    first: tuple[Array, ...],
    second: tuple[Array, ...],
    grad: Array,
    param: Array,
    told: Array,
) -> tuple[Array, Array]:
    """The network over one tensor.

    Args:
      own: the weights.
      bias: [32], as `_shared_bias` gives it.
      first: momenta.
      second: second moments.
      grad: the clipped gradient.
      param: the parameters.
      told: [17], by the LSTM.

    Returns:
      (update, float32 of the tensor's shape; what the network tells the LSTM, [16]).
    """
    if param.size == 0:
        return jnp.zeros(param.shape, jnp.float32), jnp.zeros((TO_LSTM,), jnp.float32)
    param = param.astype(jnp.float32)
    inverse = [jax.lax.rsqrt(v + 1e-6) for v in second]
    scaled = [m * r for m, r in zip(first, inverse, strict=True)]
    channels = [grad, param, jnp.log(jnp.abs(param) + 1e-8), *first, *second, *scaled, *inverse]
    inputs = jnp.stack([x.reshape(-1) for x in channels], axis=1)
    scale = jax.lax.rsqrt(INPUT_FLOOR + jnp.mean(jnp.square(inputs), axis=0))
    of_tensor = jnp.stack([jnp.log(_norm(param) + 1e-8), jnp.float32(math.log(param.size))])
    bias = bias + jnp.concatenate([of_tensor, told]) @ own["w0"][-2 - TO_NETWORK :]
    hidden = jax.nn.relu(_product(inputs, own["w0"][:PARAMETER_INPUTS] * scale[:, None]) + bias)
    hidden = jax.nn.relu(_product(hidden, own["w1"]) + own["b1"])
    direction, magnitude = (_product(hidden, own["w2"][:, :2]) + own["b2"][:2]).T
    update = -STEP_SCALE * direction * jnp.exp(MAGNITUDE_SCALE * magnitude)
    # The last layer is linear: the mean of what it says is what it says of the mean.
    said = jnp.mean(hidden, axis=0) @ own["w2"][:, 2:] + own["b2"][2:]
    return update.reshape(param.shape), said


def _norm(x: Array) -> Array:
    """The Euclidean norm, 1e-15 for zeros, where its slope is then finite."""
    return jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-30)


def _product(inputs: Array, weights: Array) -> Array:
    return jnp.matmul(inputs, weights, precision=jax.lax.Precision.HIGHEST)


def _unit_variance(key: Key, size: int) -> Array:
    """Truncated normal of deviation 1/sqrt(size), what the truncation takes away made up for."""
    return truncated_normal_fan_in(key, (size,), size) / TRUNCATED_DEVIATION


def rnn_mlp(
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
    """RNN-MLP as an optax transformation. No weights of it are bundled: convert published ones, or train.

    >>> import celo, jax, jax.numpy as jnp
    >>> theta = celo.optimizers.RNNMLP().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.rnn_mlp(weights=theta)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params, value=1.0)

    Args:
      weights: a path to a .safetensors file (`celo convert theta.state rnn_mlp.safetensors`), or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: in AdamW's units: each step also subtracts weight_decay * parameter times what stands in
        for AdamW's learning rate, 0.001 * learning_rate.
      mask: what is decayed, as in `celo.celo`; so are the others.
      nonfinite: what a step does whose gradient or loss is not finite.
      per_layer: for tensors that stack layers; each layer then has its own LSTM.
      state_dtype: "bfloat16" halves the moments, ten numbers a parameter.
      kernel: as in `RNNMLP`.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: as `celo.celo`.

    References:
      Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein, "Tasks, stability, architecture, and compute:
      Training more effective learned optimizers, and using them to train themselves", arXiv 2009.11243.
    """
    optimizer = RNNMLP(kernel, per_layer)
    bound = bind(weights, optimizer)
    return chain(
        with_weights(optimizer, bound, reads_loss=True, state_dtype=state_dtype, field="moments"),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
        unit=STEP_SCALE,
    )
