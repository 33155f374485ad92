"""Variants of meta-training at equal compute, several seeds each: a table and curves.

    python -m benchmarks.ablation estimators --out results/ablation
    python -m benchmarks.ablation recipe --out results/ablation

Phase 1 on Celo's tasks. All runs take the same number of inner steps, however their estimators spend them.
What counts in the end is measured on problems of its own without perturbations, whatever the run lowered
(`celo.meta._measure`): the mean log-loss of the finished rule, late steps weighing more, as recipe `laptop`
has it. Finished runs are kept and not run again.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from celo._files import write_file
from celo._kernels import native
from celo.evaluate._run import executors as pools

PAIRS, TRUNCATION = 4, 50  # of a run whose estimator works by truncations
PLAIN: dict[str, Any] = {
    "tasks": ("celo_image_mlps",),
    "rule_tasks": (),
    "scheduler_steps": 0,
    "refinement_steps": 0,
    "pairs_per_task": PAIRS,
    "truncation_length": TRUNCATION,
    "horizon_min": 100,
    "horizon_max": 2000,
    "horizon_power": 1.0,
    "estimator": "nres",
    "rule_start": "mirrored",
    "rule_schedule": "linear",
    "imitation_steps": 0,
    "finish_steps": 0,
    "weight_decay": 1e-4,
    "objective": "log_loss",
    "lateness": 1.0,
    "gradient_clip": 1.0,
    "rule_learning_rate": 8e-3,
    "learning_rate_end": 1e-5,
    "warmup_steps": 0,
    "average_decay": 0.0,
}
RATES = (2e-3, 8e-3, 3.2e-2)  # every estimator gets all, and is judged by its best
SETS: dict[str, dict[str, dict[str, Any]]] = {
    "estimators": {
        f"{name}, {rate:g}": {"estimator": name, "rule_learning_rate": rate}
        for name in ("pes", "nres", "truncated_es", "full_es", "full_es_final")
        for rate in RATES
    },
    "recipe": {
        "plain": {},
        "normal first weights": {"rule_start": "normal"},
        "weight decay 0.01": {"weight_decay": 1e-2},
        "no clipping": {"gradient_clip": float("inf")},
        "constant rate": {"learning_rate_end": 8e-3},
        "warm-up of 100": {"warmup_steps": 100},
        "average of θ, 0.99": {"average_decay": 0.99},
        "objective loss": {"objective": "loss", "lateness": 0.0},
        "objective log, lateness 0": {"lateness": 0.0},
        "the best on a probe": {"probe": "digits_8x8_mlp32"},
    },
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    settings: dict[str, Any]
    seed: int
    kernel: str
    steps: int  # outer steps, of a run whose estimator works by truncations


def train(run: Run) -> dict[str, Any]:
    """Meta-trains until the budget of inner steps is spent; the curve and the measured end."""
    import jax

    from celo.meta import make_recipe, measure
    from celo.meta._outer_step import PhaseProgram
    from celo.meta._phases import first_theta, phases, task_families

    kinds = 4
    budget = 2.0 * PAIRS * kinds * TRUNCATION * run.steps
    settings = {**PLAIN, **run.settings, "seed": run.seed}
    probe = settings.pop("probe", None)
    steps = run.steps
    if settings["estimator"].startswith("full_es"):  # a whole life an estimate: log-uniform in 100 … 2000
        steps = round(steps * TRUNCATION / ((2000 - 100) / np.log(20)))
    recipe = make_recipe("laptop", rule_steps=steps, **settings)
    phase = phases(recipe)[0]
    program = PhaseProgram(recipe, phase, task_families(recipe, phase), run.kernel)
    key_theta, key = jax.random.split(jax.random.key(run.seed))
    theta = first_theta(recipe, key_theta)
    state, frozen = program.init(theta, key)
    spent, curve, kept, every = 0.0, [], [], max(1, steps // 50)
    for done in range(0, steps, every):
        count = min(every, steps - done)
        state, progress = program.advance(state, frozen, count)
        spent += float(progress.inner_steps) * count
        curve.append((spent / budget, float(np.mean(progress.task_losses))))
        if probe is not None and done >= steps // 2 and done % (steps // 10) == 0:
            theta = {**jax.device_get(frozen), **jax.device_get(state.average)}
            held_out = make_recipe("laptop", rule_steps=steps, **{**PLAIN, "rule_tasks": probe})
            kept.append((measure(theta, held_out, kernel=run.kernel).meta_loss, theta))
    theta = {**jax.device_get(frozen), **jax.device_get(state.average)}
    if kept:
        theta = min(kept, key=lambda pair: pair[0])[1]
    judge = make_recipe("laptop", rule_steps=steps, **PLAIN)
    found = measure(theta, judge, kernel=run.kernel)
    return {"seed": run.seed, "curve": curve, "end": found.meta_loss, "tasks": found.task_losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="outer steps of 1,600 inner steps")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/ablation"))
    options = parser.parse_args()
    kernel = "native" if native.available() else "xla"
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.set}.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    runs = [
        Run(variant, settings, seed, kernel, options.steps)
        for seed in range(options.seeds)
        for variant, settings in SETS[options.set].items()
        if str(seed) not in found.get(variant, {})
    ]
    with pools.local(options.workers) as pool, Progress() as bar:
        shown = bar.add_task(options.set, total=len(runs))
        for run, result in zip(runs, pool.executor.map(train, runs), strict=True):
            found.setdefault(run.variant, {})[str(run.seed)] = result
            write_file(path, (json.dumps(found) + "\n").encode())
            bar.update(shown, advance=1)
    Console().print(_table(options.set, found, options.steps))
    _draw(_best_rates(found) if options.set == "estimators" else found, options.out / f"{options.set}.png")


def _ends(runs: dict[str, Any]) -> np.ndarray:
    return np.array([run["end"] for run in runs.values()])


def _table(title: str, found: dict[str, dict[str, Any]], steps: int) -> Table:
    table = Table("variant", "meta-loss at the end", "(each seed)", title=title)
    for variant, runs in sorted(found.items(), key=lambda item: _ends(item[1]).mean()):
        ends = _ends(runs)
        table.add_row(variant, f"{ends.mean():.3f}", " ".join(f"{end:.3f}" for end in ends))
    table.caption = f"{steps} outer steps of {2 * PAIRS * 4 * TRUNCATION:,} inner steps, or as much"
    return table


def _best_rates(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each estimator the variant at its best rate."""
    best: dict[str, str] = {}
    for variant in sorted(found, key=lambda name: _ends(found[name]).mean(), reverse=True):
        best[SETS["estimators"][variant]["estimator"]] = variant
    return {variant: found[variant] for variant in best.values()}


def _draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained", dpi=150)
    axes = figure.subplots()
    ordered = sorted(found.items(), key=lambda item: _ends(item[1]).mean())
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(ordered)))
    for (variant, runs), colour in zip(ordered, colours, strict=True):
        curves = np.array([run["curve"] for run in runs.values()])
        share, losses = curves[..., 0].mean(0), curves[..., 1]
        axes.fill_between(share, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0)
        label = f"{variant}: {_ends(runs).mean():.3f}"
        axes.plot(share, losses.mean(0), color=colour, linewidth=1.6, label=label)
    axes.set_xlabel("share of the inner steps spent")
    axes.set_ylabel("mean training loss of the perturbed problems")
    axes.set_yscale("log")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        title="meta-loss at the end,\nwithout perturbations",
        title_fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    figure.savefig(path)


if __name__ == "__main__":
    main()
