"""Celo's update rule over a model: one small network, shared by all parameters, turns statistics into steps.

Celo (arXiv 2501.12670), section 3; `_kernels.rule_network` has the mathematics for one tensor. A tensor that
begins at zero hardly moves under the published rule. Ours may have one weight more, `log_min_rms`: in the
length of its step a tensor counts as at least the exponential of that. And where they have `log_matrix_gain`,
the steps of matrices are orthogonalised (`_kernels.orthogonal`): each keeps its root mean square, times the
exponential of that weight.

Steps in proportion to a matrix's own size let that size grow exponentially, and large ones then diverge. With
the weight `start_power`, s, a matrix's step is in proportion to size^(1 - s) * (size at the first step)^s.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import check_floating, check_shapes, check_state, require_params
from celo._definitions import (
    FACTORED_DECAYS,
    HIDDEN,
    MOMENTUM_DECAYS,
    NUM_INPUTS,
    NUM_OUTPUTS,
    RMS_FLOOR,
    ZERO_SIZE,
    matrix_shape,
    usual_size,
)
from celo._errors import CeloError
from celo._kernels import native, orthogonal, rule_network
from celo._kernels.stacking import PerLayer, leading_axes, over_slices, over_tensors, per_leaf, stackable
from celo._kernels.statistics import TensorStats, init_stats, rms
from celo._nn import truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer, chain
from celo.optimizers._bind import BoundWeights, WeightsLike, bind
from celo.transforms._low_precision_state import check_state_dtype, in_bfloat16

GROUP = "update_rule"
Orthogonalize = Any | Callable[[Params], Any] | None  # pytree prefix of bools, or a function giving one


class RuleState(NamedTuple):
    """Statistics of the gradients; each field is a tuple, over decays, of pytrees like the parameters."""

    momenta: tuple[Params, ...]
    second_moment: Params
    row: tuple[Params, ...]
    col: tuple[Params, ...]
    first_size: Params | None = None  # each tensor's root mean square at its first step, 0 before; if θ asks

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


@dataclasses.dataclass(frozen=True)
class UpdateRule(LearnedOptimizer):
    """Celo's update rule by itself: the optimizer of meta-training's first phase.

    It reads neither the horizon nor the loss. θ is {"update_rule": {w0 [30, 4], b0 [4], w1 [4, 4],
    b1 [4], w2 [4, 2], b2 [2]}}, 154 weights, and there may be scalars log_min_rms, log_matrix_gain and
    start_power.

    Attributes:
      kernel: "auto" (see `_kernels.native.resolve`), "native" or "xla".
      min_rms: a tensor counts as at least this large (root mean square) in the length of its step, so
        that one that begins at zero gets going; 0 is the published rule. None: what θ says, 0 if it says
        nothing.
      per_layer: how many leading axes of each tensor count tensors: a whole number, a pytree prefix of the
        parameters, or a function of them giving one. None: none.
      orthogonalize: whether the steps of matrices are orthogonalised: a bool, a pytree prefix of the
        parameters, or a function of them giving one. None: what θ says, which is no if it says nothing.

    Raises:
      CeloError: for an unknown kernel, or a native one that does not work here; for a negative `min_rms`.
    """

    kernel: str = "auto"
    min_rms: float | Array | None = None
    per_layer: PerLayer = None
    orthogonalize: Orthogonalize = None
    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = {
        f"{GROUP}/log_min_rms": (),
        f"{GROUP}/log_matrix_gain": (),
        f"{GROUP}/start_power": (),
    }
    # Meta-training on short runs would take it beyond 1, where long ones want half of it (results/LOG.md).
    fixed_theta: ClassVar[tuple[str, ...]] = (f"{GROUP}/start_power",)

    def __post_init__(self):
        if isinstance(self.min_rms, int | float) and not 0 <= self.min_rms < float("inf"):
            raise CeloError(f"min_rms must be finite and at least 0, got {self.min_rms!r}; 0 is no floor")
        native.check_kernel(self.kernel)

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
        del num_steps
        check_floating(params)
        leaves, treedef = jax.tree.flatten(params)
        layers = leading_axes(self.per_layer, params)
        state = pack([_zero_stats(p, axes) for p, axes in zip(leaves, layers, strict=True)], treedef)
        if "start_power" not in theta[GROUP]:
            return state
        zeros = [jnp.zeros(p.shape[:axes], jnp.float32) for p, axes in zip(leaves, layers, strict=True)]
        return state._replace(first_size=jax.tree.unflatten(treedef, zeros))

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, RuleState]:
        """One step of the rule for every tensor."""
        del value
        layers = leading_axes(self.per_layer, params)
        kernel = native.resolve(self.kernel)
        tensors = checked_tensors(state, grads, params, layers, kernel)
        step = partial(tensor_update, kernel, self._least_rms(theta), theta[GROUP])
        groups = computed_together(tensors, layers, kernel)
        steps = over_tensors(step, tensors, layers, groups)
        treedef = jax.tree.structure(params)
        state = pack([stats for _, stats in steps], treedef)._replace(first_size=state.first_size)
        updates, state = self._orthogonalized(theta, params, [update for update, _ in steps], state, kernel)
        updates = [update.astype(p.dtype) for update, (_, _, p) in zip(updates, tensors, strict=True)]
        return jax.tree.unflatten(treedef, updates), state

    def _orthogonalized(
        self, theta: Theta, params: Params, updates: list[Array], state: RuleState, kernel: str
    ) -> tuple[list[Array], RuleState]:
        """The updates, those of matrices orthogonalised where that is wanted; the state with first sizes."""
        layers = leading_axes(self.per_layer, params)
        log_gain = theta[GROUP].get("log_matrix_gain")
        wanted = per_leaf(self.orthogonalize, params, bool, "orthogonalize", default=log_gain is not None)
        replaced = orthogonal.orthogonalized(updates, wanted, layers, kernel)
        gain = jnp.ones(()) if log_gain is None else jnp.exp(log_gain)
        gains = dict.fromkeys(replaced, gain)
        if state.first_size is not None:
            paths, treedef = jax.tree_util.tree_flatten_with_path(params)
            first, least = treedef.flatten_up_to(state.first_size), self._least_rms(theta)
            for i in replaced:
                path, leaf = paths[i]
                stack = leaf.shape[: layers[i]]
                _check_state(jax.tree_util.keystr(path), leaf, "first_size", stack, first[i])
                size = over_slices(_size, layers[i])(leaf)
                first[i] = jnp.where(first[i] == 0.0, _began(size, leaf.shape, layers[i]), first[i])
                share = jnp.maximum(first[i], least) / jnp.maximum(size, least)
                gains[i] = gain * share ** theta[GROUP]["start_power"]
            state = state._replace(first_size=jax.tree.unflatten(treedef, first))
        for i, matrix in replaced.items():
            updates[i] = jnp.expand_dims(gains[i], tuple(range(gains[i].ndim, matrix.ndim))) * matrix
        return updates, state

    def _least_rms(self, theta: Theta) -> float | Array:
        """The least size of a tensor: what the caller says, else θ, else none."""
        if self.min_rms is not None:
            return self.min_rms
        return jnp.exp(theta[GROUP]["log_min_rms"]) if "log_min_rms" in theta[GROUP] else 0.0


RuleTensor = tuple[TensorStats, Array, Array]  # statistics, gradient and parameters of one tensor


def checked_tensors(
    state: RuleState, grads: Updates, params: Params, layers: list[int], kernel: str
) -> list[RuleTensor]:
    """What belongs to each tensor, in the order of the parameters' leaves.

    Args:
      state: the rule's.
      grads: a pytree like the parameters.
      params: the parameters.
      layers: how many leading axes of each count tensors.
      kernel: what will compute, "native" or "xla".

    Raises:
      CeloError: if state or gradients have other shapes, or the kernel takes whole tensors
        and one is split.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    stats = tensor_stats(state, treedef)
    check_shapes(params, grads, "its gradient")
    for (path, leaf), of_leaf, axes in zip(paths, stats, layers, strict=True):
        _check_stats(jax.tree_util.keystr(path), leaf, of_leaf, axes)
        if kernel == "native":
            native.check_whole(leaf, jax.tree_util.keystr(path))
    return list(zip(stats, treedef.flatten_up_to(grads), [leaf for _, leaf in paths], strict=True))


