"""What names stand for: all of them as a table by kind, and one of them in a few lines.

Weights have their own model card, which `celo info` shows in `_weights`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from celo._errors import unknown_name

Lines = Iterator[str]


def table_of_names() -> Table:
    """Every name that commands accept, a row a kind; tasks stand where they are first used."""
    table = Table("kind", "names", box=SIMPLE_HEAD, pad_edge=False)
    for kind, names in _by_kind().items():
        table.add_row(kind, ", ".join(names))
        table.add_row()
    return table


def describe(name: str) -> list[str]:
    """Lines on each thing of that name other than weights; none if there is none.

    Raises:
      CeloError: if a task's data or a package it needs is not to be had.
    """
    makers = _describers()
    if ":" in name:
        return list(_task(name))
    return [
        line for kind, (names, lines) in makers.items() if name in names for line in _under(kind, name, lines)
    ]


def unknown(name: str, weights: Iterable[str]) -> Exception:
    """The error for a name that is nothing of ours; a file's path must say so."""
    known = {*weights, *(one for names, _ in _describers().values() for one in names)}
    return unknown_name("name", name, known)


def _by_kind() -> dict[str, list[str]]:
    from celo import weights
    from celo.evaluate import BASELINES, SUITES
    from celo.meta import ESTIMATORS, RECIPES
    from celo.optimizers import OPTIMIZERS
    from celo.tasks import TASKS

    cosines = [name for name in BASELINES if name.endswith("_cosine")]
    left, tasks = dict.fromkeys(TASKS), {}
    for suite, settings in SUITES.items():
        tasks[f"tasks of suite {suite}"] = [one.name for one in settings if one.name in left]
        left = {name: None for name in left if name not in tasks[f"tasks of suite {suite}"]}
    return {
        "weights": list(weights.bundled()),
        "learned optimizers": list(OPTIMIZERS),
        "baselines": [name for name in BASELINES if name not in cosines],
        "the same, cosine": cosines,
        "recipes": list(RECIPES),
        "estimators": list(ESTIMATORS),
        "suites": list(SUITES),
        **{kind: names for kind, names in tasks.items() if names},
        "other tasks": list(left),
    }


def _describers() -> dict[str, tuple[Any, Callable[[str], Lines]]]:
    """kind -> (its names, what there is to say of one)."""
    from celo.evaluate import BASELINES, SUITES
    from celo.meta import ESTIMATORS, RECIPES
    from celo.optimizers import OPTIMIZERS
    from celo.tasks import TASKS

    return {
        "learned optimizer": (OPTIMIZERS, _optimizer),
        "baseline": (BASELINES, _baseline),
        "task": (TASKS, _task),
        "recipe": (RECIPES, _recipe),
        "estimator": (ESTIMATORS, _estimator),
        "suite": (SUITES, _suite),
    }


def _under(kind: str, name: str, lines: Callable[[str], Lines]) -> Lines:
    """What it is and, indented, all there is to say."""
    yield f"{kind} {name}"
    yield from (f"  {line}" for line in lines(name))


def _task(name: str) -> Lines:
    """Size and cost are read from shapes alone; only the data is loaded."""
    import jax

    from celo.evaluate import SUITES
    from celo.tasks import make_task, value_and_grad

    family, key = make_task(name), jax.random.key(0)
    task = jax.eval_shape(lambda key: family.sample(key, jax.numpy.int32(0)), key)
    params, state = jax.eval_shape(lambda task, key: task.init(key), task, key)
    draws = jax.eval_shape(lambda key: family.draw(key, 1), key)
    draw = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), draws)
    batch = jax.eval_shape(lambda task, draw: family.batch(task, "train", draw), task, draw)
    work = jax.jit(value_and_grad).lower(task, params, state, key, batch).cost_analysis()
    leaves = jax.tree.leaves(params)
    yield f"size: {sum(leaf.size for leaf in leaves):,} parameters in {len(leaves)} tensors"
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(batch))
    yield f"batch: {shapes or 'none'}"
    if work and "flops" in work:
        yield f"cost: {_short(work['flops'])} floating-point operations a gradient, before XLA optimises"
    yield f"members: {', '.join(family.members)}"
    yield f"loss cap in meta-training: {family.loss_cap:.4g}"
    for suite, settings in SUITES.items():
        for one in settings:
            if one.name == name:
                yield f"in suite {suite}: {one.num_steps:,} steps, evaluated every {one.eval_every}"


def _baseline(name: str) -> Lines:
    import jax
    import jax.numpy as jnp

    from celo.evaluate import BASELINES
    from celo.evaluate._run.baselines import definition

    yield from (f"{key}: {value}" for key, value in definition(name).items())
    tx, side = BASELINES[name](1e-3, 1000), 256
    params = {"w": jax.ShapeDtypeStruct((side, side), jnp.float32)}
    state = jax.eval_shape(tx.init, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / side**2
    yield f"size: {size:.3g} bytes of state a parameter, in a matrix of {side} x {side}"
    yield "cost: its learning rate is tuned on each task; `celo evaluate` times its steps"


def _optimizer(name: str) -> Lines:
    import jax

    from celo.optimizers import OPTIMIZERS

    entry = OPTIMIZERS[name]
    optimizer = entry.optimizer(kernel="xla")
    yield (optimizer.__doc__ or "").strip().split("\n")[0]
    for group, theta in jax.eval_shape(optimizer.init_theta, jax.random.key(0)).items():
        yield f"size: {sum(leaf.size for leaf in jax.tree.leaves(theta)):,} weights in {group}"
    yield f"phases of its meta-training: {', '.join(phase.name for phase in entry.phases)}"


def _recipe(name: str) -> Lines:
    from celo.meta import RECIPES, Recipe
    from celo.meta._phases import phases

    recipe, paper = RECIPES[name], Recipe()
    for field in dataclasses.fields(Recipe):
        value = getattr(recipe, field.name)
        if value != getattr(paper, field.name):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            yield f"{field.name}: {shown} (the paper's: {_short_default(field.default)})"
    for phase in phases(recipe):
        yield f"phase {phase.name}: {phase.steps:,} outer steps on {', '.join(recipe.families(phase.name))}"
    if not recipe.estimator.startswith("full_es"):  # whose outer steps are whole trainings
        outer = sum(phase.steps for phase in phases(recipe))
        inner = outer * 2 * recipe.pairs_per_task * recipe.truncation_length
        yield f"cost: {_short(inner)} inner steps for each kind of task"


def _short_default(value: Any) -> Any:
    return (", ".join(value) or "none") if isinstance(value, tuple) else value


def _estimator(name: str) -> Lines:
    from celo.meta import ESTIMATORS

    made = ESTIMATORS[name]
    function, settings = getattr(made, "func", made), getattr(made, "keywords", {})  # of a partial
    yield (function.__doc__ or "").strip().split("\n")[0]
    yield from (f"{key}: {value}" for key, value in settings.items())


def _suite(name: str) -> Lines:
    from celo.evaluate import SUITES

    yield f"{len(SUITES[name])} tasks, {sum(one.num_steps for one in SUITES[name]):,} steps in all"
    yield from (f"{one.name}: {one.num_steps:,} steps" for one in SUITES[name])


def _short(count: float) -> str:
    """12,345,678 -> 12.3 million."""
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if count >= size:
            return f"{count / size:.3g}{word}"
    return f"{math.ceil(count):,}"
