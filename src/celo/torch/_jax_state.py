"""A run carried from JAX to PyTorch, and back: the optimizer's state in the form of the other framework.

Both keep the same numbers, in other places and often in another layout (`_jax_layout`). JAX is imported in
these two modules alone, where a state of it is at hand.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from celo._errors import CeloError
from celo.torch import _sharded
from celo.torch._base import LearnedOptimizer
from celo.torch._celo_adam import CeloAdam
from celo.torch._jax_layout import BY_DECAY, Layout, ParamsAxes, layout, permutations


class _Place(NamedTuple):
    """Where one parameter's state is here, and how it lies."""

    number: int  # in `state_dict()`
    param: Tensor
    layout: Layout


def load_jax_state(
    optimizer: LearnedOptimizer, state: Any, params_axes: ParamsAxes = None, *, params: Any = None
) -> None:
    """Lets an optimizer go on where one in JAX stands; copy the parameters themselves as well.

    The horizon, a plateau and counters of numbers that were not finite come with the state. Weights, rates
    and other options are the optimizer's: make it with those of the run.

    >>> import celo, celo.torch, jax.numpy as jnp, torch
    >>> state = celo.celo(num_steps=100).init({"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)})
    >>> layer = torch.nn.Linear(3, 2)  # whose weight is [2, 3]
    >>> optimizer = celo.torch.Celo(layer.parameters(), num_steps=100)
    >>> celo.torch.load_jax_state(
    ...     optimizer,
    ...     state,
    ...     params_axes=lambda path, shape: (1, 0) if path == "kernel" else None,
    ...     params={"kernel": layer.weight, "bias": layer.bias},
    ... )

    Args:
      optimizer: a `Celo`, `CeloRule` or `CeloAdam` of the same parameters.
      state: the optax state of `celo.celo`, `celo.celo_rule` or `celo.celo_adam`, or one that has it inside.
      params_axes: for each parameter the permutation of its axes, or None where it has the same shape: axis
        k here is axis `axes[k]` in JAX. (1, 0) is for a dense kernel, (3, 2, 0, 1) for a convolution's
        [height, width, in, out]. A pytree like JAX's parameters (a list in the order of their leaves will
        do), or a function of a leaf's path ("dense/kernel") and its shape in JAX.
      params: a pytree like JAX's parameters that holds the optimizer's. None: the optimizer's groups have
        them in the order of `jax.tree.leaves`. (Flax puts a bias before its kernel, PyTorch a weight before
        its bias.)

    Raises:
      CeloError: if the state is another optimizer's or of other sizes, a group is AdamW's, or options that
        shape the state differ; nothing is changed then.
    """
    node, places = _matched(optimizer, state, params_axes, params)
    shared = _shared(optimizer, state)
    saved = optimizer.state_dict()
    parts = {name: [_leaves(tree) for tree in trees] for name, trees in _trees(node).items()}
    for number, place in enumerate(places):
        fresh = {name: torch.zeros_like(x) for name, x in optimizer.state[place.param].items()}
        for name in parts:
            if name == "col" and place.layout.is_line:
                continue
            arrays = [
                place.layout.to_torch(_array(leaves[number])) for leaves in parts[place.layout.there(name)]
            ]
            fresh[name] = _tensor(np.stack(arrays) if name in BY_DECAY else arrays[0])
        if "step" in fresh:
            fresh["step"] = _tensor(_array(node.step))
        saved["state"][place.number] = fresh
    for group in saved["param_groups"]:
        group.update({name: torch.from_numpy(np.array(value)) for name, value in shared.items()})
    optimizer.load_state_dict(saved)


