"""Training curves: any optax transformation on any task, at several learning rates and with several seeds.

Runs that share a seed share the task, its initial parameters, the batches they train on and those they are
evaluated on, whatever the optimizer, so that differences between curves are differences between optimizers.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from celo._errors import CeloError
from celo._types import Array, Key, ModelState, OptState, Params
from celo.tasks._base import TaskFamily, value_and_grad

EVAL_EVERY = 10  # steps between evaluations, and the batches of each: Celo's protocol
EVAL_BATCHES = 5
FINAL_EVAL_BATCHES = 10

Answer = Callable[[OptState, Params], Params]


class Curve(NamedTuple):
    """What runs reported; NumPy arrays. A run that diverges has non-finite losses from then on.

    Attributes:
      steps: [E] training steps taken before each evaluation; the first is 0, the last num_steps.
      train_loss: [..., seeds, E] mean loss on fresh training batches, the model as in training.
      valid_loss: [..., seeds, E] the same on validation batches, the model as it would be used.
      metrics: name -> [..., seeds, E], the task's metrics on the validation batches.
    """

    steps: np.ndarray
    train_loss: np.ndarray
    valid_loss: np.ndarray
    metrics: dict[str, np.ndarray]


def train_curve(
    family: TaskFamily,
    member: int,
    tx: optax.GradientTransformation,
    *,
    num_steps: int,
    seeds: Sequence[int],
    eval_every: int = EVAL_EVERY,
) -> Curve:
    """Train once per seed; the curve's arrays are [seeds, E].

    Args:
      family: where tasks and batches come from.
      member: index into `family.members`.
      tx: the optimizer; it is given `value=loss` if it takes extra arguments.
      num_steps: training steps.
      seeds: what task, initialisation and data order depend on.
      eval_every: steps between evaluations; the last comes after the last step all the same.
    """
    program = CurveProgram(family, member, lambda _: tx, num_steps=num_steps, eval_every=eval_every)
    return curve_at(program.curves((0.0,), seeds), 0)


class CurveProgram:
    """Training runs of one optimizer on one task, compiled once for any rates, seeds and early stops.

    On a CPU runs go one after another: vmapped they compile longer and are no faster, convolutions a quarter
    slower (`python -m benchmarks.side_by_side`). Elsewhere they go side by side.

    Args:
      family: where tasks and batches come from.
      member: index into `family.members`.
      make_tx: learning rate, a traced float32 scalar -> optimizer.
      num_steps: the most training steps of a run.
      eval_every: as in `train_curve`.
      answer: (optimizer state, parameters) -> the parameters to evaluate, where an optimizer's answer is not
        the point at which it takes gradients.
      side_by_side: whether runs are vmapped; None: wherever it is faster.

    Attributes:
      side_by_side: whether they are.
    """

    def __init__(
        self,
        family: TaskFamily,
        member: int,
        make_tx: Callable[[Array], optax.GradientTransformation],
        *,
        num_steps: int,
        eval_every: int = EVAL_EVERY,
        answer: Answer | None = None,
        side_by_side: bool | None = None,
    ):
        self._family, self._member = family, member
        self._num_steps, self._eval_every = num_steps, eval_every
        self.side_by_side = jax.default_backend() != "cpu" if side_by_side is None else side_by_side

        def run(rate: Array, start: _Start, stop: Array) -> dict[str, Any]:
            return _train(family, make_tx(rate), num_steps, eval_every, start, answer, stop)

        if self.side_by_side:
            run = jax.vmap(jax.vmap(run, in_axes=(None, 0, None)), in_axes=(0, None, None))
        self._run = jax.jit(run)

    def curves(self, rates: Sequence[float], seeds: Sequence[int], stop: int | None = None) -> Curve:
        """Train at every rate with every seed; the curve's arrays are [rates, seeds, E].

        Args:
          rates: learning rates.
          seeds: as in `train_curve`.
          stop: steps after which a run ends early; None: after all of them.

        Raises:
          CeloError: if `stop` is not between 1 and the program's `num_steps`.
        """
        stop = self._num_steps if stop is None else stop
        if not 1 <= stop <= self._num_steps:
            raise CeloError(f"stop must be from 1 to num_steps, {self._num_steps}, got {stop}")
        starts = [_start(self._family, self._member, jnp.asarray(seed, jnp.uint32)) for seed in seeds]
        last = jnp.asarray(stop, jnp.int32)
        if self.side_by_side:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
            reports = jax.device_get(self._run(jnp.asarray(rates, jnp.float32), stacked, last))
        else:
            grid = (len(rates), len(seeds))
            pairs = [(jnp.asarray(rate, jnp.float32), start) for rate in rates for start in starts]
            runs = [jax.device_get(self._run(*pair, last)) for pair in pairs]
            reports = jax.tree.map(lambda *x: np.stack(x).reshape(*grid, -1), *runs)
        steps = np.append(np.arange(0, stop, self._eval_every), stop)
        reports = _at(reports, np.s_[..., : len(steps)])
        (train_loss, _), (valid_loss, metrics) = reports["train"], reports["valid"]
        return Curve(steps, train_loss, valid_loss, metrics)


def curve_at(curves: Curve, index: Any) -> Curve:
    """The part of `curves` at `index` of the leading axes (a number, a slice, or a tuple of them)."""
    steps, *arrays = curves
    return Curve(steps, *_at(arrays, index))


def seconds_per_step(
    family: TaskFamily,
    member: int,
    tx: optax.GradientTransformation,
    *,
    num_steps: int = 30,
    repeats: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of one training step (batch, gradient, update) of one run alone: the fastest of `repeats`.

    Each timing is `num_steps` compiled steps in one call, after a warm-up. The fastest one is the one least
    disturbed by other programs; with `time.process_time` for a clock they disturb less still.
    """
    start = _start(family, member, jnp.zeros((), jnp.uint32))
    step = _stepper(family, start.task, tx)

    @jax.jit
    def train(start: _Start) -> _Run:
        run = _Run(start.params, start.model_state, tx.init(start.params))
        luck = _draw(family, start.key, num_steps)
        return jax.lax.scan(lambda run, luck: (step(run, luck), None), run, luck)[0]

    seconds = []
    for _ in range(1 + repeats):
        begin = clock()
        jax.block_until_ready(train(start))
        seconds.append(clock() - begin)
    return min(seconds) / num_steps


