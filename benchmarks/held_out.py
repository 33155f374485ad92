"""Weights beside tuned Adam on tasks they were not meta-trained on: final-loss ratios and their IQM.

    python -m benchmarks.held_out --tasks TASK … --weights celo path/to/theta.safetensors …

Adam's best rate is chosen for each task on seeds of its own; everybody is then scored on the same other
seeds, as in Celo's paper: evaluation every 10 steps, curves smoothed by an average of 0.9, score = final loss
of tuned Adam / final loss, 0 for a run that diverged. What has been run is kept in the output folder and not
run again, so that the comparison can be made in parts.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import optax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from celo import weights
from celo.evaluate.aggregate import iqm
from celo.evaluate.curve import Curve, curve_at, train_curve, train_curves_over_rates
from celo.evaluate.metrics import final_loss_ratio, smooth, speedup
from celo.optimizers import celo
from celo.tasks import TASKS, make_task

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
TUNING_SEEDS = 1000  # the first of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True, choices=TASKS, metavar="TASK")
    parser.add_argument("--weights", nargs="+", default=["celo"], help="bundled names or files")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kernel", default="native")
    parser.add_argument("--out", type=Path, default=Path("results/held_out"))
    options = parser.parse_args()
    table = Table("task", "Adam, tuned", "rate", *options.weights, title=f"{options.steps} steps")
    ratios: dict[str, list[float]] = {name: [] for name in options.weights}
    speedups: dict[str, list[float]] = {name: [] for name in options.weights}
    for task in track(options.tasks):
        adam = _kept(options, task, "adam", lambda task=task: _tuned_adam(options, task))
        reference = smooth(adam["train_loss"])[:, -1]
        cells = []
        for name in options.weights:
            sha = weights.load(name).sha256
            found = _kept(options, task, sha[:16], lambda task=task, name=name: _celo(options, task, name))
            final = smooth(found["train_loss"])
            ratio = np.atleast_1d(final_loss_ratio(final[:, -1], reference))
            ratios[name] += ratio.tolist()
            speedups[name] += np.atleast_1d(speedup(found["steps"], final, reference)).tolist()
            cells.append(f"{final[:, -1].mean():.4g} ({iqm(ratio):.3f})")
        table.add_row(task, f"{reference.mean():.4g}", f"{adam['rate']:g}", *cells)
    table.add_section()
    table.add_row("IQM of loss ratios", "1", "", *(f"{iqm(r):.3f}" for r in ratios.values()))
    table.add_row("IQM of speedups", "1", "", *(f"{iqm(s):.2f}" for s in speedups.values()))
    table.caption = f"final training loss, mean of {options.seeds} seeds, and its ratio to tuned Adam's"
    Console(width=140).print(table)


def _tuned_adam(options: argparse.Namespace, task: str) -> dict[str, Any]:
    family = make_task(task)
    tuning = range(TUNING_SEEDS, TUNING_SEEDS + options.seeds)
    curves = train_curves_over_rates(family, 0, optax.adam, RATES, num_steps=options.steps, seeds=tuning)
    final = smooth(curves.train_loss)[..., -1].mean(axis=-1)
    rate = RATES[int(np.argmin(np.where(np.isfinite(final), final, np.inf)))]
    curve = train_curves_over_rates(
        family, 0, optax.adam, (rate,), num_steps=options.steps, seeds=range(options.seeds)
    )
    return {"rate": rate, **_facts(curve_at(curve, 0))}


def _celo(options: argparse.Namespace, task: str, name: str) -> dict[str, Any]:
    tx = celo(options.steps, weights=name, kernel=options.kernel)
    curve = train_curve(make_task(task), 0, tx, num_steps=options.steps, seeds=range(options.seeds))
    return {"weights": Path(name).name, **_facts(curve)}


def _facts(curve: Curve) -> dict[str, Any]:
    return {
        "steps": curve.steps.tolist(),
        "train_loss": np.asarray(curve.train_loss, np.float64).tolist(),
        "valid_loss": np.asarray(curve.valid_loss, np.float64).tolist(),
    }


def _kept(options: argparse.Namespace, task: str, contestant: str, run: Any) -> dict[str, Any]:
    """The result of `run()`, from the output folder if it is there."""
    setting = json.dumps([options.steps, options.seeds, RATES if contestant == "adam" else None])
    digest = hashlib.sha256(setting.encode()).hexdigest()[:8]
    path = options.out / f"{task}-{contestant}-{digest}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.write_file(path, json.dumps(run()).encode())
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