def as_jax_state(
    optimizer: LearnedOptimizer, state: Any, params_axes: ParamsAxes = None, *, params: Any = None
) -> Any:
    """A state for JAX, with the numbers of an optimizer here; the other direction of `load_jax_state`.

    >>> import celo, celo.torch, jax.numpy as jnp, torch
    >>> layer = torch.nn.Linear(3, 2, bias=False)
    >>> optimizer = celo.torch.Celo(layer.parameters(), num_steps=100)
    >>> tx = celo.celo(num_steps=100)
    >>> state = celo.torch.as_jax_state(optimizer, tx.init({"kernel": jnp.ones((3, 2))}), [(1, 0)])

    Args:
      optimizer: a `Celo`, `CeloRule` or `CeloAdam`; with sharded parameters, all processes call.
      state: a state like the wanted one, `tx.init(params)` or its shapes (`jax.eval_shape`). Of a chain all
        that is not Celo's stays as it is: set counts of schedules of your own yourself.
      params_axes: as in `load_jax_state`; so is the other.
      params: where the order of parameters is another.

    Raises:
      CeloError: as `load_jax_state`; if the state has no place for what the optimizer keeps; if parameters of
        `CeloAdam` have had different numbers of gradients, for which JAX has one count.
    """
    import jax

    node, places = _matched(optimizer, state, params_axes, params)
    _check_plateau(optimizer, state)
    found: dict[str, list[list[np.ndarray]]] = {name: [] for name in _trees(node)}
    for place in places:
        mine = {name: _array(_sharded.whole(x)) for name, x in optimizer.state[place.param].items()}
        if "col" in mine and place.layout.is_line:  # empty here, and zeros in JAX
            mine["col"] = np.zeros((len(mine["row"]), *place.param.shape[: place.layout.layers]), np.float32)
        for name in found:
            x = mine[name]
            parts = list(x) if name in BY_DECAY else [x]
            found[place.layout.there(name)].append([place.layout.to_jax(part) for part in parts])
    changed = node
    for name, trees in _trees(node).items():
        filled = tuple(
            jax.tree.unflatten(
                jax.tree.structure(tree),
                [_like(of_one[k], old) for of_one, old in zip(found[name], _leaves(tree), strict=True)],
            )
            for k, tree in enumerate(trees)
        )
        changed = changed._replace(**{name: filled if name in BY_DECAY else filled[0]})
    if isinstance(optimizer, CeloAdam):
        changed = changed._replace(step=_like(_one_count(optimizer), node.step))
    state = _replaced(state, type(node), lambda _: changed)
    for kind, fields in _shared_fields().items():
        if _nodes(state, kind):
            values = {field: _array(optimizer.param_groups[0][name]) for name, field in fields.items()}
            state = _replaced(state, kind, lambda old, values=values: _with(old, values))
    return state


# ---------------------------------------------------------------------- what corresponds to what


def _matched(
    optimizer: LearnedOptimizer, state: Any, params_axes: ParamsAxes, params: Any
) -> tuple[Any, list[_Place]]:
    """The part of JAX's state that belongs to parameters, and each of these in the order of its leaves."""
    import jax

    node = _statistics(optimizer, state)
    tree = _trees(node)["first" if isinstance(optimizer, CeloAdam) else "second_moment"][0]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    mine = _parameters(optimizer, params)
    if len(leaves) != len(mine):
        raise CeloError(
            f"JAX's state is of {len(leaves)} parameters, and the optimizer has {len(mine)}; make it of the "
            "same ones, or take the others out with optax.masked"
        )
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    shapes = [tuple(leaf.shape) for _, leaf in leaves]
    said = permutations(params_axes, paths, shapes)
    factored = not isinstance(optimizer, CeloAdam)
    places = [
        _Place(index, p, layout(path, shape, axes, tuple(p.shape), layers, factored=factored))
        for path, shape, axes, (index, layers, p) in zip(paths, shapes, said, mine, strict=True)
    ]
    for place in places:
        if odd := set(optimizer.state[place.param]) - {"step"} ^ set(_trees(node)):
            raise CeloError(
                f"{', '.join(sorted(odd))}: the weights of one have start_power and those of the other have "
                "not; use the same weights in JAX and in PyTorch"
            )
    for name, trees in _trees(node).items():
        for part in trees:
            for path, place, leaf in zip(paths, places, _leaves(part), strict=True):
                expected = place.layout.shape_there(name)
                if tuple(leaf.shape) != expected:
                    raise CeloError(
                        f"{name} of {path} has shape {tuple(leaf.shape)} in JAX's state, expected "
                        f"{expected}: the optimizer has per_layer={place.layout.layers} for it; give it the "
                        "state's"
                    )
    return node, places


