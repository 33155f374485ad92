"""Draws the pictures of docs/gallery: schedules and update maps of bundled weights, and the leaderboard.

python -m benchmarks.gallery
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

import celo
from celo import weights
from celo._plotting import LIGHT
from celo.evaluate import load_records, write_report

NUM_STEPS = 900  # schedules are drawn at 100, 300 and 900
ARCHIVES = ("results/evaluation/laptop.zip", "src/celo/evaluate/records/laptop.zip")
FIGURES = ("leaderboard.svg", "clock.svg")


def draw_schedules(seen, path):
    """The learned step size against the share of training that is over, a panel for each of the weights."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(LIGHT.style()):
        figure = Figure(figsize=(4.5 * len(seen), 3.4), dpi=110, layout="constrained")
        panels = figure.subplots(1, len(seen), squeeze=False)[0]
        for axes, (name, explanation) in zip(panels, seen.items(), strict=True):
            runs = sorted(explanation.step_sizes.items())
            for (horizon, sizes), colour in zip(runs, LIGHT.cycle(len(runs)), strict=True):
                axes.plot(np.arange(horizon) / horizon, sizes, color=colour, label=f"{horizon} steps")
            axes.set(title=name, xlabel="share of training that is over", ylabel="step size", ylim=(0, None))
            axes.legend(frameon=False)
        figure.savefig(path)


def draw_maps(seen, path):
    """The rule's step against gradient and momentum for each of the weights, and Adam's."""
    from matplotlib import rc_context
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("steps", (LIGHT.others[0], LIGHT.paper, LIGHT.celo))
    first = next(iter(seen.values()))
    maps = {name: (one.rule, one.rule.celo) for name, one in seen.items()} | {
        "Adam": (first.rule, first.rule.adam)
    }
    with rc_context(LIGHT.style()):
        figure = Figure(figsize=(3.6 * len(maps), 3.4), dpi=110, layout="constrained")
        panels = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
        for axes, (name, (rule, steps)) in zip(panels, maps.items(), strict=True):
            most = np.abs(steps).max()
            axes.pcolormesh(rule.gradients, rule.momenta, steps, cmap=colours, vmin=-most, vmax=most)
            axes.contour(rule.gradients, rule.momenta, steps, levels=[0], colors=[LIGHT.ink], linewidths=1.2)
            axes.set(title=name, xlabel="gradient, in its RMS")
        panels[0].set_ylabel("momentum, in its RMS")
        figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    seen = {name: celo.explain(weights=name, num_steps=NUM_STEPS) for name in weights.bundled()}
    draw_schedules(seen, folder / "schedules.png")
    draw_maps(seen, folder / "maps.png")
    with tempfile.TemporaryDirectory() as report:
        write_report(load_records(*ARCHIVES), Path(report))
        for name in FIGURES:
            shutil.copy(Path(report) / "figures" / name, folder)


if __name__ == "__main__":
    main()
