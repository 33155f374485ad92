"""Celo's update rule: one small network, shared by all parameters, turns gradient statistics into a step.

Celo (arXiv 2501.12670), section 3. For a parameter p with gradient g, 30 inputs -> 4 -> 4 -> (direction d,
magnitude s), rectified linear units between, and

    update = -0.001 * d * exp(0.001 * s) * sqrt(mean(p²) + 1e-9)

A tensor that begins at zero hardly moves so. Ours may have one weight more, `log_min_rms`: the root counts
as at least its exponential.

This is the optimizer of a whole model; the network is `rule_network`'s.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo._errors import CeloError, unknown_name
from celo._kernels import native
from celo._kernels import native_rule as rule_kernel
from celo._kernels.per_layer import PerLayer, leading_axes, over_slices
from celo._kernels.rule_network import HIDDEN, NUM_INPUTS, NUM_OUTPUTS, network_step
from celo._kernels.stacking import alike, over_stack
from celo._kernels.statistics import TensorStats, finite_gradient, init_stats, rms, update_stats
from celo._nn import truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer

GROUP = "update_rule"
MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.999
FACTORED_DECAYS = (0.9, 0.99, 0.999)
STEP_SCALE = 1e-3
OPTIONAL_SHAPES = {"log_min_rms": ()}  # weights that the published rule does not have
RMS_FLOOR = 1e-9  # inside the root: a tensor of zeros counts as 3.2e-5


class RuleState(NamedTuple):
    """Statistics of the gradients; each field is a tuple, over decays, of pytrees like the parameters."""

    momenta: tuple[Params, ...]
    second_moment: Params
    row: tuple[Params, ...]
    col: tuple[Params, ...]


@dataclasses.dataclass(frozen=True)
class UpdateRule(LearnedOptimizer):
    """Celo's update rule by itself: the optimizer of meta-training's first phase.

    It reads neither the horizon nor the loss. θ is {"update_rule": {w0 [30, 4], b0 [4], w1 [4, 4],
    b1 [4], w2 [4, 2], b2 [2]}}, 154 weights, and there may be a scalar log_min_rms.

    Attributes:
      kernel: "xla", or "native" for the compiled one (CPU only; see `celo._kernels.native`).
      min_rms: a tensor counts as at least this large (root mean square) in the length of its step, so
        that one that begins at zero gets going; 0 is the published rule. None: what θ says, 0 if it says
        nothing.
      per_layer: how many leading axes of each tensor count tensors: a whole number, a pytree prefix of the
        parameters, or a function of them giving one. None: none.

    Raises:
      CeloError: for an unknown kernel, or a native one that cannot be had; for a negative `min_rms`.
    """

    kernel: str = "xla"
    min_rms: float | Array | None = None
    per_layer: PerLayer = None
    theta_groups = (GROUP,)

    def __post_init__(self):
        if isinstance(self.min_rms, int | float) and not 0 <= self.min_rms < float("inf"):
            raise CeloError(f"min_rms must be finite and at least 0, got {self.min_rms!r}; 0 is no floor")
        if self.kernel not in native.KERNELS:
            raise unknown_name("kernel", self.kernel, native.KERNELS)
        if self.kernel == "native":
            native.load()

    def init_theta(self, key: Key) -> Theta:
        """Truncated normal weights of deviation 1/sqrt(fan in), zero biases."""
        key0, key1, key2 = jax.random.split(key, 3)
        return {
            GROUP: {
                "w0": truncated_normal_fan_in(key0, (NUM_INPUTS, HIDDEN), NUM_INPUTS),
                "b0": jnp.zeros((HIDDEN,), jnp.float32),
                "w1": truncated_normal_fan_in(key1, (HIDDEN, HIDDEN), HIDDEN),
                "b1": jnp.zeros((HIDDEN,), jnp.float32),
                "w2": truncated_normal_fan_in(key2, (HIDDEN, NUM_OUTPUTS), HIDDEN),
                "b2": jnp.zeros((NUM_OUTPUTS,), jnp.float32),
            }
        }

    def init(self, theta: Theta, params: Params, num_steps: Array) -> RuleState:
        """Zero statistics, float32.

        Raises:
          CeloError: if a parameter is not a real floating-point array, or `per_layer` does not fit.
        """
        del theta, num_steps
        leaves, treedef = jax.tree.flatten(params)
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise CeloError(
                    f"parameters must be real floating-point arrays, got {leaf.dtype}{list(leaf.shape)}; "
                    "leave others out with optax.masked"
                )
        layers = leading_axes(self.per_layer, params)
        return _pack([_zero_stats(p, axes) for p, axes in zip(leaves, layers, strict=True)], treedef)

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, RuleState]:
        """One step of the rule for every tensor."""
        del value
        leaves, treedef = jax.tree.flatten(params)
        grad_leaves = treedef.flatten_up_to(grads)
        layers = leading_axes(self.per_layer, params)
        step = partial(tensor_update, theta[GROUP], kernel=self.kernel, min_rms=self._floor(theta))
        tensors = list(zip(tensor_stats(state, treedef), grad_leaves, leaves, strict=True))
        steps: list[Any] = [None] * len(leaves)
        for group in self._groups(params, grad_leaves, layers):
            of_tensor = over_slices(step, layers[group[0]])
            found = over_stack(of_tensor, [tensors[i] for i in group])
            for i, result in zip(group, found, strict=True):
                steps[i] = result
        updates = [step.astype(p.dtype) for (step, _), p in zip(steps, leaves, strict=True)]
        return jax.tree.unflatten(treedef, updates), _pack([stats for _, stats in steps], treedef)

    def _groups(self, params: Params, grads: Sequence[Array], layers: Sequence[int]) -> list[list[int]]:
        """Which tensors share one computation; the native kernel, compiled already, takes them singly."""
        if self.kernel == "native":
            return [[i] for i in range(len(grads))]
        return alike(params, [(axes, grad.dtype) for axes, grad in zip(layers, grads, strict=True)])

    def _floor(self, theta: Theta) -> float | Array:
        """The least size of a tensor: the caller's word, else that of θ."""
        if self.min_rms is not None:
            return self.min_rms
        return jnp.exp(theta[GROUP]["log_min_rms"]) if "log_min_rms" in theta[GROUP] else 0.0


