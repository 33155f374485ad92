"""Figures of a leaderboard, fit for a paper, each as PNG and SVG."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from celo._plotting import LIGHT, Label, place_labels, require_matplotlib
from celo.evaluate._score import metrics
from celo.evaluate._score.entry import LOSSES
from celo.evaluate._score.leaderboard import TAUS, Leaderboard, Standing

_LOOK = LIGHT  # paper is white
_WIDTH = 11.0  # inches
_TITLES = {
    "ratio": "loss ratio",
    "ratio_clock": "loss ratio in time",
    "speedup": "speedup",
    "clock": "speedup in time",
}


def draw_all(board: Leaderboard) -> dict[str, bytes]:
    """File name -> contents.

    Raises:
      CeloError: if Matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib import rc_context

    files = {}
    style: dict[Any, Any] = _LOOK.style() | {
        "font.size": 9,
        "svg.hashsalt": "celo",
    }  # the same figure, the same file
    with rc_context(style):
        for name, draw in FIGURES.items():
            figure = draw(board)
            for kind, settings in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, **settings)
                files[f"{name}.{kind}"] = buffer.getvalue()
    return files


def _standings(board: Leaderboard) -> Any:
    """IQMs with their intervals, the best on top."""
    figure, panels = _figure(len(_TITLES), 1.1 + 0.3 * len(board.standings), sharey=True)
    heights = -np.arange(len(board.standings))
    for axes, (kind, title) in zip(panels, _TITLES.items(), strict=True):
        axes.axvline(1, color=_LOOK.soft, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        for height, (one, colour) in zip(heights, _coloured(board), strict=True):
            value, low, high = one.scores[f"{kind}_iqm"]
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [height, height], color=colour, linewidth=6, alpha=0.35, zorder=1)
            axes.plot([value], [height], "o", color=colour, markersize=6, zorder=2)
        axes.set_title(f"{title}, IQM", loc="left", fontsize=9, color=_LOOK.soft)
        axes.set_yticks(heights, [one.contestant for one in board.standings])
        axes.tick_params(axis="y", length=0, labelcolor=_LOOK.ink)
        axes.grid(axis="x", color=_LOOK.grid, linewidth=0.5, alpha=0.45)
        axes.spines["left"].set_visible(False)
    return figure


