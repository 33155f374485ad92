"""Variance of meta-gradients per unit of compute: every estimator on the real task family.

    python -m benchmarks.estimator_variance --out results/estimators

Nothing is trained: θ stays where it is, and estimators run in their steady state. Those that work by
truncations first run for the longest horizon, so that no problem is left whose beginning they have not
seen; then each particle is watched for as long again. Particles are independent, so the spread between
them is the variance of an estimate of any number of them. Full ES is repeated at the recipe's number of
particles, which share a horizon.

Columns, all at the recipe's number of particles:

  one        variance of one estimate × its inner steps, over that of PES
  long run   the same for the average over a longest horizon, ± standard error. Estimates that share noise
             are correlated, so averaging gains less than their number; this is what an outer optimizer
             that averages over many steps meets
  norm       of the expected gradient (the estimate's own variance taken off the square); "lost" where that
             is below twice its variance, more particles would be needed
  noise      root of the total variance of one estimate, over that norm
  agreement  expected cosine of two independent averages that cost one longest horizon each
  direction  cosine of the expected gradient with that of NRES, which is unbiased; being estimated, it may
             exceed 1

Gradients have heavy tails: a few particles make most of the variance, and ratios from a few dozen of them
hold to an order of magnitude, whatever the standard error says.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from rich.console import Console
from rich.table import Table

from celo import weights
from celo._kernels import native
from celo._types import Array, Key, Theta
from celo.cli._settings import one_device_per_core
from celo.meta import ESTIMATORS, PES, RECIPES, GradientEstimator, Recipe, Unroll, make_recipe
from celo.meta._outer_step import PARTICLES
from celo.meta._phases import Phase, phases, task_families
from celo.optimizers import Celo
from celo.tasks import TaskFamily

REFERENCE, UNBIASED = "pes", "nres"
CONTESTANTS = {**ESTIMATORS, "gpes_4": partial(PES, noise_truncations=4)}
OTHER_RUN = Path(__file__).parents[1] / "results" / "laptop-lr2e-3" / "theta.safetensors"
COLUMNS = ("estimator", "one", "long run", "norm", "noise", "agreement", "direction")


class Moments(NamedTuple):
    """What is known of one estimator at one θ; variances are times inner steps, for one particle's share."""

    mean: np.ndarray  # [weights]
    mean_variance: float  # total variance of `mean` itself
    one: float  # variance of an estimate × its inner steps
    long_run: float  # variance of a long average × its inner steps
    error: float  # standard error of `long_run`
    steps: float  # inner steps of one estimate at the recipe's number of particles

    @property
    def square(self) -> float:
        """The squared norm of the expected gradient, without what noise adds to that of `mean`."""
        return float(self.mean @ self.mean) - self.mean_variance

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be said of the expected gradient but that noise hides it."""
        return self.square < 2.0 * self.mean_variance

    def agreement(self, budget: float) -> float:
        """E a·b / E a·a for independent averages a and b that cost `budget` inner steps each."""
        return 0.0 if self.is_lost else self.square / (self.square + self.long_run / budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="celo", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--phases", nargs="+", default=["rule"], choices=["rule", "scheduler"])
    parser.add_argument("--theta", nargs="*", default=None, help="weights: bundled names or files")
    parser.add_argument("--particles", type=int, default=64, help="pairs watched, a multiple of the kinds")
    parser.add_argument("--repeats", type=int, default=16, help="estimates of full ES")
    parser.add_argument("--kernel", default="native", choices=native.KERNELS)
    parser.add_argument("--out", type=Path, default=None, help="folder for the table and the plot")
    options = parser.parse_args()
    one_device_per_core()
    recipe = make_recipe(options.recipe)
    (family,) = task_families(recipe, phases(recipe)[0])  # one family: a recipe on Celo's tasks
    budget = _budget(recipe, family)
    console, results = Console(), {}
    for phase in phases(recipe):
        if phase.name in options.phases:
            watch = _Watch(recipe, phase, family, options)
            for point, theta in _points(phase, options.theta).items():
                results[f"{phase.name}, {point}"] = found = watch.all(theta)
                console.print(_table(f"phase {phase.name}, θ: {point}", _rows(found, budget)))
                if options.out is not None:
                    options.out.mkdir(parents=True, exist_ok=True)
                    (options.out / "README.md").write_text(_markdown(results, budget))
                    _draw(results, budget, options.out / "variance.png")


def _points(phase: Phase, names: list[str] | None) -> dict[str, Theta]:
    """θ by name: where the phase begins, and given weights. Phase 2 begins with the bundled rule."""
    if names is None:
        names = ["celo", *([str(OTHER_RUN)] if OTHER_RUN.exists() else [])]
    start = Celo().init_theta(jax.random.key(0))
    if phase.name == "scheduler":
        start["update_rule"] = weights.load("celo").theta["update_rule"]
    given = {n if n in weights.bundled() else Path(n).parent.name or n: weights.load(n).theta for n in names}
    return jax.tree.map(jnp.asarray, {"beginning": start, **given})


class _Watch:
    """The compiled programs of all estimators for one phase; θ is an argument."""

    def __init__(self, recipe: Recipe, phase: Phase, family: TaskFamily, options: argparse.Namespace):
        self.recipe, self.phase, self.family = recipe, phase, family
        self.particles, self.repeats = options.particles, options.repeats
        self.kinds = len(family.members)
        self.size = recipe.pairs_per_task * self.kinds
        self.window = recipe.horizon_max // recipe.truncation_length  # truncations
        self.optimizer = phase.optimizer(kernel=options.kernel)
        self.programs = {name: self._program(name) for name in CONTESTANTS}

    def all(self, theta: Theta) -> dict[str, Moments]:
        trained = {group: theta[group] for group in self.phase.trains}
        frozen = {group: theta[group] for group in theta if group not in trained}
        found = {}
        for number, (name, program) in enumerate(self.programs.items()):  # own keys: nothing is shared
            seen = jax.device_get(program(trained, frozen, jax.random.key(number)))
            found[name] = self._lives(*seen) if name.startswith("full_es") else self._truncations(*seen)
            print(f"  {name}: done", file=sys.stderr, flush=True)
        return found

    def _program(self, name: str) -> Any:
        body, count = (
            (self._repeat, self.size) if name.startswith("full_es") else (self._watch, self.particles)
        )
        whole, split = PartitionSpec(), PartitionSpec(PARTICLES)
        run = jax.shard_map(
            partial(body, name),
            mesh=Mesh(jax.devices(), (PARTICLES,)),
            in_specs=(whole, whole, whole, split),
            out_specs=whole if name.startswith("full_es") else split,
            check_vma=False,
        )
        return jax.jit(lambda theta, frozen, key: run(theta, frozen, key, jnp.arange(count, dtype=jnp.int32)))

    def _estimator(self, name: str, frozen: Theta) -> GradientEstimator:
        recipe = self.recipe
        problem = Unroll(
            family=self.family,
            optimizer=self.optimizer,
            truncation_length=recipe.truncation_length,
            horizon_min=recipe.horizon_min,
            horizon_max=recipe.horizon_max,
            horizon_power=recipe.horizon_power,
            frozen=frozen,
        )
        return CONTESTANTS[name](problem, recipe.truncation_length, recipe.std)

    def _watch(self, name: str, theta: Theta, frozen: Theta, key: Key, index: Array) -> tuple[Array, Array]:
        """(sum of gradients [particles, weights], sum of their squared norms [particles]) in the window."""
        estimator = self._estimator(name, frozen)
        key_init, key_run = jax.random.split(key)
        state = jax.vmap(estimator.init, in_axes=(None, None, 0))(theta, key_init, index[:, None])

        def one(number: Array, carry: tuple) -> tuple:
            state, total, squares = carry
            estimate, state = jax.vmap(estimator.estimate, in_axes=(None, 0, None))(
                theta, state, jax.random.fold_in(key_run, number)
            )
            gradient = jax.vmap(lambda tree: ravel_pytree(tree)[0])(estimate.gradient)
            gradient = jnp.where(number < self.window, 0.0, gradient)  # not yet in the steady state
            return state, total + gradient, squares + jnp.sum(jnp.square(gradient), axis=1)

        nothing = jnp.zeros((len(index), ravel_pytree(theta)[0].size)), jnp.zeros(len(index))
        return jax.lax.fori_loop(0, 2 * self.window, one, (state, *nothing))[1:]

    def _repeat(self, name: str, theta: Theta, frozen: Theta, key: Key, index: Array) -> tuple[Array, Array]:
        """(gradients [repeats, weights], inner steps [repeats])."""
        estimator = self._estimator(name, frozen)

        def one(number: Array) -> tuple[Array, Array]:
            state = estimator.init(theta, key, index)
            estimate, _ = estimator.estimate(theta, state, jax.random.fold_in(key, number))
            gradient = jax.lax.pmean(ravel_pytree(estimate.gradient)[0], PARTICLES)
            return gradient, jax.lax.psum(estimate.inner_steps, PARTICLES)

        return jax.lax.map(one, jnp.arange(self.repeats))

    def _truncations(self, total: np.ndarray, squares: np.ndarray) -> Moments:
        """Particles of one kind of task have one mean; an estimate has equally many of each kind."""
        steps = 2 * self.recipe.truncation_length  # of one particle
        averages = total.astype(np.float64).reshape(-1, self.kinds, total.shape[1]) / self.window
        means = averages.mean(axis=0)
        spread = _squared_distances(averages, means)  # [particles of a kind, kinds], unbiased
        kind_squares = np.sum(means**2, axis=1) - spread.mean(axis=0) / len(averages)
        return Moments(
            mean=np.asarray(means.mean(axis=0)),
            mean_variance=spread.mean() / self.particles,
            one=(float(squares.mean(dtype=np.float64)) / self.window - float(kind_squares.mean())) * steps,
            long_run=spread.mean() * steps * self.window,
            error=spread.std() / np.sqrt(spread.size) * steps * self.window,
            steps=steps * self.size,
        )

    def _lives(self, gradients: np.ndarray, steps: np.ndarray) -> Moments:
        gradients, cost = gradients.astype(np.float64), float(steps.mean())
        spread = _squared_distances(gradients, gradients.mean(axis=0))
        return Moments(
            mean=gradients.mean(axis=0),
            mean_variance=spread.mean() / self.repeats,
            one=spread.mean() * cost,
            long_run=spread.mean() * cost,
            error=spread.std() / np.sqrt(self.repeats) * cost,
            steps=cost,
        )


def _squared_distances(samples: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """From the samples' own mean, enlarged so that their average is the variance without bias."""
    return np.sum((samples - mean) ** 2, axis=-1) * len(samples) / (len(samples) - 1)


