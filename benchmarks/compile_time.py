"""Seconds until one jitted step of an optimizer is compiled, by the number of tensors.

    python -m benchmarks.compile_time               # 100 and 1,000 tensors of ten shapes, no two names alike
    python -m benchmarks.compile_time --tensors 10000 --optimizers adam celo,native

Each program is traced, lowered and compiled in a process of its own, with nothing cached. The step is that
of a training loop: parameters and state go in and come out, and are donated, or, with --keep, are not.
"""

import argparse
import multiprocessing
import time

import jax
import jax.numpy as jnp
import optax

import celo

SHAPES = [(32, 64), (64,), (64, 128), (128,), (128, 10), (10,), (3, 3, 8, 16), (16,), (48, 48), (20, 30, 2)]
OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "celo,native": lambda: celo.celo(1_000, kernel="native"),
    "celo,xla": lambda: celo.celo(1_000, kernel="xla"),
    "celo-1,native": lambda: celo.celo(1_000, weights="celo-1", kernel="native"),
    "celo-1,xla": lambda: celo.celo(1_000, weights="celo-1", kernel="xla"),
}


def make_params(tensors: int) -> dict[str, jax.Array]:
    """So many tensors of ten shapes, under names of letters alone."""
    letters = str.maketrans("0123456789", "abcdefghij")
    return {str(n).translate(letters): jnp.full(SHAPES[n % len(SHAPES)], 0.1) for n in range(tensors)}


def compile_step(name: str, tensors: int, keep: bool) -> dict[str, float]:
    """Seconds of each stage, and of CPU time in all."""
    params, tx = make_params(tensors), optax.with_extra_args_support(OPTIMIZERS[name]())
    state = jax.eval_shape(tx.init, params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=() if keep else (0, 1))
    started, cpu = time.perf_counter(), time.process_time()
    traced = jitted.trace(params, state, params)
    between = [time.perf_counter()]
    lowered = traced.lower()
    between.append(time.perf_counter())
    lowered.compile()
    ended = time.perf_counter()
    return {
        "trace": between[0] - started,
        "lower": between[1] - between[0],
        "compile": ended - between[1],
        "all": ended - started,
        "CPU": time.process_time() - cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tensors", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--keep", action="store_true", help="donate nothing")
    options = parser.parse_args()
    stages = ("trace", "lower", "compile", "all", "CPU")
    print(f"{'tensors':>7}  {'optimizer':<14}" + "".join(f"{stage:>9}" for stage in stages))
    context = multiprocessing.get_context("spawn")
    for tensors in options.tensors:
        for name in options.optimizers:
            with context.Pool(1) as pool:
                seconds = pool.apply(compile_step, (name, tensors, options.keep))
            row = "".join(f"{seconds[stage]:9.1f}" for stage in stages)
            print(f"{tensors:>7,}  {name:<14}{row}", flush=True)


if __name__ == "__main__":
    main()
