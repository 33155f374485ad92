"""What options of a training loop cost in final loss: horizons, plateaus, micro-batches, bad steps and more.

    python -m benchmarks.loop_options

Each row trains on registered tasks, with the same seeds as the first row, and reports the training loss
(mean of the last 5 evaluations, seeds averaged geometrically) as a multiple of the first row's.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import celo
from benchmarks.step import transformer
from celo._kernels import native
from celo.evaluate import train_curve
from celo.tasks import make_task

TASKS = ("digits_mlp128x128", "mnist_8x8_mlp32", "cifar10_8x8_mlp32", "flower_fourier")
STEPS = 1000
COOLING = 200
MICRO = 4  # micro-batches a step
Transform = optax.GradientTransformationExtraArgs


class CountedState(NamedTuple):
    inner_state: Any
    steps: jax.Array


def edited(tx: Transform, step: int, edit: Callable[[Any], Any]) -> Transform:
    """`tx` whose state is edited before a step, as a loop would."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        inner = jax.lax.cond(state.steps == step, edit, lambda inner: inner, state.inner_state)
        updates, inner = tx.update(updates, inner, params, **extra_args)
        return updates, CountedState(inner, state.steps + 1)

    return Transform(lambda params: CountedState(tx.init(params), jnp.zeros((), jnp.int32)), update)


def spoiled(tx: Transform, every: int = 50) -> Transform:
    """`tx` fed with NaN, gradients and loss, in every so many steps."""

    def update(updates: Any, state: Any, params: Any = None, *, value: Any = None, **extra_args: Any) -> Any:
        bad = jnp.where(state.steps % every == every - 1, jnp.nan, 0.0)
        updates = jax.tree.map(lambda g: g + bad.astype(g.dtype), updates)
        updates, inner = tx.update(updates, state.inner_state, params, value=value + bad, **extra_args)
        return updates, CountedState(inner, state.steps + 1)

    return Transform(lambda params: CountedState(tx.init(params), jnp.zeros((), jnp.int32)), update)


def multi_steps(tx: Transform) -> Transform:
    """optax's way, which hands the loss on only where it is outermost."""
    multi = optax.MultiSteps(tx, MICRO)
    return Transform(multi.init, multi.update)  # type: ignore[arg-type]


def rows(make: Callable[..., Transform]) -> dict[str, Transform]:
    """Name -> optimizer; `make` is `celo.celo` with its kernel."""

    def changed(believed: int) -> Transform:
        return edited(make(believed), STEPS // 2, lambda state: celo.with_horizon(state, STEPS))

    def cooled(plateau: float) -> Transform:
        tx = make(STEPS, plateau=plateau)
        return edited(tx, STEPS - COOLING, lambda state: celo.cool_down(state, COOLING))

    return {
        "horizon 1,000, known": make(STEPS),
        "500, never changed": make(500),
        "500, changed to 1,000 at step 500": changed(500),
        "2,000, never changed": make(2000),
        "2,000, changed to 1,000 at step 500": changed(2000),
        **{f"plateau {p}, never cooled": make(STEPS, plateau=p) for p in (0.1, 0.3, 0.5)},
        **{f"plateau {p}, cooled from step 800": cooled(p) for p in (0.1, 0.3, 0.5)},
        "state_dtype bfloat16": make(STEPS, state_dtype="bfloat16"),
        **{f"min_rms {floor}": make(STEPS, min_rms=floor) for floor in (0.0, 0.1)},
        "accumulate of 4": celo.accumulate(make(STEPS // MICRO), MICRO),
        "optax.MultiSteps of 4": multi_steps(make(STEPS // MICRO)),
        **{
            f"every 50th step NaN, {policy}": spoiled(make(STEPS, nonfinite=policy))
            for policy in ("repair", "hold", "skip", "shrink")
        },
    }


def final_loss(task: str, tx: Transform, seeds: int) -> float:
    curve = train_curve(make_task(task), 0, tx, num_steps=STEPS, seeds=range(seeds))
    return float(np.exp(np.mean(np.log(curve.train_loss[:, -5:].mean(axis=1)))))


def low_rank(make: Callable[..., Transform], min_rms: float) -> tuple[int, float]:
    """Fitting a matrix by A B, B zero at first, as LoRA does: (steps to half the loss, share of it left)."""
    keys = jax.random.split(jax.random.key(0), 4)
    left, right, x = (
        jax.random.normal(k, s) for k, s in zip(keys, [(64, 4), (4, 64), (256, 64)], strict=False)
    )
    y = x @ (left @ right) / 32
    params = {"a": jax.random.normal(keys[3], (64, 4)) / 8, "b": jnp.zeros((4, 64))}
    tx = make(STEPS, min_rms=min_rms)

    def loss_fn(params: Any) -> jax.Array:
        return jnp.mean((x @ params["a"] @ params["b"] - y) ** 2)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    losses = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=STEPS)[1])(params)
    return int(jnp.argmax(losses < losses[0] / 2)), float(losses[-1] / losses[0])


def calls(make: Callable[..., Transform], repeats: int = 9) -> dict[str, float]:
    """Milliseconds of a call (update and apply) on a transformer of a million parameters."""
    params = {name: jnp.full(shape, 0.1) for name, shape in transformer(128, 4, 2048).items()}
    grads = jax.tree.map(lambda p: 0.01 * p, params)
    contestants = {
        "every call a step": make(STEPS),
        "accumulate of 4": celo.accumulate(make(STEPS), MICRO),
        "optax.MultiSteps of 4": multi_steps(make(STEPS)),
    }
    runs: dict[str, Any] = {}
    for name, tx in contestants.items():

        def step(params: Any, state: Any, tx: Any = tx) -> Any:
            updates, state = tx.update(grads, state, params, value=jnp.ones(()))
            return optax.apply_updates(params, updates), state

        run = jax.jit(step, donate_argnums=(0, 1))
        runs[name] = (run, jax.block_until_ready(run(jax.tree.map(jnp.copy, params), tx.init(params))))
    fastest = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, (run, carry) in runs.items():
            begin = time.perf_counter()
            for _ in range(MICRO):
                carry = run(*carry)
            carry = jax.block_until_ready(carry)
            fastest[name] = min(fastest[name], (time.perf_counter() - begin) / MICRO * 1e3)
            runs[name] = (run, carry)
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kernel", choices=native.KERNELS, default="native")
    options = parser.parse_args()

    def make(num_steps: int, **settings: Any) -> Transform:
        return celo.celo(num_steps, kernel=options.kernel, **settings)

    table = Table(
        "optimizer", *options.tasks, title=f"final training loss, {STEPS} steps, {options.seeds} seeds"
    )
    first: dict[str, float] = {}
    for name, tx in rows(make).items():
        losses = {task: final_loss(task, tx, options.seeds) for task in options.tasks}
        first = first or losses
        table.add_row(
            name, *(f"{losses[task]:.3g} (× {losses[task] / first[task]:.2f})" for task in options.tasks)
        )
        Console(width=120).log(name, losses)
    Console(width=120).print(table)
    for name, milliseconds in calls(make).items():
        Console(width=120).print(f"a call, a million parameters, {name}: {milliseconds:.2f} ms")
    for floor in (0.0, 0.01, 0.03, 0.1):
        steps, left = low_rank(make, floor)
        Console(width=120).print(
            f"low rank, min_rms {floor}: half the loss after {steps} steps; left {left:.2g}"
        )


if __name__ == "__main__":
    main()