def _rows(found: dict[str, Moments], budget: float) -> list[tuple[str, ...]]:
    base, unbiased = found[REFERENCE], found[UNBIASED]
    rows = []
    for name, mine in found.items():
        ratio, error = _ratio(mine, base)
        norm, noise, agreement, direction = "lost", "", "", ""
        if not mine.is_lost:
            norm = f"{np.sqrt(mine.square):.3g}"
            noise = f"{np.sqrt(mine.one / mine.steps / mine.square):.2g}"
            agreement = f"{mine.agreement(budget):.2f}"
            if not unbiased.is_lost:
                cosine = mine.mean @ unbiased.mean / np.sqrt(mine.square * unbiased.square)
                direction = "1" if mine is unbiased else f"{cosine:.2f}"
        long_run = "1" if mine is base else f"{ratio:.2g} ± {error:.1g}"
        rows.append((name, f"{mine.one / base.one:.2g}", long_run, norm, noise, agreement, direction))
    return rows


def _ratio(mine: Moments, base: Moments) -> tuple[float, float]:
    """Variance × inner steps in the long run over that of `base`, and its standard error."""
    ratio = mine.long_run / base.long_run
    return ratio, ratio * float(np.hypot(mine.error / mine.long_run, base.error / base.long_run))


def _budget(recipe: Recipe, family: TaskFamily) -> float:
    """Inner steps of the recipe's particles over a longest horizon."""
    return 2.0 * recipe.pairs_per_task * len(family.members) * recipe.horizon_max


