"""What trained weights do on a short run: the schedule, the rule, and how far each tensor goes.

The run is a real one, of a loss of your own or of a small task that comes with the package. Three horizons
are trained side by side on the same batches, since the learned schedule depends on the horizon.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo._arguments import check_num_steps, check_parameters
from celo._definitions import RMS_FLOOR
from celo._errors import CeloError
from celo._explain.rule_map import AXIS, RuleMap, rule_map
from celo._kernels.statistics import rms
from celo._types import Array, Batch, Params, Theta
from celo.optimizers import _rule_steps, _schedule
from celo.optimizers._bind import WeightsLike, bind
from celo.optimizers._celo import Celo, CeloState
from celo.optimizers._update_rule import SplitState
from celo.tasks import make_task

TASK = "digits_mlp128x128"  # its images come with scikit-learn

Loss = Callable[[Params, Batch], Array]


@dataclass(frozen=True)
class Explanation:
    """What `explain` saw, in NumPy arrays; T is the longest horizon, the `num_steps` that was asked for.

    Attributes:
      weights: what they are called.
      step_sizes: horizon -> [horizon], the learned schedule at each step: what multiplies the rule's step.
      losses: horizon -> [horizon], the training loss that each step saw.
      tensors: names of the parameters' tensors, those without elements left out.
      relative_steps: [T, tensors] root mean square of each update over that of its tensor under horizon T; a
        tensor counts as at least 3e-5, as it does in the rule.
      rule: the rule's step as a function of gradient and momentum, at step T // 2 in the largest tensor that
        it steps; None where all tensors are matrices that step along their momentum.
    """

    weights: str
    step_sizes: dict[int, np.ndarray]
    losses: dict[int, np.ndarray]
    tensors: tuple[str, ...]
    relative_steps: np.ndarray
    rule: RuleMap | None


def explain(
    loss: Loss | None = None,
    params: Params | None = None,
    batches: Iterable[Batch] | None = None,
    *,
    num_steps: int = 300,
    weights: WeightsLike = "celo",
) -> Explanation:
    """Trains with Celo and keeps what it did at each step; `celo.draw_explanation` makes a picture of it.

    Without `loss`, `params` and `batches` a perceptron learns scikit-learn's digits (`celo[data]`).

    >>> import celo, itertools, jax.numpy as jnp
    >>> def loss(params, batch):
    ...     return jnp.mean((batch @ params["w"]) ** 2)
    >>> seen = celo.explain(loss, {"w": jnp.ones((3, 2))}, itertools.repeat(jnp.eye(3)), num_steps=9)
    >>> seen.step_sizes[9].shape
    (9,)

    Args:
      loss: (params, batch) -> a scalar; it will be jitted.
      params: where training starts, a pytree of floating-point arrays; three copies are trained.
      batches: at least `num_steps` of them, read one by one: a data loader will do.
      num_steps: of the longest run; the others have a third and a ninth of it for their horizon.
      weights: a bundled name, a path to a .safetensors file, or θ itself.

    Raises:
      CeloError: if weights or parameters do not fit, or some but not all of the first three are given, or the
        batches end too soon.
    """
    num_steps = check_num_steps(num_steps)
    theta = bind(weights, Celo()).theta
    if loss is None and params is None and batches is None:
        loss, params, batches = _digits(num_steps)
    if loss is None or params is None or batches is None:
        raise CeloError(
            "explain needs loss, params and batches together; give all three, or none for a task of ours"
        )
    params = jax.tree.map(_as_array, params)
    check_parameters(params)
    names, sizes = _tensors(params)
    if not any(sizes):
        raise CeloError("params have no elements, so there is nothing to explain; pass those of a model")
    shown = np.flatnonzero(sizes)
    runs = {
        horizon: _Run(params, Celo().init(theta, params, jnp.asarray(horizon, jnp.int32)))
        for horizon in sorted({max(1, num_steps // 9), max(1, num_steps // 3), num_steps})
    }
    logs, halfway = _train(jax.jit(partial(_step, loss, theta)), runs, batches)
    seen = {
        horizon: jax.tree.map(lambda *steps: np.stack(steps), *jax.device_get(log))
        for horizon, log in logs.items()
    }
    return Explanation(
        weights=os.fspath(weights) if isinstance(weights, str | os.PathLike) else "θ",
        step_sizes={horizon: report.step_size for horizon, report in seen.items()},
        losses={horizon: report.loss for horizon, report in seen.items()},
        tensors=tuple(names[i] for i in shown),
        relative_steps=seen[num_steps].relative_steps[:, shown],
        rule=_map_of(theta, *halfway, names),
    )


class _Run(NamedTuple):
    """A training run in flight."""

    params: Params
    state: CeloState


class _Report(NamedTuple):
    """What is kept of a step."""

    loss: Array
    step_size: Array
    relative_steps: Array  # [tensors]


def _as_array(leaf: Any) -> Any:
    """Python's numbers as arrays; what is no number as it is, for the error that names it."""
    return jnp.asarray(leaf) if isinstance(leaf, int | float) else leaf


