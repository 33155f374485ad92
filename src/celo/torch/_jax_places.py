"""Which part of JAX's state belongs to which parameter here; `_jax_state` carries the numbers over."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from celo._errors import CeloError
from celo.torch._base import LearnedOptimizer
from celo.torch._celo import Celo, CeloRule
from celo.torch._celo2 import Celo2, Celo2Base
from celo.torch._celo_adam import CeloAdam
from celo.torch._jax_layout import BY_DECAY, Layout, ParamsAxes, layout, permutations
from celo.torch._velo import VeLO

REMEMBERED = ("hidden", "cell")  # what VeLO's LSTM keeps of each tensor


class Place(NamedTuple):
    """Where one parameter's state is here and there, and how it lies."""

    number: int  # in `state_dict()`
    param: Tensor
    node: Any  # the part of JAX's state that has it
    leaf: int  # among that part's leaves
    layout: Layout


def matched(optimizer: LearnedOptimizer, state: Any, params_axes: ParamsAxes, params: Any) -> list[Place]:
    """Each parameter, in the order of JAX's leaves, and the part of JAX's state that belongs to it."""
    from celo.optimizers._rule_steps import RuleState

    of_state = statistics(optimizer, state)
    found = _in_order(of_state)
    mine = _parameters(optimizer, params)
    if len(found) != len(mine):
        raise CeloError(
            f"JAX's state is of {len(found)} parameters, and the optimizer has {len(mine)}; make it of the "
            "same ones, or take the others out with optax.masked"
        )
    paths, shapes, nodes, indices = (list(column) for column in zip(*found, strict=True))
    said = permutations(params_axes, paths, shapes)
    places = []
    for path, shape, node, at, axes, (number, layers, p) in zip(
        paths, shapes, nodes, indices, said, mine, strict=True
    ):
        factored = isinstance(node, RuleState)
        lies = layout(path, shape, axes, tuple(p.shape), layers, factored=factored)
        if factored and isinstance(optimizer, Celo2 | Celo2Base):
            _check_matrices(path, lies)
        _check_names(path, set(optimizer.state[p]) - {"step", *REMEMBERED}, set(trees_of(node)))
        places.append(Place(number, p, node, at, lies))
    for node in of_state:
        for name, trees in trees_of(node).items():
            for path, place in zip(paths, places, strict=True):
                if place.node is node:
                    for tree in trees:
                        _check_shape(path, name, tuple(leaves_of(tree)[place.leaf].shape), place.layout)
    return places