def _zero_stats(param: Array, layers: int) -> TensorStats:
    """Statistics of a tensor whose first `layers` axes count tensors."""
    one = jax.ShapeDtypeStruct(param.shape[layers:], param.dtype)
    shapes = jax.eval_shape(lambda p: init_stats(p, len(MOMENTUM_DECAYS), len(FACTORED_DECAYS)), one)
    return jax.tree.map(lambda x: jnp.zeros((*param.shape[:layers], *x.shape), x.dtype), shapes)


def tensor_update(
    theta: dict[str, Array],
    stats: TensorStats,
    grad: Array,
    param: Array,
    kernel: str = "xla",
    min_rms: float | Array = 0.0,
) -> tuple[Array, TensorStats]:
    """The rule for one tensor of any shape: (update, float32; new statistics).

    The update is in proportion to the tensor's root mean square, or to `min_rms` where that is larger.
    """
    if param.size == 0:  # means over nothing are NaN
        return jnp.zeros(param.shape, jnp.float32), stats
    if grad.shape != param.shape:
        raise CeloError(f"gradient and parameter must have one shape, got {grad.shape} and {param.shape}")
    if kernel == "native":
        return rule_kernel.tensor_update(theta, stats, grad, param, min_rms)
    grad = finite_gradient(grad)
    param = param.astype(jnp.float32)
    stats = update_stats(
        stats,
        grad,
        momentum_decays=MOMENTUM_DECAYS,
        second_moment_decay=SECOND_MOMENT_DECAY,
        factored_decays=FACTORED_DECAYS,
    )
    step = network_step(theta, stats, grad, param)
    return STEP_SCALE * jnp.maximum(rms(param, RMS_FLOOR), min_rms) * step, stats


def _pack(stats: Sequence[TensorStats], treedef: Any) -> RuleState:
    """Statistics of each tensor -> a state whose leaves are pytrees like the parameters."""

    def tree(leaves: Sequence[Array]) -> Params:
        return jax.tree.unflatten(treedef, leaves)

    decays = range(len(FACTORED_DECAYS))
    return RuleState(
        momenta=tuple(tree([s.momenta[k] for s in stats]) for k in range(len(MOMENTUM_DECAYS))),
        second_moment=tree([s.second_moment for s in stats]),
        row=tuple(tree([s.row[k] for s in stats]) for k in decays),
        col=tuple(tree([s.col[k] for s in stats]) for k in decays),
    )


def tensor_stats(state: RuleState, treedef: Any) -> list[TensorStats]:
    """The statistics of each tensor, in the order in which `treedef` flattens the parameters."""
    momenta = [treedef.flatten_up_to(tree) for tree in state.momenta]
    second_moment = treedef.flatten_up_to(state.second_moment)
    rows = [treedef.flatten_up_to(tree) for tree in state.row]
    cols = [treedef.flatten_up_to(tree) for tree in state.col]
    return [
        TensorStats(
            momenta=tuple(m[i] for m in momenta),
            second_moment=second_moment[i],
            row=tuple(r[i] for r in rows),
            col=tuple(c[i] for c in cols),
        )
        for i in range(treedef.num_leaves)
    ]