def _statistics(optimizer: LearnedOptimizer, state: Any) -> Any:
    """The part of JAX's state that belongs to parameters."""
    from celo.optimizers._adam import AdamState
    from celo.optimizers._celo import CeloState
    from celo.optimizers._celo_adam import CeloAdamState
    from celo.optimizers._rule_steps import RuleState
    from celo.optimizers._schedule import LossHistory, PlateauState, ScheduleState
    from celo.transforms._low_precision_state import CompactState

    kind, remedy = (
        (AdamState, "celo.celo_adam")
        if isinstance(optimizer, CeloAdam)
        else (RuleState, "celo.celo or celo.celo_rule")
    )
    ours = (CeloState, CeloAdamState, RuleState, AdamState, ScheduleState, LossHistory, PlateauState)
    if _nodes(state, CompactState):
        raise CeloError(
            "JAX's state is stored in bfloat16, which has no counterpart in PyTorch; use "
            "state_dtype='float32'"
        )
    module = "celo.optimizers."
    others = _nodes(state, lambda n: type(n).__module__.startswith(module) and not isinstance(n, ours))
    found = _nodes(state, kind)
    if others or len(found) != 1:
        what = type(others[0]).__name__ if others else f"{len(found)} of {kind.__name__} in it"
        raise CeloError(
            f"{type(optimizer).__name__} corresponds to one state of {remedy}, got a {type(state).__name__} "
            f"with {what}; hand in the optax state of that optimizer. (A state that was restored without a "
            "target is a dict: restore it with tx.init(params) as the target)"
        )
    return found[0]


def _parameters(optimizer: LearnedOptimizer, params: Any) -> list[tuple[int, int, Tensor]]:
    """(index, leading axes that count tensors, parameter) of each, in the order of JAX's leaves."""
    every = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    mine = {id(p): (index, group.get("per_layer", 0), p) for index, (group, p) in enumerate(every)}
    for group, p in every:
        if group["rule"] == "adamw":
            raise CeloError(
                f"a parameter {list(p.shape)} is in a group with rule='adamw', whose state celo.celo does "
                "not have; transfer an optimizer whose groups are all learned"
            )
        optimizer._prepare(group, p)
    if params is None:
        return list(mine.values())
    given = [id(p) for p in _leaves(params)]
    if sorted(given) != sorted(mine):
        raise CeloError(
            f"params must hold each of the optimizer's {len(mine)} parameters once, got {len(given)} leaves, "
            "some of them others; fill JAX's pytree with them, such as {'kernel': layer.weight}"
        )
    return [mine[which] for which in given]


# ---------------------------------------------------------------------- what belongs to no parameter


def _shared_fields() -> dict[type, dict[str, str]]:
    """Parts of JAX's states, and their fields under the names they have in `param_groups`."""
    from celo.optimizers._schedule import PlateauState, ScheduleState
    from celo.transforms._nonfinite import NonfiniteState

    return {
        ScheduleState: {
            "schedule_clock": "step",
            "schedule_num_steps": "num_steps",
            "schedule_sized_for": "sized_for",
            "schedule_loss_means": "losses.means",
            "schedule_loss_minima": "losses.minima",
            "schedule_losses_seen": "losses.step",
            "schedule_hidden": "hidden",
            "schedule_cell": "cell",
        },
        PlateauState: {"schedule_plateau": "share"},
        NonfiniteState: {
            "bad_gradients": "bad_gradients",
            "bad_losses": "bad_losses",
            "bad_in_a_row": "in_a_row",
            "shrink": "scale",
        },
    }