def computed_together(tensors: list[RuleTensor], layers: list[int], kernel: str) -> list[list[int]]:
    """Groups of tensors that are stacked for the rule, as indices."""
    if kernel == "native":  # compiled already: nothing is gained by stacking
        return [[i] for i in range(len(tensors))]
    dtypes = [grad.dtype for _, grad, _ in tensors]
    return stackable([param for _, _, param in tensors], list(zip(layers, dtypes, strict=True)))


def _zero_stats(param: Array | jax.ShapeDtypeStruct, layers: int) -> TensorStats:
    """Statistics of a tensor whose first `layers` axes count tensors."""
    one = jax.ShapeDtypeStruct(param.shape[layers:], param.dtype)
    shapes = jax.eval_shape(lambda p: init_stats(p, len(MOMENTUM_DECAYS), len(FACTORED_DECAYS)), one)
    return jax.tree.map(lambda x: jnp.zeros((*param.shape[:layers], *x.shape), x.dtype), shapes)


def _check_stats(path: str, param: Array, stats: TensorStats, layers: int) -> None:
    """CeloError for statistics that are not those of this tensor: some would broadcast without a word."""
    for name, wanted, found in zip(stats._fields, _stats_shapes(param.shape, layers), stats, strict=True):
        for array in jax.tree.leaves(found):
            _check_state(path, param, name, wanted, array)


