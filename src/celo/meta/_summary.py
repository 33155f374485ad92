"""What a run logged, summed up: each phase in numbers, the curves as a picture, the model card."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from celo import weights
from celo._files import write_file
from celo._plotting import LIGHT, Label, place_labels
from celo._provenance import commit

METRICS, PLOT, CARD = "metrics.jsonl", "meta_loss.png", "theta.json"  # files in the folder of a run


class PhaseSummary(NamedTuple):
    """The beginning and the end of a phase: means over the first and the last tenth of its rows."""

    name: str
    tasks: dict[str, tuple[float, float]]  # kind of task -> training loss (before, after)
    meta_loss: tuple[float, float]  # (before, after)
    nonfinite: float  # fraction of inner steps whose loss was not finite
    advice: str  # what the phase did, in a sentence, and what to try if it did not do well


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, up to the first line that is damaged: a crash cuts the last one short."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            break
    return rows


def summarize(rows: Sequence[dict[str, Any]]) -> tuple[PhaseSummary, ...]:
    """One summary for each phase in the rows of a log, in their order."""
    names = dict.fromkeys(row["phase"] for row in rows)
    return tuple(_summarize_phase(name, [row for row in rows if row["phase"] == name]) for name in names)


def _summarize_phase(name: str, rows: list[dict[str, Any]]) -> PhaseSummary:
    window = max(1, len(rows) // 10)

    def ends(series: list[float]) -> tuple[float, float]:
        return float(np.mean(series[:window])), float(np.mean(series[-window:]))

    tasks = {task: ends([row["tasks"][task] for row in rows]) for task in rows[0]["tasks"]}
    meta_loss = ends([row["meta_loss"] for row in rows])
    nonfinite = float(np.mean([row["nonfinite_fraction"] for row in rows]))
    return PhaseSummary(name, tasks, meta_loss, nonfinite, _advice(tasks, meta_loss, nonfinite))


def _advice(tasks: dict[str, tuple[float, float]], meta_loss: tuple[float, float], nonfinite: float) -> str:
    changes = {task: after / before - 1 for task, (before, after) in tasks.items()}
    best, worst = min(changes, key=changes.__getitem__), max(changes, key=changes.__getitem__)
    if nonfinite > 0.01:
        return "many inner steps diverged: halve the learning rate, or lower gradient_clip"
    if not meta_loss[1] < meta_loss[0]:
        return "no improvement: try half the learning rate, more outer steps, or more pairs_per_task"
    text = f"improved most on {best} ({changes[best]:+.0%})"
    if changes[worst] > 0.02:
        text += f"; {worst} got worse ({changes[worst]:+.0%}): try more outer steps, or other tasks beside it"
    return text


def draw_metrics(rows: list[dict[str, Any]], path: Path) -> Path:
    """Training losses by outer step as a PNG: one panel a phase, faint rows and a running mean for each task.

    Raises:
      ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["phase"] for row in rows))
    figure = Figure(figsize=(max(10, 4.5 * len(names)), 4.8), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    panel_labels = []
    for axes, phase in zip(panels, names, strict=True):
        mine = [row for row in rows if row["phase"] == phase]
        steps = np.array([row["outer_step"] for row in mine])
        lines = {name: [row["tasks"][name] for row in mine] for name in mine[0]["tasks"]}
        lines = {**lines, "mean": np.mean(list(lines.values()), axis=0).tolist()}
        labels = []
        colours = [*LIGHT.cycle(len(lines) - 1), LIGHT.ink]
        for (name, losses), colour in zip(lines.items(), colours, strict=True):
            window = max(1, len(losses) // 50)
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            axes.plot(steps, losses, color=colour, alpha=0.12, linewidth=0.6)
            axes.plot(steps[window - 1 :], smooth, color=colour, linewidth=2.2 if name == "mean" else 1.3)
            labels.append(Label(float(smooth[-1]), name, colour, bold=name == "mean"))
        panel_labels.append(labels)
        axes.set_xlim(right=steps[-1])
        axes.set_title(f"phase: {phase}", loc="left", size=10)
        axes.set_xlabel("outer step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    panels[0].set_ylabel("training loss, mean over the unroll")
    panels[0].set_yscale("log")
    for axes, labels in zip(panels, panel_labels, strict=True):
        place_labels(axes, labels, size=6.5)
    figure.savefig(path)
    return path


def write_card(run: Path, theta: Path) -> Path:
    """Writes the model card of a finished run beside its weights: what they are, and what they cost."""
    rows, trained = read_metrics(run / METRICS), weights.load(theta)
    last = rows[-max(1, len(rows) // 50) :]
    facts = {
        "architecture": trained.metadata["architecture"],
        "sha256": trained.sha256,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "version": trained.metadata["version"],
        "commit": commit(),
        "tasks": trained.metadata["tasks"].split(","),
        "largest_model": int(trained.metadata["largest_model"]),
        "recipe": json.loads(trained.metadata["recipe"]),
        "devices": jax.device_count(),
        "seconds": rows[-1]["seconds"],
        "final_meta_loss": float(np.mean([row["meta_loss"] for row in last])),
        "known_limits": (
            "Meta-trained on the training loss of small models. Large models, horizons outside the recipe's "
            "and validation loss are extrapolation."
        ),
        "licence": "Apache-2.0",
    }
    write_file(run / CARD, (json.dumps(facts, indent=2) + "\n").encode())
    return run / CARD