def _profiles(board: Leaderboard) -> Any:
    """Share of runs at or above each score; share of tasks within each multiple of the shortest time."""
    titles = {
        "ratio": ("runs with a ratio of at least …", "final-loss ratio"),
        "speedup": ("runs with a speedup of at least …", "speedup in steps"),
        "target": ("tasks solved within … of the shortest time", "multiple of the shortest time"),
    }
    figure, panels = _figure(3, 3.6, sharey=True)
    for axes, (kind, (title, xlabel)) in zip(panels, titles.items(), strict=True):
        labels = []
        for one, colour in reversed(_coloured(board)):
            value, low, high = one.profiles[kind]
            front = colour != _LOOK.grid
            if front:
                axes.fill_between(TAUS[kind], low, high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(TAUS[kind], value, color=colour, linewidth=1.8 if front else 0.9, zorder=1 + front)
            labels.append(Label(float(value[-1]), one.contestant, colour if front else _LOOK.soft))
        axes.set_xlim(TAUS[kind][0], TAUS[kind][-1])
        axes.set_ylim(0, 1.02)
        axes.set_title(title, loc="left", fontsize=9, color=_LOOK.soft)
        axes.set_xlabel(xlabel)
        axes.grid(axis="y", color=_LOOK.grid, linewidth=0.5, alpha=0.45)
        place_labels(axes, labels, size=7)
    return figure


def _curves(board: Leaderboard) -> Any:
    """Smoothed losses, mean and range over seeds, a panel a task; × where a seed diverged."""

    def draw(axes: Any, one: Standing, task: str, colour: str) -> None:
        entry, front = one.entries[task], colour != _LOOK.grid
        steps, losses = entry.record.steps, entry.smoothed
        axes.plot(steps, losses.mean(axis=0), color=colour, linewidth=1.6 if front else 0.8, zorder=1 + front)
        if front:
            axes.fill_between(
                steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.15, linewidth=0
            )
        for seed in losses[entry.record.diverged]:
            last = int(np.argmin(np.isfinite(seed))) - 1  # the last point it was seen at
            axes.plot(steps[: last + 1], seed[: last + 1], color=colour, linewidth=0.5, zorder=1 + front)
            if last >= 0:
                axes.plot([steps[last]], [seed[last]], "x", color=colour, markersize=5, zorder=3)

    return _by_task(board, draw, loss=board.loss, xlabel="step (× a seed that diverged)")


def _rates(board: Leaderboard) -> Any:
    """Training loss against learning rate: all early on, the best at the end (dots); level if untuned."""

    def draw(axes: Any, one: Standing, task: str, colour: str) -> None:
        record, front = one.entries[task].record, colour != _LOOK.grid
        width = 1.4 if front else 0.8
        if record.rate is None:
            final = metrics.smooth(record.train_loss, board.smoothing)[:, -1].mean()
            axes.axhline(final, color=colour, linewidth=width)
        if len(record.rates) == 0:
            return
        axes.set_xscale("log")
        losses = np.where(np.isfinite(record.rung_losses), record.rung_losses, np.nan)
        axes.plot(record.rates, losses[0], color=colour, linewidth=width, alpha=0.6, zorder=1 + front)
        axes.plot(record.rates, losses[-1], "o", color=colour, markersize=4 if front else 2, zorder=2 + front)
        lost = record.rates[np.isinf(record.rung_losses[0])]
        if front and lost.size:
            top = axes.get_xaxis_transform()
            axes.plot(lost, np.ones(lost.size), "x", color=colour, markersize=4, clip_on=False, transform=top)

    return _by_task(
        board,
        draw,
        loss="train",
        xlabel="learning rate (lines: every rate, early on; dots: the best few, at the end; level: untuned; "
        "× a rate that diverged)",
    )


def _tasks(board: Leaderboard) -> Any:
    """Mean speedup of every contestant on every task, in numbers and colour."""
    from matplotlib.colors import LinearSegmentedColormap

    names = [one.contestant for one in board.standings]
    figure, [axes] = _figure(1, 2.4 + 0.25 * len(names))
    means = np.array(
        [
            [one.entries[task].speedup.mean() if task in one.entries else np.nan for task in board.tasks]
            for one in board.standings
        ]
    )
    # Twice as fast is as far from level as half as fast.
    shades = np.clip(np.log2(np.maximum(means, 1e-3)), -2, 2)
    middle = LinearSegmentedColormap.from_list("level", [_LOOK.others[0], _LOOK.paper, _LOOK.celo])
    axes.imshow(shades, cmap=middle, vmin=-4, vmax=4, aspect="auto")
    for (row, column), value in np.ndenumerate(means):
        text = "" if np.isnan(value) else "never" if value == 0 else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5)
    axes.set_xticks(range(len(board.tasks)), board.tasks, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelcolor=_LOOK.ink)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"speedup in steps over {board.reference}, mean of seeds (blue: slower)",
        loc="left",
        fontsize=9,
        color=_LOOK.soft,
    )
    return figure


