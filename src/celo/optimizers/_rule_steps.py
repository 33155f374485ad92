"""A learned rule over a model: the statistics of all tensors, and their steps, tensor by tensor.

Whatever the rule's network (`RuleNetwork`), tensors may stack layers, equal ones are computed together, and
empty ones take no step.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo._arguments import check_gradients, check_state
from celo._definitions import FACTORED_DECAYS, MOMENTUM_DECAYS, RuleNetwork
from celo._errors import CeloError
from celo._kernels import native, rule_network
from celo._kernels.stacking import over_tensors, stackable
from celo._kernels.statistics import TensorStats, init_stats
from celo._nn import truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Updates

GROUP = "update_rule"  # of θ
RuleTensor = tuple[TensorStats, Array, Array]  # statistics, gradient and parameters of one tensor


class RuleState(NamedTuple):
    """Statistics of the gradients; each field is a tuple, over decays, of pytrees like the parameters."""

    momenta: tuple[Params, ...]
    second_moment: Params
    row: tuple[Params, ...]
    col: tuple[Params, ...]

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


def init_weights(rule: RuleNetwork, key: Key) -> dict[str, Array]:
    """Truncated normal weights of deviation 1/sqrt(fan in), zero biases."""
    keys = iter(jax.random.split(key, 3))
    return {
        name: truncated_normal_fan_in(next(keys), shape, shape[0])
        if len(shape) == 2
        else jnp.zeros(shape, jnp.float32)
        for name, shape in rule.shapes.items()
    }


def init_state(params: Params, layers: list[int]) -> RuleState:
    """Zero statistics, float32.

    Args:
      params: pytree of arrays or of their shapes.
      layers: for each leaf, how many leading axes count tensors.
    """
    leaves, treedef = jax.tree.flatten(params)
    return pack([_zero_stats(p, axes) for p, axes in zip(leaves, layers, strict=True)], treedef)


def take_steps(
    rule: RuleNetwork,
    theta: dict[str, Array],
    grads: Updates,
    state: OptState,
    params: Params,
    layers: list[int],
    kernel: str,
    min_rms: float | Array = 0.0,
) -> tuple[list[Array], RuleState]:
    """One step of the rule for every tensor.

    Args:
      rule: which network.
      theta: its weights.
      grads: pytree like `params`.
      state: as `init_state` makes it.
      params: pytree of arrays.
      layers: for each leaf, how many leading axes count tensors.
      kernel: "native" or "xla".
      min_rms: as in `rule_network.tensor_update`.

    Returns:
      (the step of each leaf, float32; the new state).

    Raises:
      CeloError: for gradients or a state of other shapes, or a tensor that the kernel does not take.
    """
    tensors = checked_tensors(state, grads, params, layers, kernel)
    step = partial(tensor_update, rule, kernel, min_rms, theta)
    results = over_tensors(step, tensors, layers, computed_together(tensors, layers, kernel))
    stats = pack([stats for _, stats in results], jax.tree.structure(params))
    return [one for one, _ in results], stats


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
    check_gradients(params, grads)
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
    return init_stats(param, len(MOMENTUM_DECAYS), len(FACTORED_DECAYS), layers)


def _check_stats(path: str, param: Array, stats: TensorStats, layers: int) -> None:
    """CeloError for statistics that are not those of this tensor: some would broadcast without a word."""
    for name, wanted, found in zip(stats._fields, _stats_shapes(param.shape, layers), stats, strict=True):
        for array in jax.tree.leaves(found):
            check_state_shape(path, param, name, wanted, array)


def check_state_shape(path: str, param: Array, name: str, wanted: tuple[int, ...], found: Array) -> None:
    """CeloError for an array in a tensor's state that has another shape than it should."""
    if found.shape != wanted:
        raise CeloError(
            f"params{path} has shape {param.shape}, and {name} in its state {found.shape} where "
            f"{wanted} belongs: the state was made for other parameters or another per_layer. "
            "Begin with tx.init(params), or restore the parameters that belong to the state"
        )


@cache
def _stats_shapes(shape: tuple[int, ...], layers: int) -> list[tuple[int, ...]]:
    """The shape of the arrays in each field of a tensor's statistics."""
    stats = jax.eval_shape(lambda: _zero_stats(jax.ShapeDtypeStruct(shape, jnp.float32), layers))
    return [jax.tree.leaves(field)[0].shape for field in stats]


def tensor_update(
    rule: RuleNetwork,
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
    return form.tensor_update(rule, theta, stats, grad, param, min_rms)


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


def each_tree(change: Callable[[Params], Params], state: RuleState) -> RuleState:
    """A state with each of its pytrees changed."""
    return RuleState(
        momenta=tuple(map(change, state.momenta)),
        second_moment=change(state.second_moment),
        row=tuple(map(change, state.row)),
        col=tuple(map(change, state.col)),
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