def _check_state(path: str, param: Array, name: str, wanted: tuple[int, ...], found: Array) -> None:
    if found.shape != wanted:
        raise CeloError(
            f"params{path} has shape {param.shape}, and {name} in its state {found.shape} where "
            f"{wanted} belongs: the state was made for other parameters or another per_layer. "
            "Begin with tx.init(params), or restore the parameters that belong to the state"
        )


def _size(param: Array) -> Array:
    """What the rule's steps are in proportion to; above 0."""
    return rms(param.astype(jnp.float32), RMS_FLOOR)


def _began(size: Array, shape: tuple[int, ...], layers: int) -> Array:
    """The first sizes of matrices; of zeros, whose size says nothing, that of usual initial weights."""
    matrix = matrix_shape(shape, layers)
    assert matrix is not None, f"a tensor of shape {shape} has no matrices"
    return jnp.where(size < ZERO_SIZE, usual_size(matrix), size)


@cache
def _stats_shapes(shape: tuple[int, ...], layers: int) -> list[tuple[int, ...]]:
    """The shape of the arrays in each field of a tensor's statistics."""
    stats = jax.eval_shape(lambda: _zero_stats(jax.ShapeDtypeStruct(shape, jnp.float32), layers))
    return [jax.tree.leaves(field)[0].shape for field in stats]


def tensor_update(
    kernel: str,
    min_rms: float | Array,
    theta: dict[str, Array],
    stats: TensorStats,
    grad: Array,
    param: Array,
) -> tuple[Array, TensorStats]:
    """The rule for one tensor of any shape: (update, float32; new statistics)."""
    if param.size == 0:  # means over nothing are NaN
        return jnp.zeros(param.shape, jnp.float32), stats
    form = native if kernel == "native" else rule_network
    return form.tensor_update(theta, stats, grad, param, min_rms)


def pack(stats: Sequence[TensorStats], treedef: Any) -> RuleState:
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
    check_state(state, RuleState)
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


def mirrored(theta: dict[str, Array]) -> dict[str, Array]:
    """Fresh weights of the rule, rearranged so that its direction begins as a linear function of the inputs.

    Units come in pairs of opposite sign, relu(x) and relu(-x), whose difference is x: the looks-linear
    initialisation of Balduzzi et al. (arXiv 1702.08591). Steps uphill and downhill are then treated the
    same from the start. With four units a layer, plain weights often have none that can point one of the two
    ways but the bias, and training does not find its way out of that (results/LOG.md).

    Args:
      theta: what `UpdateRule.init_theta` gives under "update_rule".

    Returns:
      The same names and shapes; biases and the magnitude's weights are as they were.
    """
    half = HIDDEN // 2
    inputs = theta["w0"][:, :half]
    between = jnp.eye(half) + 0.5 * theta["w1"][:half, :half]
    direction = jnp.full((half,), 0.5)
    return {
        **theta,
        "w0": jnp.concatenate([inputs, -inputs], axis=1),
        "w1": jnp.block([[between, -between], [-between, between]]),
        "w2": theta["w2"].at[:, 0].set(jnp.concatenate([direction, -direction])),
    }


