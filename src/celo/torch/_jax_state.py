"""A run carried from JAX to PyTorch, and back: the optimizer's state in the form of the other framework.

Both keep the same numbers, in other places and often in another layout: a kernel [in, out] of Flax is a weight
[out, in] here. Moments go along with their parameter's axes. Of the two factored moments each averages one axis
away, the largest and the second largest; which of two equal ones counts as larger depends on the order of axes,
so that `row` may be the other framework's `col`. JAX is imported here alone, where a state of it is at hand.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from celo._definitions import factored_axes
from celo._errors import CeloError
from celo.torch import _sharded
from celo.torch._base import LearnedOptimizer
from celo.torch._celo_adam import CeloAdam
from celo.torch._rule import statistics_shapes

Axes = tuple[int, ...] | None  # axis k of a parameter here is axis axes[k] in JAX; None: the same layout
ParamsAxes = Any | Callable[[str, tuple[int, ...]], Axes] | None  # a pytree of Axes, or a function

_BY_DECAY = ("momenta", "row", "col")  # a tuple of pytrees in JAX, stacked here
_OTHER_FACTOR = {"row": "col", "col": "row"}


class _Place(NamedTuple):
    """One parameter in both frameworks."""

    index: int  # in `state_dict()`
    param: Tensor
    layers: int  # leading axes that count tensors
    shape: tuple[int, ...]  # in JAX
    axes: tuple[int, ...]
    swapped: bool  # whether row and col change places

    @property
    def is_line(self) -> bool:
        """Whether `row` is the whole second moment, and `col` nothing."""
        return factored_axes(self.shape[self.layers :]) is None

    def there(self, name: str) -> str:
        """What a part of the state is called in JAX."""
        return _OTHER_FACTOR.get(name, name) if self.swapped else name

    def order(self, x: np.ndarray) -> list[int]:
        """`axes` of an array of the parameter's axes, or of those alone that count tensors."""
        return [axis for axis in self.axes if axis < x.ndim]

    def to_torch(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.order(x))

    def to_jax(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(np.argsort(self.order(x)))


def load_jax_state(
    optimizer: LearnedOptimizer, state: Any, params_axes: ParamsAxes = None, *, params: Any = None
) -> None:
    """Lets an optimizer go on where one in JAX stands; copy the parameters themselves as well.

    The horizon, a plateau and counters of numbers that were not finite come with the state. Weights, rates and
    other options are the optimizer's: make it with those of the run.

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
      params_axes: for each parameter the permutation of its axes, or None where it has the same shape: axis k
        here is axis `axes[k]` in JAX. (1, 0) is for a dense kernel, (3, 2, 0, 1) for a convolution's
        [height, width, in, out]. A pytree like JAX's parameters (a list in the order of their leaves is one),
        or a function of a leaf's path ("dense/kernel") and its shape in JAX.
      params: a pytree like JAX's parameters that holds the optimizer's. None: the optimizer's groups have them
        in the order of `jax.tree.leaves`. (Flax puts a bias before its kernel, PyTorch a weight before its
        bias.)

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
            if name == "col" and place.is_line:
                continue
            arrays = [place.to_torch(_array(leaves[number])) for leaves in parts[place.there(name)]]
            fresh[name] = _tensor(np.stack(arrays) if name in _BY_DECAY else arrays[0])
        if "step" in fresh:
            fresh["step"] = _tensor(_array(node.step))
        saved["state"][place.index] = fresh
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
        if "col" in mine and place.is_line:  # empty here, and zeros in JAX
            mine["col"] = np.zeros((len(mine["row"]), *place.param.shape[: place.layers]), np.float32)
        for name in found:
            x = mine[name]
            parts = list(x) if name in _BY_DECAY else [x]
            found[place.there(name)].append([place.to_jax(part) for part in parts])
    changed = node
    for name, trees in _trees(node).items():
        filled = tuple(
            jax.tree.unflatten(
                jax.tree.structure(tree),
                [_like(of_one[k], old) for of_one, old in zip(found[name], _leaves(tree), strict=True)],
            )
            for k, tree in enumerate(trees)
        )
        changed = changed._replace(**{name: filled if name in _BY_DECAY else filled[0]})
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
    permutations = _permutations(params_axes, paths, shapes)
    places = [
        _place(path, shape, axes, *one)
        for path, shape, axes, one in zip(paths, shapes, permutations, mine, strict=True)
    ]
    for place in places:
        if odd := set(optimizer.state[place.param]) - {"step"} ^ set(_trees(node)):
            raise CeloError(
                f"{', '.join(sorted(odd))}: the weights of one have start_power and those of the other have not; "
                "use the same weights in JAX and in PyTorch"
            )
    for name, trees in _trees(node).items():
        for part in trees:
            for path, place, leaf in zip(paths, places, _leaves(part), strict=True):
                expected = _shape_in_jax(name, place)
                if tuple(leaf.shape) != expected:
                    raise CeloError(
                        f"{name} of {path} has shape {tuple(leaf.shape)} in JAX's state, expected {expected}: "
                        f"the optimizer has per_layer={place.layers} for it; give it the state's"
                    )
    return node, places


def _statistics(optimizer: LearnedOptimizer, state: Any) -> Any:
    """The part of JAX's state that belongs to parameters."""
    from celo.optimizers._celo import CeloState
    from celo.optimizers._celo_adam import AdamState, CeloAdamState
    from celo.optimizers._schedule import LossHistory, PlateauState, ScheduleState
    from celo.optimizers._update_rule import RuleState
    from celo.transforms._low_precision_state import CompactState

    kind, remedy = (
        (AdamState, "celo.celo_adam")
        if isinstance(optimizer, CeloAdam)
        else (RuleState, "celo.celo or celo.celo_rule")
    )
    ours = (CeloState, CeloAdamState, RuleState, AdamState, ScheduleState, LossHistory, PlateauState)
    if _nodes(state, CompactState):
        raise CeloError(
            "JAX's state is stored in bfloat16, which has no counterpart in PyTorch; use state_dtype='float32'"
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


def _parameters(optimizer: LearnedOptimizer, params: Any) -> list[tuple[LearnedOptimizer, int, Any, Tensor]]:
    """(optimizer, index, group, parameter) of each, in the order of JAX's leaves."""
    every = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    mine = {id(p): (optimizer, index, group, p) for index, (group, p) in enumerate(every)}
    for group, p in every:
        if group["rule"] == "adamw":
            raise CeloError(
                f"a parameter {list(p.shape)} is in a group with rule='adamw', whose state celo.celo does not "
                "have; transfer an optimizer whose groups are all learned"
            )
        optimizer._prepare(group, p)
    if params is None:
        return list(mine.values())
    given = [id(p) for p in _leaves(params)]
    if sorted(given) != sorted(mine):
        raise CeloError(
            f"params must hold each of the optimizer's {len(mine)} parameters once, got {len(given)} leaves of "
            "which some are others; fill JAX's pytree with them, such as {'kernel': layer.weight}"
        )
    return [mine[which] for which in given]


def _permutations(params_axes: ParamsAxes, paths: list[str], shapes: list[tuple[int, ...]]) -> list[Axes]:
    if params_axes is None:
        return [None] * len(paths)
    if callable(params_axes):
        return [params_axes(path, shape) for path, shape in zip(paths, shapes, strict=True)]

    def is_axes(x: Any) -> bool:
        return x is None or (isinstance(x, tuple) and all(isinstance(axis, int) for axis in x))

    given = _leaves(params_axes, is_axes)
    if len(given) != len(paths):
        raise CeloError(
            f"params_axes has {len(given)} leaves, and there are {len(paths)} parameters; give each a tuple of "
            "its axes, or None"
        )
    return given


def _place(
    path: str,
    shape: tuple[int, ...],
    axes: Axes,
    optimizer: LearnedOptimizer,
    index: int,
    group: Mapping[str, Any],
    param: Tensor,
) -> _Place:
    layers = group.get("per_layer", 0)
    chosen = tuple(range(len(shape))) if axes is None else axes
    if not isinstance(chosen, tuple) or sorted(chosen) != list(range(len(shape))):
        raise CeloError(
            f"params_axes of {path} is {axes!r}, which is no permutation of the {len(shape)} axes of {shape}; "
            "a dense kernel's is (1, 0)"
        )
    if tuple(shape[axis] for axis in chosen) != tuple(param.shape):
        raise CeloError(
            f"{path} {list(shape)} in JAX corresponds to a parameter {list(param.shape)} here, and with "
            f"axes {chosen} it would be {[shape[axis] for axis in chosen]}; give its permutation in params_axes "
            "((1, 0) for a dense kernel, (3, 2, 0, 1) for a convolution's) and, where the order is another, "
            "JAX's pytree of the optimizer's parameters as params"
        )
    if sorted(chosen[:layers]) != list(range(layers)):
        raise CeloError(
            f"params_axes of {path} is {chosen}, and its first {layers} axes count tensors (per_layer={layers}): "
            "they must come first in both layouts"
        )
    swapped = not isinstance(optimizer, CeloAdam) and _swapped(path, shape, chosen, layers)
    return _Place(index, param, layers, shape, chosen, swapped)


def _swapped(path: str, shape: tuple[int, ...], axes: tuple[int, ...], layers: int) -> bool:
    """Whether the axis that `row` averages away in JAX is the one that `col` averages away here."""
    theirs = factored_axes(shape[layers:])
    ours = factored_axes(tuple(shape[axis] for axis in axes[layers:]))
    if theirs is None or ours is None:
        return False
    averaged = tuple(axes[layers + axis] - layers for axis in ours)
    if averaged not in (theirs, theirs[::-1]):
        raise CeloError(
            f"{path} {list(shape)} has axes of equal size, of which JAX averages {theirs} away and PyTorch, in "
            f"the layout {axes}, {averaged}: one's moments do not say the other's. Keep this parameter in JAX's "
            "layout and permute it in the forward pass"
        )
    return averaged != theirs


def _shape_in_jax(name: str, place: _Place) -> tuple[int, ...]:
    """The shape of a part of a parameter's state in JAX, of one decay."""
    stack = place.shape[: place.layers]
    if name == "first_size" or (name == "col" and place.is_line):
        return stack
    shape = statistics_shapes(place.shape, place.layers).get(name, place.shape)
    return shape[1:] if name in _BY_DECAY else shape


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
            f"parameters have had from {min(counts):.0f} to {max(counts):.0f} gradients, and celo.celo_adam has "
            "one count for all; leave out the parameters that are not always trained"
        )
    return np.asarray(counts.pop() if counts else 0.0)


# ---------------------------------------------------------------------- pytrees and arrays


def _trees(node: Any) -> dict[str, tuple[Any, ...]]:
    """The parts of a state that are pytrees like the parameters, several or one, by field."""
    return {
        name: value if name in _BY_DECAY else (value,)
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
