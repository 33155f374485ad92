"""The picture of an explanation: the schedule, how far each tensor goes, and the rule beside Adam."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from celo._explain.explanation import Explanation
from celo._explain.rule_map import RuleMap
from celo._files import write_file
from celo._plotting import LIGHT, require_matplotlib

_LOOK = LIGHT
_ROWS, _LETTERS = 24, 36  # tensors, and letters of their names, that fit beside the panel


def draw_explanation(explanation: Explanation, path: str | os.PathLike[str]) -> Path:
    """Writes the picture, a PNG of 1920 x 1680 pixels, to `path`, which it returns.

    >>> import celo, itertools, jax.numpy as jnp, tempfile
    >>> def loss(params, batch):
    ...     return jnp.mean((batch @ params["w"]) ** 2)
    >>> seen = celo.explain(loss, {"w": jnp.ones((3, 2))}, itertools.repeat(jnp.eye(3)), num_steps=9)
    >>> celo.draw_explanation(seen, tempfile.mkdtemp() + "/explain.png").name
    'explain.png'

    Raises:
      CeloError: without Matplotlib, or if the file cannot be written.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_LOOK.style()):
        figure = Figure(figsize=(12, 10.5), dpi=160)
        panels = figure.subplots(2, 2, height_ratios=(1, 1.2))
        figure.subplots_adjust(left=0.07, right=0.93, top=0.83, bottom=0.13, hspace=0.42, wspace=0.5)
        _schedule(panels[0, 0], explanation)
        _tensors(panels[0, 1], explanation)
        if rule := explanation.rule:
            _map(panels[1, 0], rule, rule.celo, "Celo's rule", "step, in thousandths of the tensor's RMS")
            _map(panels[1, 1], rule, rule.adam, "Adam, to compare", "step, in learning rates")
        else:
            for panel in panels[1]:
                panel.set_axis_off()
        _words(figure, explanation)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    write_file(path, buffer.getvalue())
    return Path(path)


def _schedule(axes: Any, explanation: Explanation) -> None:
    """Step size against the share of training that is over, a line a horizon."""
    runs = sorted(explanation.step_sizes.items())
    colours = (_LOOK.others[4], _LOOK.others[0], _LOOK.celo)[-len(runs) :]
    for line, ((horizon, step_sizes), colour) in enumerate(zip(runs, colours, strict=True)):
        weight = "bold" if colour == _LOOK.celo else "normal"
        axes.plot(
            np.arange(horizon) / horizon, step_sizes, color=colour, linewidth=1.7 if weight == "bold" else 1.2
        )
        axes.annotate(  # where a schedule has come down
            f"{horizon:,} steps",
            (1, 1),
            (-4, -12 - 15 * line),
            "axes fraction",
            textcoords="offset points",
            color=colour,
            fontweight=weight,
            ha="right",
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(axis="y", color=_LOOK.grid, linewidth=0.5, alpha=0.45)
    _title(axes, "The learned schedule", "step size at three horizons", "share of training that is over")


def _tensors(axes: Any, explanation: Explanation) -> None:
    """How far each tensor goes in each step, a row a tensor."""
    from matplotlib.colors import LogNorm

    steps = explanation.relative_steps.T
    moving = steps[np.isfinite(steps) & (steps > 0)]
    low, high = np.quantile(moving, (0.01, 0.99)) if moving.size else (1e-4, 1e-1)
    image = axes.imshow(
        np.clip(steps, low, high),
        norm=LogNorm(low, max(high, 1.01 * low)),
        cmap="cividis",
        aspect="auto",
        interpolation="nearest",
        extent=(0, steps.shape[1], len(steps) - 0.5, -0.5),
    )
    every = -(-len(steps) // _ROWS)
    names = [name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}" for name in explanation.tensors]
    axes.set_yticks(range(0, len(steps), every), names[::every], fontsize=7)
    axes.tick_params(axis="y", length=0)
    _title(axes, "How far each tensor goes", "RMS of its update over its own RMS", "step")
    _scale(axes, image)


def _map(axes: Any, rule: RuleMap, steps: np.ndarray, title: str, unit: str) -> None:
    """Steps against gradient and momentum."""
    from matplotlib.colors import LinearSegmentedColormap

    most = float(np.abs(steps).max()) or 1.0
    colours = LinearSegmentedColormap.from_list("steps", (_LOOK.others[0], _LOOK.paper, _LOOK.celo))
    image = axes.pcolormesh(rule.gradients, rule.momenta, steps, cmap=colours, vmin=-most, vmax=most)
    axes.contour(rule.gradients, rule.momenta, steps, levels=[0], colors=[_LOOK.ink], linewidths=1.2)
    axes.set_ylabel("momentum, in its RMS")
    _title(axes, title, f"{unit}; line: no step", "gradient, in its RMS")
    _scale(axes, image)


def _title(axes: Any, title: str, unit: str, xlabel: str) -> None:
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=24)
    axes.annotate(
        unit, (0, 1), (0, 8), "axes fraction", textcoords="offset points", fontsize=9, color=_LOOK.soft
    )
    axes.set_xlabel(xlabel)


def _scale(axes: Any, image: Any) -> None:
    beside = axes.inset_axes((1.03, 0, 0.045, 1))
    axes.figure.colorbar(image, cax=beside).outline.set_visible(False)


def _words(figure: Any, explanation: Explanation) -> None:
    """What stands above and below the panels."""
    rule, longest = explanation.rule, max(explanation.step_sizes)
    title = f"What the weights {explanation.weights} do"
    figure.text(0.07, 0.965, title, fontsize=15, fontweight="bold", va="top")
    figure.text(
        0.07,
        0.93,
        f"seen in {longest:,} steps of training; an update is the schedule's step size × the tensor's step",
        color=_LOOK.soft,
        va="top",
    )
    below = "RMS: root mean square over the tensor. "
    if rule is None:
        below += "All tensors are matrices that step along their orthogonalised momentum."
    else:
        below += (
            "Lower row: an element of value 0 and average second moments, "
            f"\nin {rule.tensor}, the largest tensor that the rule steps, halfway through training. Momentum "
            "is that\nbefore the gradient, all three of the rule's at one multiple of their RMS."
        )
    figure.text(
        0.07,
        0.02,
        below,
        fontsize=8.5,
        color=_LOOK.soft,
        va="bottom",
    )
