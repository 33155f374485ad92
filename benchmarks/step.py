"""One optimizer step (update and apply) beside optax.adam: time, temporaries, compile time, in one run.

    python -m benchmarks.step

Parameters are shaped like real models; state and parameters are donated, gradients are not. The contestants
take turns, so that ratios hold when the machine's speed drifts; on a machine that others use, too, `--cpu`
counts the processor's seconds instead of the clock's. Temporaries are XLA's own account of what a step needs
beyond its arguments and results.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

import celo
from celo._kernels import native
from celo.optimizers import RNNMLP, AdafacMLP, Celo2, LearnedOptimizer, NNAdam, Velo

Shapes = dict[str, tuple[int, ...]]


def perceptron() -> Shapes:
    """The meta-training task: 2,410 parameters."""
    return {"w0": (64, 32), "b0": (32,), "w1": (32, 10), "b1": (10,)}


def transformer(width: int, layers: int, vocabulary: int) -> Shapes:
    """A decoder with tied embeddings, as a tree of separate tensors."""
    shapes: Shapes = {"embedding": (vocabulary, width)}
    for i in range(layers):
        block = {
            "qkv": (width, 3 * width),
            "out": (width, width),
            "up": (width, 4 * width),
            "down": (4 * width, width),
            "scale0": (width,),
            "scale1": (width,),
        }
        shapes |= {f"block{i}/{name}": shape for name, shape in block.items()}
    return shapes


def convnet(width: int) -> Shapes:
    """3x3 kernels in the order height, width, in, out."""
    widths = (3, width, 2 * width, 4 * width, 4 * width)
    pairs = list(itertools.pairwise(widths))
    return {f"conv{i}": (3, 3, a, b) for i, (a, b) in enumerate(pairs)} | {"head": (4 * width, 100)}


MODELS: dict[str, Callable[[], Shapes]] = {
    "perceptron 2.4 k": perceptron,
    "transformer 1 M": lambda: transformer(128, 4, 2048),
    "convnet 1 M": lambda: convnet(64),
    "transformer of 97 tensors": lambda: transformer(128, 16, 2048),
    "transformer 10 M": lambda: transformer(256, 10, 8192),
    "transformer 100 M": lambda: transformer(768, 10, 32768),
}
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
    "adam": lambda: optax.with_extra_args_support(optax.adam(1e-3)),
    "adamw": lambda: optax.with_extra_args_support(optax.adamw(1e-3)),
    "muon": lambda: optax.with_extra_args_support(optax.contrib.muon(1e-3)),
    "celo, xla": lambda: celo.celo(1000, kernel="xla", orthogonalize=False),
    "celo, native": lambda: celo.celo(1000, kernel="native", orthogonalize=False),
    "celo orthogonalised, xla": lambda: celo.celo(1000, orthogonalize=True, kernel="xla"),
    "celo orthogonalised, native": lambda: celo.celo(1000, orthogonalize=True, kernel="native"),
    "celo2-base, xla": lambda: _celo2(celo.celo2_base, "xla"),
    "celo2-base, native": lambda: _celo2(celo.celo2_base, "native"),
    "celo2, xla": lambda: _celo2(celo.celo2, "xla"),
    "celo2, native": lambda: _celo2(celo.celo2, "native"),
    "velo-s, xla": lambda: _velo(Velo("xla")),
    "velo-s, native": lambda: _velo(Velo("native")),
    "velo, xla": lambda: _velo(Velo("xla", units=512, banks=256)),
    "adafac-mlp, xla": lambda: celo.adafac_mlp(weights=_fresh(AdafacMLP())),
    "mulo, xla": lambda: celo.adafac_mlp(weights=_fresh(AdafacMLP(hidden=32))),
    "nn-adam, xla": lambda: celo.nn_adam(weights=_fresh(NNAdam())),
    "rnn-mlp, xla": lambda: celo.rnn_mlp(weights=_fresh(RNNMLP())),
}


def _fresh(optimizer: LearnedOptimizer) -> Any:
    """Fresh weights: a step costs what it costs."""
    return jax.jit(optimizer.init_theta)(jax.random.key(0))


def _celo2(make: Callable[..., Any], kernel: str) -> optax.GradientTransformationExtraArgs:
    return make(1e-3, weights=_fresh(Celo2("xla")), kernel=kernel)


def _velo(optimizer: Velo) -> optax.GradientTransformationExtraArgs:
    return celo.velo(1000, weights=_fresh(optimizer), kernel=optimizer.kernel)


class Contestant:
    """One optimizer on one model, compiled; a call takes one step, waits for it, and says what it took."""

    def __init__(self, tx: optax.GradientTransformationExtraArgs, shapes: Shapes, clock: Callable[[], float]):
        def step(params: Any, state: Any, grads: Any, loss: jax.Array) -> tuple[Any, Any]:
            updates, state = tx.update(grads, state, params, value=loss)
            return optax.apply_updates(params, updates), state

        keys = jax.random.split(jax.random.key(0), len(shapes))
        self.params = {
            n: 0.1 * jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)
        }
        self.grads = jax.tree.map(lambda p: 0.01 * p, self.params)
        self.state, self.loss = tx.init(self.params), jnp.float32(1.0)
        began = time.perf_counter()
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, self.grads, self.loss)
        self.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        self.count, self.clock = sum(math.prod(s) for s in shapes.values()), clock
        memory = self.compiled.memory_analysis()
        self.temporaries = memory.temp_size_in_bytes / self.count if memory else math.nan
        self.state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state)) / self.count

    def __call__(self) -> float:
        began = self.clock()
        self.params, self.state = self.compiled(self.params, self.state, self.grads, self.loss)
        jax.block_until_ready((self.params, self.state))
        return self.clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument(
        "--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS, metavar="NAME"
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds, of all cores")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    for model in options.models:
        contestants = {
            name: Contestant(make(), MODELS[model](), clock)
            for name, make in OPTIMIZERS.items()
            if name in (*options.optimizers, "adam") and (not name.endswith("native") or native.available())
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.repeats):
            for name, contestant in contestants.items():
                seconds[name].append(contestant())
        count = next(iter(contestants.values())).count
        table = Table(
            *("optimizer", "ms (min … max)", "of Adam's", "state B/param", "temporary B/param", "compile"),
            title=f"{model}: {count:,} parameters",
        )
        for name, contestant in contestants.items():
            mine = seconds[name][2:]
            ratios = [a / b for a, b in zip(mine, seconds["adam"][2:], strict=True)]
            table.add_row(
                name,
                f"{1e3 * statistics.median(mine):.3g} ({1e3 * min(mine):.3g} … {1e3 * max(mine):.3g})",
                f"{statistics.median(ratios):.2f}",
                f"{contestant.state_bytes:.1f}",
                f"{contestant.temporaries:.1f}",
                f"{contestant.compile_seconds:.1f} s",
            )
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
