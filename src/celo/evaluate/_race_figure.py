"""The figure of a race: loss against steps and, on the same loss axis, final loss against learning rate."""

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from celo._plotting import DARK, LIGHT, Label, Look, place_labels, rate_text, require_matplotlib
from celo.evaluate._run.training import curve_at
from celo.evaluate._score import metrics

if TYPE_CHECKING:  # race draws what it found
    from celo.evaluate._race import Contestant, RaceResult


def draw(result: "RaceResult", title: str, note: str, *, dark: bool = False) -> bytes:
    """The figure as a PNG of 1920 x 1080 pixels.

    Raises:
      CeloError: if Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    look = DARK if dark else LIGHT
    with rc_context(look.style()):
        figure = Figure(figsize=(12, 6.75))
        _compose(figure, result, look)
        figure.text(0.06, 0.945, textwrap.fill(title, 98), fontsize=14, fontweight="bold", va="top")
        figure.text(0.06, 0.03, textwrap.fill(note, 165), fontsize=8.5, color=look.soft, va="bottom")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _compose(figure: Any, result: "RaceResult", look: Look) -> None:
    """Both panels; `soft` lines in the left one are the learning rates that were not chosen."""
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.75, 1))
    figure.subplots_adjust(left=0.06, right=0.97, top=0.82, bottom=0.21, wspace=0.4)
    labels, others = [], iter(look.others * len(result.contestants))
    for contestant in result.contestants:
        colour = look.celo if contestant.rates == (None,) else next(others)
        labels += _draw_curves(left, result, contestant, colour, look)
        _draw_finals(right, contestant, colour, look)
    losses = np.concatenate(
        [metrics.trailing_mean(row.curve.train_loss).ravel() for row in result.rows]
        + [metrics.trailing_mean(c.curves.train_loss)[..., -1].ravel() for c in result.contestants]
    )
    start = max(float(np.nanmax(row.curve.train_loss[:, 0])) for row in result.rows)
    shown = losses[np.isfinite(losses) & (losses > 0)]
    left.set_yscale("log")
    left.set_ylim(float(shown.min()) / 1.5 if shown.size else 0.1, start * 2.2)
    left.set_xlim(0, result.config.steps)
    right.set_xscale("log")
    right.tick_params(labelleft=False)
    for axes, title, xlabel in (
        (left, "training loss, mean and range over seeds", "step"),
        (right, "where each learning rate ends", "learning rate"),
    ):
        axes.set_title(title, loc="left", fontsize=10.5, color=look.soft, pad=10)
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", color=look.grid, linewidth=0.5, alpha=0.45)
        axes.minorticks_off()
    place_labels(left, labels)


def _draw_curves(
    axes: Any, result: "RaceResult", contestant: "Contestant", colour: str, look: Look
) -> list[Label]:
    """Loss against steps: the rows of the table in colour, Adam's other rates in grey."""
    rows = [row for row in result.rows if row.optimizer == contestant.optimizer]
    labels = []
    if contestant.optimizer == "adam":
        for i, rate in enumerate(contestant.rates):
            if rate not in [row.learning_rate for row in rows]:
                curve = curve_at(contestant.curves, i)
                mean = metrics.trailing_mean(curve.train_loss).mean(axis=0)
                axes.plot(curve.steps, mean, color=look.grid, linewidth=0.9, zorder=1)
                if len(result.contestants) == 2:  # with more there is no room
                    labels.append(Label(mean[-1], rate_text(rate or 0), look.soft, False))
    for row in rows:
        losses = metrics.trailing_mean(row.curve.train_loss)
        mean, learned, tuned = losses.mean(axis=0), "learned" in row.roles, "tuned" in row.roles
        axes.fill_between(
            row.curve.steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.16, linewidth=0
        )
        axes.plot(
            row.curve.steps,
            mean,
            color=colour,
            linewidth=3 if learned else 1.9,
            linestyle="-" if learned or tuned else (0, (4, 1.6)),
            solid_capstyle="round",
            zorder=4 if learned else 3,
        )
        name = "Celo" if learned else f"{row.optimizer} {rate_text(row.learning_rate or 0)}"
        roles = "" if learned else " default" if not tuned else " tuned"
        labels.append(Label(mean[-1], name + roles, colour, learned))
    return labels


def _draw_finals(axes: Any, contestant: "Contestant", colour: str, look: Look) -> None:
    """Final loss against learning rate: a line right across for Celo, a valley for the others."""
    final = metrics.trailing_mean(contestant.curves.train_loss)[..., -1]
    low, mean, high = final.min(axis=1), final.mean(axis=1), final.max(axis=1)
    if contestant.rates == (None,):
        axes.axhspan(low[0], high[0], color=colour, alpha=0.16, linewidth=0)
        axes.axhline(mean[0], color=colour, linewidth=3, zorder=4)
        return
    axes.fill_between(contestant.rates, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(contestant.rates, mean, color=colour, linewidth=1.9, marker="o", markersize=5, zorder=3)
    best = contestant.best
    axes.plot(
        [contestant.rates[best]],
        [mean[best]],
        "o",
        markersize=10,
        markerfacecolor=look.paper,
        markeredgecolor=colour,
        markeredgewidth=2.2,
        zorder=5,
    )
    for rate, loss in zip(contestant.rates, mean, strict=True):
        if not np.isfinite(loss):
            axes.annotate(
                "×\ndiverged",
                (rate, 1),
                xycoords=("data", "axes fraction"),
                color=colour,
                fontsize=8,
                ha="center",
                va="top",
            )
