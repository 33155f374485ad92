"""What a meta-training run did, for people: a table of the tasks and a plot of the meta-loss."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from celo import weights
from celo._provenance import commit
from celo.meta._run import METRICS, read_metrics

PLOT, CARD = "meta_loss.png", "theta.json"
_LABEL_SIZE, _LABEL_SPACING = 6.5, 0.031  # points; share of the axis
_TASK_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # colour-blind safe


def show(run: Path, theta: Path, console: Console) -> None:
    """Prints each task's loss at the beginning and end of each phase, and draws the curves."""
    rows = read_metrics(run / METRICS)
    for phase in dict.fromkeys(row["phase"] for row in rows):
        console.print(_phase_table([row for row in rows if row["phase"] == phase], phase))
    console.print(f"card:    {write_card(run, theta)}")
    console.print(f"weights: {theta}  (sha256 {weights.load(theta).sha256[:16]}…)")
    try:
        console.print(f"curve:   {draw(rows, run / PLOT)}")
    except ImportError:
        console.print("curve:   not drawn; pip install 'celo[plots]'")


def _phase_table(rows: list[dict[str, Any]], phase: str) -> Table:
    window = max(1, len(rows) // 10)
    table = Table("training loss on", "first tenth", "last tenth", "change", title=f"phase {phase}")
    changes: dict[str, float] = {}
    for name in rows[0]["tasks"]:
        series = [row["tasks"][name] for row in rows]
        before, after = float(np.mean(series[:window])), float(np.mean(series[-window:]))
        changes[name] = after / before - 1
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{changes[name]:+.1%}")
    lowered = [row["meta_loss"] for row in rows]
    before, after = float(np.mean(lowered[:window])), float(np.mean(lowered[-window:]))
    table.add_section()
    table.add_row("meta-loss, what is lowered", f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    bad = float(np.mean([row["nonfinite_fraction"] for row in rows]))
    table.caption = f"non-finite inner steps: {bad:.2%}\n{_advice(changes, before, after, bad)}"
    return table


def _advice(changes: dict[str, float], before: float, after: float, bad: float) -> str:
    """What a phase did, in a sentence, and what to try where it did not do well."""
    best, worst = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
    if bad > 0.01:
        return "many inner steps diverged: halve the learning rate, or lower --gradient-clip"
    if not after < before:
        return "no improvement: try half the learning rate, more outer steps, or more pairs per task"
    text = f"improved most on {best} ({changes[best]:+.0%})"
    if changes[worst] > 0.02:
        text += f"; {worst} got worse ({changes[worst]:+.0%}): more outer steps, or other tasks beside it"
    return text


def draw(rows: list[dict[str, Any]], path: Path) -> Path:
    """Training losses by outer step, one panel a phase, faint rows and a running mean for each task; a PNG.

    Raises:
      ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["phase"] for row in rows))
    figure = Figure(figsize=(max(10, 4.5 * len(names)), 4.8), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    panel_ends = []
    for axes, phase in zip(panels, names, strict=True):
        mine = [row for row in rows if row["phase"] == phase]
        steps = np.array([row["outer_step"] for row in mine])
        lines = {name: [row["tasks"][name] for row in mine] for name in mine[0]["tasks"]}
        lines = {**lines, "mean": np.mean(list(lines.values()), axis=0).tolist()}
        ends: dict[str, tuple[float, str]] = {}
        for (name, losses), colour in zip(lines.items(), _colours(len(lines)), strict=True):
            window = max(1, len(losses) // 50)
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            axes.plot(steps, losses, color=colour, alpha=0.12, linewidth=0.6)
            axes.plot(steps[window - 1 :], smooth, color=colour, linewidth=2.2 if name == "mean" else 1.3)
            ends[name] = (smooth[-1], colour)
        panel_ends.append((axes, steps[-1], ends))
        axes.set_title(f"phase: {phase}", loc="left", size=10)
        axes.set_xlabel("outer step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_ylabel("training loss, mean over the unroll")
    panels[0].set_yscale("log")
    for axes, last, ends in panel_ends:
        _label_ends(axes, last, ends)
    figure.savefig(path)
    return path


def _label_ends(axes: Any, last: float, ends: dict[str, tuple[float, str]]) -> None:
    """Each line's name beside its end, moved down where it would cover the one above."""
    low, high = np.log(axes.get_ylim())
    height = np.inf
    for name, (value, colour) in sorted(ends.items(), key=lambda item: -item[1][0]):
        height = min(float(np.log(value)), height - _LABEL_SPACING * (high - low))
        place = (last, float(np.exp(height)))
        axes.annotate(
            name, place, (4, 0), textcoords="offset points", color=colour, va="center", size=_LABEL_SIZE
        )


def _colours(count: int) -> list[str]:
    """Of the tasks, round and round, and black for their mean."""
    return [_TASK_COLOURS[i % len(_TASK_COLOURS)] for i in range(count - 1)] + ["black"]


def write_card(run: Path, theta: Path) -> Path:
    """Writes the model card of a finished run beside its weights: what they are, and what they cost."""
    rows, found = read_metrics(run / METRICS), weights.load(theta)
    last = rows[-max(1, len(rows) // 50) :]
    facts = {
        "architecture": found.metadata["architecture"],
        "sha256": found.sha256,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "version": found.metadata["version"],
        "commit": commit(),
        "tasks": found.metadata["tasks"].split(","),
        "largest_model": int(found.metadata["largest_model"]),
        "recipe": json.loads(found.metadata["recipe"]),
        "devices": jax.device_count(),
        "seconds": rows[-1]["seconds"],
        "final_meta_loss": float(np.mean([row["meta_loss"] for row in last])),
        "known_limits": (
            "Meta-trained on small models and their training loss: large models, horizons outside the "
            "recipe's, and validation loss are extrapolation."
        ),
        "licence": "Apache-2.0",
    }
    weights.write_file(run / CARD, (json.dumps(facts, indent=2) + "\n").encode())
    return run / CARD