def _table(title: str, rows: list[tuple[str, ...]]) -> Table:
    table = Table(*COLUMNS, title=title)
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(results: dict[str, dict[str, Moments]], budget: float) -> str:
    """All tables, below the command that made them and what the columns are."""
    command = " ".join(["python -m benchmarks.estimator_variance", *sys.argv[1:]])
    columns = (__doc__ or "").partition("Columns, ")[2].strip()
    lines = [
        "# Variance of the meta-gradient, by estimator",
        "",
        f"    {command}",
        "",
        "![](variance.png)",
        "",
    ]
    lines += ["```", columns[0].upper() + columns[1:], "```", ""]
    lines += [f"Agreement is at {budget:,.0f} inner steps for each average.", ""]
    for title, found in results.items():
        lines += [f"## Phase {title}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(found, budget)]
        lines += [""]
    return "\n".join(lines)


def _draw(results: dict[str, dict[str, Moments]], budget: float, path: Path) -> None:
    """Above: variance × inner steps; below: agreement at one budget. One column for each point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 2.9 * len(results), 6.0), layout="constrained", dpi=150)
    panels = figure.subplots(2, len(results), sharey=True, sharex="row", squeeze=False)
    for column, (title, found) in enumerate(results.items()):
        heights, base = np.arange(len(found))[::-1], found[REFERENCE]
        ratios, errors = zip(*(_ratio(mine, base) for mine in found.values()), strict=True)
        above, below = panels[:, column]
        above.axvline(1.0, color="#c3c8cf", zorder=0)
        above.plot(
            [mine.one / base.one for mine in found.values()], heights, "o", color="#0072b2", fillstyle="none"
        )
        above.errorbar(
            ratios, heights, xerr=np.minimum(errors, 0.9 * np.array(ratios)), fmt="o", color="#d55e00"
        )
        above.set_xscale("log")
        above.set_title(title, size=10, loc="left")
        below.barh(heights, [mine.agreement(budget) for mine in found.values()], 0.6, color="#d55e00")
        for height, mine in zip(heights, found.values(), strict=True):
            below.annotate("lost in noise" if mine.is_lost else "", (0.02, height), va="center", size=8)
        below.set_xlim(0, 1)
        for axes in (above, below):
            axes.set_yticks(heights, list(found))
            axes.grid(axis="x", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        f"above: variance × inner steps, over that of {REFERENCE} (● long run ± error, ○ one estimate)\n"
        f"below: expected cosine of two independent averages of {budget:,.0f} inner steps",
        size=9,
    )
    figure.savefig(path)


if __name__ == "__main__":
    main()
