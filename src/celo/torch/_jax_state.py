"""A run carried from JAX to PyTorch, and back: the optimizer's state in the form of the other framework.

Both keep the same numbers, in other places and often in another layout (`_jax_layout`). JAX is imported in
these modules alone, where a state of it is at hand.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celo._errors import CeloError
from celo.torch import _sharded
from celo.torch._base import LearnedOptimizer
from celo.torch._jax_layout import BY_DECAY, ParamsAxes
from celo.torch._jax_places import REMEMBERED, Place, leaves_of, matched, nodes_of, statistics, trees_of
from celo.torch._velo import VeLO


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
      optimizer: any of this module, of the same parameters.
      state: the optax state of its counterpart (`celo.celo` is that of `Celo`), or one that has it inside.
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
    places = matched(optimizer, state, params_axes, params)
    shared = _shared(optimizer, state)
    saved = optimizer.state_dict()
    remembered = _rows_apart(optimizer, state, places)
    for position, place in enumerate(places):
        fresh = {name: torch.zeros_like(x) for name, x in optimizer.state[place.param].items()}
        parts = trees_of(place.node)
        for name in parts:
            if name == "col" and place.layout.is_line:
                continue
            leaves = [leaves_of(tree)[place.leaf] for tree in parts[place.layout.there(name)]]
            arrays = [place.layout.to_torch(_array(leaf)) for leaf in leaves]
            fresh[name] = _tensor(np.stack(arrays) if name in BY_DECAY else arrays[0])
        if "step" in fresh:
            fresh["step"] = _tensor(_array(place.node.step))
        fresh |= {name: _tensor(place.layout.to_torch(rows[position])) for name, rows in remembered.items()}
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
      optimizer: any of this module; with sharded parameters, all processes call.
      state: a state like the wanted one, `tx.init(params)` or its shapes (`jax.eval_shape`). Of a chain all
        that is not Celo's stays as it is: set counts of schedules of your own yourself.
      params_axes: as in `load_jax_state`; so is the other.
      params: where the order of parameters is another.

    Raises:
      CeloError: as `load_jax_state`; if the state has no place for what the optimizer keeps; if parameters
        that Adam takes have had different numbers of gradients, for which JAX has one count.
    """
    import jax

    places = matched(optimizer, state, params_axes, params)
    _check_plateau(optimizer, state)
    for node in statistics(optimizer, state):
        found: dict[str, list[list[np.ndarray]]] = {name: [] for name in trees_of(node)}
        for place in places:
            if place.node is node:
                for name, parts in _parts_there(optimizer, place).items():
                    found[name].append(parts)
        changed = node
        for name, trees in trees_of(node).items():
            filled = tuple(
                jax.tree.unflatten(
                    jax.tree.structure(tree),
                    [_like(of_one[k], old) for of_one, old in zip(found[name], leaves_of(tree), strict=True)],
                )
                for k, tree in enumerate(trees)
            )
            changed = changed._replace(**{name: filled if name in BY_DECAY else filled[0]})
        if "step" in node._fields:
            changed = changed._replace(step=_like(_one_count(optimizer, node.step), node.step))
        state = _replaced(state, type(node), lambda _, changed=changed: changed)
    for kind, fields in _shared_fields().items():
        if nodes_of(state, kind):
            values = {field: _array(optimizer.param_groups[0][name]) for name, field in fields.items()}
            state = _replaced(state, kind, lambda old, values=values: _with(old, values))
    if isinstance(optimizer, VeLO):
        from celo.optimizers._velo import ControllerState

        rows = {name: _rows_together(optimizer, places, name) for name in REMEMBERED}
        state = _replaced(state, ControllerState, lambda old: _with(old, rows))
    return state


def _parts_there(optimizer: LearnedOptimizer, place: Place) -> dict[str, list[np.ndarray]]:
    """One parameter's statistics under JAX's names in JAX's layout, several or one of each."""
    mine = {name: _array(_sharded.whole(x)) for name, x in optimizer.state[place.param].items()}
    if "col" in mine and place.layout.is_line:  # empty here, and zeros in JAX
        mine["col"] = np.zeros((len(mine["row"]), *place.param.shape[: place.layout.layers]), np.float32)
    return {
        place.layout.there(name): [
            place.layout.to_jax(part) for part in (mine[name] if name in BY_DECAY else [mine[name]])
        ]
        for name in trees_of(place.node)
    }


def _rows_apart(optimizer: LearnedOptimizer, state: Any, places: list[Place]) -> dict[str, list[np.ndarray]]:
    """What VeLO's LSTM remembers of each parameter, [..., units] with the axes that count tensors."""
    if not isinstance(optimizer, VeLO):
        return {}
    from celo.optimizers._velo import ControllerState

    [controller] = nodes_of(state, ControllerState)
    stacks = [place.layout.shape[: place.layout.layers] for place in places]
    counts = [int(np.prod(stack)) for stack in stacks]
    units = optimizer._first_values()["hidden"].numel()
    if controller.hidden.shape != (sum(counts), units):
        raise CeloError(
            f"hidden in JAX's state has shape {controller.hidden.shape}, expected {(sum(counts), units)}: "
            "its weights are of another size, or per_layer is another; use the same in JAX and in PyTorch"
        )
    return {
        name: [
            rows.reshape(*stack, units)
            for rows, stack in zip(
                np.split(_array(getattr(controller, name)), np.cumsum(counts)[:-1]), stacks, strict=True
            )
        ]
        for name in REMEMBERED
    }


def _rows_together(optimizer: LearnedOptimizer, places: list[Place], name: str) -> np.ndarray:
    """The other direction of `_rows_apart`, [tensors, units]."""
    of_each = [
        place.layout.to_jax(_array(_sharded.whole(optimizer.state[place.param][name]))) for place in places
    ]
    return np.concatenate([x.reshape(-1, x.shape[-1]) for x in of_each])


# ---------------------------------------------------------------------- what belongs to no parameter


def _shared_fields() -> dict[type, dict[str, str]]:
    """Parts of JAX's states, and their fields under the names they have in `param_groups`."""
    from celo.optimizers._schedule import PlateauState, ScheduleState
    from celo.optimizers._velo import ControllerState
    from celo.transforms._nonfinite import NonfiniteState

    clock = {
        "schedule_clock": "step",
        "schedule_num_steps": "num_steps",
        "schedule_loss_means": "losses.means",
        "schedule_loss_minima": "losses.minima",
        "schedule_losses_seen": "losses.step",
    }
    return {
        ControllerState: clock,
        ScheduleState: clock
        | {
            "schedule_sized_for": "sized_for",
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
        for node in nodes_of(state, kind):
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
    if np.isfinite(float(share)) and not nodes_of(state, PlateauState):
        raise CeloError(
            f"the optimizer waits at plateau={float(share):g}, and JAX's state has no plateau; make it with "
            "celo.celo(…, plateau=…)"
        )


def _one_count(optimizer: LearnedOptimizer, theirs: Any) -> np.ndarray:
    """How many gradients Adam has had; where it takes no tensor, what JAX's state says, of no consequence."""
    import jax

    counts = {float(_sharded.whole(s["step"])) for s in optimizer.state.values() if "step" in s}
    if len(counts) > 1:
        raise CeloError(
            f"parameters have had from {min(counts):.0f} to {max(counts):.0f} gradients, and JAX has one "
            "count for all that Adam takes; leave out the parameters that are not always trained"
        )
    if not counts:
        return np.asarray(0) if isinstance(theirs, jax.ShapeDtypeStruct) else _array(theirs)
    return np.asarray(counts.pop())


# ---------------------------------------------------------------------- pytrees and arrays


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