class _Start(NamedTuple):
    """All that depends on the seed and not on the optimizer."""

    task: Any
    params: Params
    model_state: ModelState
    key: Key


class _Run(NamedTuple):
    """One training run in flight."""

    params: Params
    model_state: ModelState
    opt_state: OptState


@partial(jax.jit, static_argnums=(0, 1))
def _start(family: TaskFamily, member: int, seed: Array) -> _Start:
    key_task, key_init, key = jax.random.split(jax.random.key(seed), 3)
    task = family.sample(key_task, jnp.asarray(member, jnp.int32))
    params, model_state = task.init(key_init)
    return _Start(task, params, model_state, key)


class _Luck(NamedTuple):
    """The randomness of one or, with a leading axis, several batches."""

    draw: Any
    key: Key


def _draw(family: TaskFamily, key: Key, count: int) -> _Luck:
    key_draw, key_loss = jax.random.split(key)
    return _Luck(family.draw(key_draw, count), jax.random.split(key_loss, count))


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _stepper(
    family: TaskFamily, task: Any, tx: optax.GradientTransformation
) -> Callable[[_Run, _Luck], _Run]:
    """One training step, the same code for every optimizer."""
    tx = optax.with_extra_args_support(tx)

    def step(run: _Run, luck: _Luck) -> _Run:
        batch = family.batch(task, "train", luck.draw)
        loss, grads, model_state = value_and_grad(task, run.params, run.model_state, luck.key, batch)
        updates, opt_state = tx.update(grads, run.opt_state, run.params, value=loss)
        return _Run(optax.apply_updates(run.params, updates), model_state, opt_state)

    return step


def _train(
    family: TaskFamily,
    tx: optax.GradientTransformation,
    num_steps: int,
    eval_every: int,
    start: _Start,
    answer: Answer | None,
    stop: Array,
) -> dict[str, Any]:
    """{split: (losses [E], metrics [E])} of one run; zeros after the evaluation at step `stop`."""
    step = _stepper(family, start.task, tx)
    points = -(-num_steps // eval_every) + 1
    keys = jax.random.split(start.key, (points, 2))

    def evaluate(run: _Run, luck: _Luck) -> dict[str, Any]:
        params = run.params if answer is None else answer(run.opt_state, run.params)
        task, model = start.task, (params, run.model_state, luck.key)
        loss, (_, metrics) = task.loss(*model, family.batch(task, "train", luck.draw))
        result = {
            "train": (loss, metrics),  # what is being minimised, hence as in training
            "valid": task.evaluate(*model, family.batch(task, "valid", luck.draw)),
        }
        return jax.tree.map(lambda x: x.astype(jnp.float32), result)

    def segment(number: Array, carry: tuple[_Run, dict[str, Any]]) -> tuple[_Run, dict[str, Any]]:
        run, reports = carry
        t = jnp.minimum(number * eval_every, stop)
        luck = _draw(family, keys[number, 0], FINAL_EVAL_BATCHES)
        batches = jnp.where(t == stop, FINAL_EVAL_BATCHES, EVAL_BATCHES)
        sums = jax.lax.fori_loop(
            0, batches, lambda i, sums: jax.tree.map(jnp.add, sums, evaluate(run, _at(luck, i))), zeros
        )
        reports = jax.tree.map(lambda r, x: r.at[number].set(x / batches.astype(x.dtype)), reports, sums)
        luck = _draw(family, keys[number, 1], eval_every)
        count = jnp.minimum(eval_every, stop - t)  # 0 after the last evaluation
        return jax.lax.fori_loop(0, count, lambda i, run: step(run, _at(luck, i)), run), reports

    run = _Run(start.params, start.model_state, tx.init(start.params))
    shapes = jax.eval_shape(evaluate, run, _at(_draw(family, start.key, 1), 0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    reports = jax.tree.map(lambda x: jnp.zeros((points, *x.shape), x.dtype), shapes)
    ends = -(-stop // eval_every) + 1
    return jax.lax.fori_loop(0, ends, segment, (run, reports))[1]