def _tensors(params: Params) -> tuple[list[str], list[int]]:
    """(name, number of elements) of each tensor."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    return names, [np.size(leaf) for _, leaf in paths]


def _train(
    step: Callable[[_Run, Batch], tuple[_Run, _Report, Params]],
    runs: dict[int, _Run],
    batches: Iterable[Batch],
) -> tuple[dict[int, list[_Report]], tuple[_Run, Params]]:
    """Takes every run through the same batches to its horizon.

    Returns:
      (horizon -> a report a step, (the longest run halfway, the gradient that it meets there)).
    """
    logs, halfway, longest = {horizon: [] for horizon in runs}, None, max(runs)
    for t, batch in enumerate(itertools.islice(batches, longest)):
        for horizon in [horizon for horizon in runs if t < horizon]:
            before = runs[horizon]
            runs[horizon], report, grads = step(before, batch)
            logs[horizon].append(report)
            if (t, horizon) == (longest // 2, longest):
                halfway = before, grads
    if halfway is None or len(logs[longest]) < longest:
        raise CeloError(
            f"batches ended after {len(logs[longest])} of num_steps={longest} steps; "
            "give more of them (itertools.cycle repeats a list), or ask for fewer steps"
        )
    return logs, halfway


def _step(loss: Loss, theta: Theta, run: _Run, batch: Batch) -> tuple[_Run, _Report, Params]:
    """One step of Celo: (run, report, gradient)."""
    value, grads = jax.value_and_grad(loss)(run.params, batch)
    value = value.astype(jnp.float32)
    updates, state = Celo().update(theta, grads, run.state, run.params, value=value)
    # What `update` multiplied the rule's step by; compiled with it, this is computed once.
    step_size, _ = _schedule.advance(theta[_schedule.GROUP], run.state.schedule, value)

    def relative(update: Array, param: Array) -> Array:
        return rms(update.astype(jnp.float32), 0.0) / rms(param.astype(jnp.float32), RMS_FLOOR)

    relative_steps = jnp.stack(jax.tree.leaves(jax.tree.map(relative, updates, run.params)))
    report = _Report(value, step_size, relative_steps)
    return _Run(jax.tree.map(jnp.add, run.params, updates), state), report, grads


def _map_of(theta: Theta, run: _Run, grads: Params, names: list[str]) -> RuleMap | None:
    """The rule's map for the largest tensor of a run that it steps."""
    state = run.state.rule
    every = state.rule if isinstance(state, SplitState) else state
    stats = _rule_steps.tensor_stats(every, jax.tree.structure(run.params))
    own = [i for i, one in enumerate(stats) if not isinstance(one.second_moment, optax.MaskedNode)]
    index = max(own, key=lambda i: stats[i].second_moment.size, default=None)
    if index is None or not stats[index].second_moment.size:
        return None

    def tensor(tree: Params) -> Array:
        return jax.tree.leaves(tree)[index]

    grad, param = (tensor(tree).astype(jnp.float32) for tree in (grads, run.params))
    steps = rule_map(theta[_rule_steps.GROUP], stats[index], grad, param, run.state.schedule.step)
    return RuleMap(names[index], AXIS, AXIS, *map(np.asarray, steps))


def _digits(num_steps: int) -> tuple[Loss, Params, Iterator[Batch]]:
    """A perceptron on scikit-learn's digits: (loss, params, batches)."""
    family = make_task(TASK)
    key_task, key_init, key_draw, key = jax.random.split(jax.random.key(0), 4)
    task = family.sample(key_task, jnp.zeros((), jnp.int32))
    params, model_state = task.init(key_init)
    draws = jax.device_get(family.draw(key_draw, num_steps))
    batch = jax.jit(partial(family.batch, task, "train"))
    return (
        lambda params, batch: task.loss(params, model_state, key, batch)[0],
        params,
        (batch(jax.tree.map(lambda draw, t=t: draw[t], draws)) for t in range(num_steps)),
    )