def _in_order(nodes: list[Any]) -> list[tuple[str, tuple[int, ...], Any, int]]:
    """(path, shape, part of the state that has it, place among that part's leaves) of each parameter.

    Where there are several parts, each has nodes in the places of the others' parameters.
    """
    import jax
    import optax

    def masked(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    columns = []
    for node in nodes:
        trees = trees_of(node)
        [whole] = {"first", "second_moment", "momentum"} & trees.keys()  # as large as its parameter
        tree = trees[whole][0]
        columns.append(jax.tree_util.tree_leaves_with_path(tree, is_leaf=masked))
    found, counts = [], [0] * len(nodes)
    for entries in zip(*columns, strict=True):
        for which, (path, leaf) in enumerate(entries):
            if not masked(leaf):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                found.append((name, tuple(leaf.shape), nodes[which], counts[which]))
                counts[which] += 1
    return found


def _check_names(path: str, mine: set[str], theirs: set[str]) -> None:
    odd = ", ".join(sorted(mine ^ theirs))
    if odd and "momentum" in mine ^ theirs:
        where = "JAX" if "momentum" in theirs else "PyTorch"
        raise CeloError(
            f"{path} steps along its momentum in {where} alone; use the same weights and the same "
            "orthogonalize= in JAX and in PyTorch"
        )
    if odd:
        where = "JAX" if "first" in theirs else "PyTorch"
        raise CeloError(
            f"Adam takes {path} in {where} alone; make adam_mask there and adam= here say the same of it"
        )


def _check_shape(path: str, name: str, found: tuple[int, ...], lies: Layout) -> None:
    expected = lies.shape_there(name)
    if found != expected:
        raise CeloError(
            f"{name} of {path} has shape {found} in JAX's state, expected {expected}: the optimizer has "
            f"per_layer={lies.layers} for it; give it the state's"
        )


def _check_matrices(path: str, lies: Layout) -> None:
    """CeloError if Celo2's matrices in a tensor are not in the same axes."""
    axes, theirs = len(lies.shape), {len(lies.shape) - 2, len(lies.shape) - 1}
    if axes - lies.layers > 2 and set(lies.axes[lies.layers :][:2]) != theirs:
        raise CeloError(
            f"{path} {list(lies.shape)} has its matrices in its last two axes in JAX, and in the first two "
            f"here, which are JAX's {lies.axes[lies.layers :][:2]}; lay it out as [out, in, …]"
        )


def statistics(optimizer: LearnedOptimizer, state: Any) -> list[Any]:
    """The parts of JAX's state that belong to parameters."""
    from celo.optimizers._adam import AdamState
    from celo.optimizers._celo import CeloState
    from celo.optimizers._celo2 import Celo2State
    from celo.optimizers._celo_adam import CeloAdamState
    from celo.optimizers._matrix_steps import MatrixState
    from celo.optimizers._rule_steps import RuleState
    from celo.optimizers._schedule import LossHistory, PlateauState, ScheduleState
    from celo.optimizers._update_rule import SplitState
    from celo.optimizers._velo import ControllerState, VeloState
    from celo.transforms._low_precision_state import CompactState

    ours = (CeloState, CeloAdamState, RuleState, AdamState, ScheduleState, LossHistory, PlateauState)
    kinds, remedy = (RuleState,), "celo.celo or celo.celo_rule"
    if isinstance(optimizer, CeloAdam):
        kinds, remedy = (AdamState,), "celo.celo_adam"
    elif isinstance(optimizer, Celo2 | Celo2Base):
        kinds, remedy, ours = (RuleState, AdamState), "celo.celo2 or celo.celo2_base", (*ours, Celo2State)
    elif isinstance(optimizer, VeLO):
        remedy, ours = "celo.velo", (*ours, VeloState, ControllerState)
    elif isinstance(optimizer, Celo | CeloRule):
        ours = (*ours, SplitState, MatrixState)
        if nodes_of(state, MatrixState):
            kinds = (RuleState, MatrixState)
    if nodes_of(state, CompactState):
        raise CeloError(
            "JAX's state is stored in bfloat16, which has no counterpart in PyTorch; use "
            "state_dtype='float32'"
        )
    module = "celo.optimizers."
    others = nodes_of(state, lambda n: type(n).__module__.startswith(module) and not isinstance(n, ours))
    required = (*kinds, ControllerState) if isinstance(optimizer, VeLO) else kinds
    found = {kind: nodes_of(state, kind) for kind in required}
    wrong = [
        f"{len(of_kind)} of {kind.__name__} in it" for kind, of_kind in found.items() if len(of_kind) != 1
    ]
    if others or wrong:
        what = type(others[0]).__name__ if others else wrong[0]
        raise CeloError(
            f"{type(optimizer).__name__} corresponds to one state of {remedy}, got a {type(state).__name__} "
            f"with {what}; hand in the optax state of that optimizer. (A state that was restored without a "
            "target is a dict: restore it with tx.init(params) as the target)"
        )
    return [found[kind][0] for kind in kinds]


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
    given = [id(p) for p in leaves_of(params)]
    if sorted(given) != sorted(mine):
        raise CeloError(
            f"params must hold each of the optimizer's {len(mine)} parameters once, got {len(given)} leaves, "
            "some of them others; fill JAX's pytree with them, such as {'kernel': layer.weight}"
        )
    return [mine[which] for which in given]


def trees_of(node: Any) -> dict[str, tuple[Any, ...]]:
    """The parts of a state that are pytrees like the parameters, several or one, by field."""
    return {
        name: value if name in BY_DECAY else (value,)
        for name, value in node._asdict().items()
        if name != "step" and value is not None
    }


def leaves_of(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    import jax

    return jax.tree.leaves(tree, is_leaf=is_leaf)


def nodes_of(state: Any, which: type | Callable[[Any], bool]) -> list[Any]:
    """Parts of a state, however deep."""
    wanted = (lambda n: isinstance(n, which)) if isinstance(which, type) else which
    return [node for node in leaves_of(state, wanted) if wanted(node)]