def scale_by_celo_rule(
    weights: WeightsLike = "celo",
    *,
    kernel: str = "auto",
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    orthogonalize: Orthogonalize = None,
    state_dtype: Any = "float32",
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule alone, to be used under any schedule; it needs neither loss nor horizon.

    The updates point downhill and are to be added: scale them by a positive rate, for example with
    `optax.scale_by_learning_rate(rate, flip_sign=False)`. A rate of 1 is a step of about 0.01 of each
    tensor's root mean square; Celo's own schedule falls from about (1000 / num_steps)^0.5 to zero.
    `celo.celo_rule` does it.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = optax.chain(celo.scale_by_celo_rule(), optax.scale(0.5))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)

    Args:
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      kernel: "auto" is the native kernel on a CPU with a C++ compiler, where arrays lie on one device (it is
        compiled at its first use), else XLA; "native" and "xla" ask for one. A program that is exported or
        lowered for another platform needs "xla".
      min_rms: a tensor counts as at least this large in the length of its step. None: what the weights say,
        0.01 for the bundled ones. 0 is the published rule, under which a tensor of zeros takes steps of
        3e-8; see docs/loops.md.
      per_layer: how many leading axes of each tensor count layers, which are then treated apart: a pytree
        prefix of the parameters with whole numbers (`{"blocks": 1, "head": 0}`), or a function of the
        parameters giving one.
      orthogonalize: whether the steps of matrices are orthogonalised: a bool, a pytree prefix of the
        parameters (`{"embedding": False, "blocks": True}`), or a function of them giving one. None: as the
        weights were meta-trained.
      state_dtype: float32, or bfloat16 for statistics of half the size.

    Raises:
      CeloError: if the weights cannot be read or do not fit, the kernel does not work here, or an option is
        out of range; in `init`, if `per_layer` does not fit the parameters.
    """
    rule = UpdateRule(kernel, min_rms, per_layer, orthogonalize)
    return scale_by_rule(rule, bind(weights, rule), state_dtype)


def scale_by_rule(
    rule: LearnedOptimizer, weights: BoundWeights, state_dtype: Any, field: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_celo_rule` of weights that have been read, or another optimizer without horizon and loss.

    `field` is that of the state which can be kept in bfloat16; None: all of it.
    """
    narrow = check_state_dtype(state_dtype) == "bfloat16"

    def init_fn(params: Params) -> RuleState:
        weights.check_size(params)
        return rule.init(weights.theta, params, jnp.ones((), jnp.int32))

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        del extra_args
        return rule.update(weights.theta, updates, state, require_params(params), value=jnp.zeros(()))

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return in_bfloat16(tx, field) if narrow else tx


def celo_rule(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weights: WeightsLike = "celo",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    orthogonalize: Orthogonalize = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule under a schedule of yours: the mode for loops that have no loss or no horizon.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = celo.celo_rule(optax.cosine_decay_schedule(1.0, decay_steps=1_000))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)  # no value=

    Args:
      learning_rate: a number or an optax schedule. At 1 a step is about 0.01 of each tensor's root mean
        square; the learned schedule, which this replaces, falls from about (1000 / num_steps)^0.5 to zero.
      weights: a bundled name, a path to a .safetensors file, or θ itself; the rule's part is enough.
      weight_decay: as in `celo.celo`; so are the others.
      mask: what is decayed.
      nonfinite: policy for gradients that are not finite.
      min_rms: for tensors that begin at zero.
      per_layer: for tensors that stack layers.
      orthogonalize: for the steps of matrices.
      state_dtype: "bfloat16" halves the state.
      kernel: as in `scale_by_celo_rule`.

    Returns:
      A transformation whose `update` needs the parameters; `value=` may be given and is not read.

    Raises:
      CeloError: as `celo.celo`.
    """
    links = scale_by_celo_rule(
        weights,
        kernel=kernel,
        min_rms=min_rms,
        per_layer=per_layer,
        orthogonalize=orthogonalize,
        state_dtype=state_dtype,
    )
    return chain(
        links, learning_rate=learning_rate, weight_decay=weight_decay, mask=mask, nonfinite=nonfinite
    )