def _shared(optimizer: LearnedOptimizer, state: Any) -> dict[str, Any]:
    """JAX's numbers that belong to no parameter, by their names in `param_groups`.

    Raises:
      CeloError: unless these are the ones that the optimizer keeps.
    """
    shared: dict[str, Any] = {}
    for kind, fields in _shared_fields().items():
        for node in _nodes(state, kind):
            shared |= {name: attrgetter(field)(node) for name, field in fields.items()}
    if "schedule_clock" in shared:
        shared.setdefault("schedule_plateau", np.float32(np.inf))
    if odd := sorted(set(shared) ^ set(optimizer._shared)):
        where, not_where = ("JAX's state", type(optimizer).__name__)
        where, not_where = (where, not_where) if odd[0] in shared else (not_where, where)
        raise CeloError(
            f"{where} has {odd[0]!r} and {not_where} has not: make both with the same optimizer and options "
            "(celo.celo is celo.torch.Celo, celo_rule is CeloRule; nonfinite=)"
        )
    return shared


def _check_plateau(optimizer: LearnedOptimizer, state: Any) -> None:
    """CeloError if the optimizer has a plateau ahead, and the state no place for it."""
    from celo.optimizers._schedule import PlateauState

    _shared(optimizer, state)
    share = optimizer.param_groups[0].get("schedule_plateau", np.inf)
    if np.isfinite(float(share)) and not _nodes(state, PlateauState):
        raise CeloError(
            f"the optimizer waits at plateau={float(share):g}, and JAX's state has no plateau; make it with "
            "celo.celo(…, plateau=…)"
        )


def _one_count(optimizer: LearnedOptimizer) -> np.ndarray:
    counts = {float(_sharded.whole(state["step"])) for state in optimizer.state.values()}
    if len(counts) > 1:
        raise CeloError(
            f"parameters have had from {min(counts):.0f} to {max(counts):.0f} gradients, and celo.celo_adam "
            "has one count for all; leave out the parameters that are not always trained"
        )
    return np.asarray(counts.pop() if counts else 0.0)


# ---------------------------------------------------------------------- pytrees and arrays


def _trees(node: Any) -> dict[str, tuple[Any, ...]]:
    """The parts of a state that are pytrees like the parameters, several or one, by field."""
    return {
        name: value if name in BY_DECAY else (value,)
        for name, value in node._asdict().items()
        if name != "step" and value is not None
    }


def _leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    import jax

    return jax.tree.leaves(tree, is_leaf=is_leaf)


def _nodes(state: Any, which: type | Callable[[Any], bool]) -> list[Any]:
    """Parts of a state, however deep."""
    wanted = (lambda n: isinstance(n, which)) if isinstance(which, type) else which
    return [node for node in _leaves(state, wanted) if wanted(node)]


def _replaced(state: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    import jax

    return jax.tree.map(
        lambda n: change(n) if isinstance(n, kind) else n, state, is_leaf=lambda n: isinstance(n, kind)
    )


def _with(node: Any, values: Mapping[str, np.ndarray]) -> Any:
    """A named tuple with other fields, which may be fields of fields ("losses.step")."""
    for field, value in values.items():
        first, _, rest = field.partition(".")
        old = getattr(node, first)
        node = node._replace(**{first: _with(old, {rest: value}) if rest else _like(value, old)})
    return node


def _array(x: Any) -> np.ndarray:
    """A copy on this machine: neither framework may see the other write."""
    return x.detach().cpu().numpy().copy() if isinstance(x, Tensor) else np.array(x)


def _like(value: np.ndarray, old: Any) -> Any:
    """An array of JAX; where there was one of NumPy, too."""
    import jax.numpy as jnp

    return jnp.asarray(value.astype(old.dtype))


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(x, np.float32, order="C"))