def _clock(board: Leaderboard) -> Any:
    """What a step costs against what it gains; above the line the gain is worth its price."""
    figure, [axes] = _figure(1, 4.2, width=6.5)
    points = [(one, colour, one.scores["speedup_iqm"].value) for one, colour in _coloured(board)]
    points = [point for point in points if np.isfinite([point[0].cost, point[2]]).all()]
    edge = 1.1 * max([one.cost for one, _, _ in points], default=1.0)
    axes.plot([0, edge], [0, edge], color=_LOOK.soft, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"as long as {board.reference}",
        (edge, edge),
        (0, 4),
        textcoords="offset points",
        color=_LOOK.soft,
        fontsize=8,
        ha="right",
    )
    for one, colour, gain in points:
        axes.plot([one.cost], [gain], "o", color=_readable(colour), markersize=7, clip_on=False)
    late = [one.contestant for one, _, gain in points if gain == 0]
    if late:
        who = ", ".join(late) if len(late) < 4 else f"{len(late)} contestants"
        axes.annotate(
            f"too seldom as low as {board.reference}: {who}",
            (0.01, 0.04),
            xycoords="axes fraction",
            color=_LOOK.soft,
            fontsize=8,
        )
    axes.set_xlim(min([one.cost for one, _, _ in points], default=0.0) * 0.9, edge)
    axes.set_ylim(0, None)
    axes.set_xlabel(f"time of a step, in steps of {board.reference} (median task)")
    axes.set_ylabel("speedup in steps, IQM")
    axes.grid(color=_LOOK.grid, linewidth=0.5, alpha=0.45)
    _name_points(axes, [(one.contestant, one.cost, gain, colour) for one, colour, gain in points if gain > 0])
    return figure


def _name_points(axes: Any, points: list[tuple[str, float, float, str]]) -> None:
    """Names (name, x, y, colour) beside their points where there is room; those in colour in any case."""
    axes.figure.draw_without_rendering()
    taken = [text.get_window_extent() for text in axes.texts]
    dots = [axes.transData.transform((x, y)) for _, x, y, _ in points]
    for name, x, y, colour in sorted(points, key=lambda point: point[3] == _LOOK.grid):
        for right, up in ((7, 3), (-7, 3), (7, -10), (-7, -10)):
            text = axes.annotate(
                name,
                (x, y),
                (right, up),
                textcoords="offset points",
                color=_readable(colour),
                fontsize=8,
                ha="left" if right > 0 else "right",
            )
            box = text.get_window_extent()
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            if not outside and not box.count_overlaps(taken) and not any(box.contains(*dot) for dot in dots):
                taken.append(box)
                break
            text.remove()
        else:
            if colour != _LOOK.grid:
                axes.annotate(name, (x, y), (7, 3), textcoords="offset points", color=colour, fontsize=8)


def _readable(colour: str) -> str:
    """A colour for points and type: the grey of lines is too light."""
    return colour if colour != _LOOK.grid else _LOOK.soft


FIGURES: dict[str, Callable[[Leaderboard], Any]] = {
    "leaderboard": _standings,
    "profiles": _profiles,
    "curves": _curves,
    "rates": _rates,
    "tasks": _tasks,
    "clock": _clock,
}


def _figure(columns: int, height: float, *, width: float = _WIDTH, sharey: bool = False) -> tuple[Any, Any]:
    """A figure and its row of panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=sharey, squeeze=False)[0]


def _coloured(board: Leaderboard) -> list[tuple[Standing, str]]:
    """Everyone with a colour; grey for who stands in the background."""
    slot = board.slots
    return [(one, _LOOK.line(slot[one.contestant])) for one in board.standings]


def _by_task(
    board: Leaderboard, draw: Callable[[Any, Standing, str, str], None], *, loss: str, xlabel: str
) -> Any:
    """Small panels, one a task, on logarithmic losses of the kind `loss`; one legend for all."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    columns = min(4, len(board.tasks))
    rows = -(-len(board.tasks) // columns)
    figure = Figure(figsize=(_WIDTH, 0.6 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    coloured = _coloured(board)
    for axes, task in zip(panels, board.tasks, strict=False):
        for one, colour in coloured:
            if task in one.entries:
                draw(axes, one, task, colour)
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(task, loc="left", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(board.tasks) :]:
        axes.set_axis_off()
    figure.supxlabel(xlabel, fontsize=8, color=_LOOK.soft)
    figure.supylabel(f"{LOSSES[loss]} loss", fontsize=8, color=_LOOK.soft)
    shown = [(one.contestant, colour) for one, colour in coloured if colour != _LOOK.grid]
    shown += [("others", _LOOK.grid)] if len(shown) < len(coloured) else []
    handles = [Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in shown]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(shown), frameon=False, fontsize=8)
    return figure
