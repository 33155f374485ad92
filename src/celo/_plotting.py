"""How figures and pages look: colours, type, labels at the ends of lines."""

import enum
import importlib.util
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from celo._errors import CeloError


class Slot(enum.StrEnum):
    """What the colour of a contestant stands for; the values also name the colours of a page."""

    REFERENCE = "reference"  # ink
    LEARNED = "learned"  # Celo's own colour: the best learned optimizer
    OTHER_1 = "other1"
    OTHER_2 = "other2"
    OTHER_3 = "other3"
    OTHER_4 = "other4"
    OTHER_5 = "other5"
    BACKGROUND = "background"  # grey: one of the many


OTHERS = (Slot.OTHER_1, Slot.OTHER_2, Slot.OTHER_3, Slot.OTHER_4, Slot.OTHER_5)


class Look(NamedTuple):
    """Colours of one figure; lines from the Okabe-Ito set, which the colour-blind can tell apart."""

    paper: str
    ink: str
    soft: str
    grid: str
    celo: str
    others: tuple[str, str, str, str, str]

    def line(self, slot: Slot) -> str:
        """Colour of a line."""
        named = {Slot.REFERENCE: self.ink, Slot.LEARNED: self.celo, Slot.BACKGROUND: self.grid}
        return {**named, **dict(zip(OTHERS, self.others, strict=True))}[slot]

    def cycle(self, count: int) -> list[str]:
        """Colours of `count` lines of equal rank, from the start again when they run out."""
        colours = (self.others[0], self.celo, *self.others[1:])
        return [colours[i % len(colours)] for i in range(count)]

    def style(self) -> dict[Any, Any]:
        """Settings for Matplotlib's `rc_context`."""
        return {
            "font.family": "DejaVu Sans",  # comes with Matplotlib: the same figure everywhere
            "font.size": 10.5,
            "text.color": self.ink,
            "axes.labelcolor": self.soft,
            "axes.edgecolor": self.grid,
            "axes.facecolor": self.paper,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": self.paper,
            "xtick.color": self.grid,
            "ytick.color": self.grid,
            "xtick.labelcolor": self.soft,
            "ytick.labelcolor": self.soft,
        }


LIGHT = Look(
    paper="#ffffff",
    ink="#1f2328",
    soft="#626a74",
    grid="#c3c8cf",
    celo="#d55e00",
    others=("#0072b2", "#009e73", "#cc79a7", "#b8860b", "#56b4e9"),
)
DARK = Look(
    paper="#15171c",
    ink="#e4e6ea",
    soft="#9aa1ab",
    grid="#4a505a",
    celo="#ff8c42",
    others=("#4fa8e8", "#2fc79a", "#e39bc4", "#e6b93c", "#9ad4f5"),
)


def slots(names: Sequence[str], *, reference: str, learned: Collection[str] = ()) -> dict[str, Slot]:
    """Which colour stands for which contestant.

    The reference is in ink, the first learned one in Celo's colour. The others take the colours that are
    left, the learned ones first, then in the order of `names`; the rest stays in the background.
    """
    first = next((name for name in names if name in learned and name != reference), None)
    rest = [name for name in names if name not in (reference, first)]
    rest.sort(key=lambda name: name not in learned)
    free = iter(OTHERS)
    taken: dict[str | None, Slot] = {reference: Slot.REFERENCE, first: Slot.LEARNED}
    taken |= {name: next(free, Slot.BACKGROUND) for name in rest}
    return {name: taken[name] for name in names}


class Label(NamedTuple):
    """A text to stand right of a line's end, at `height` on the axes' own scale."""

    height: float
    text: str
    colour: str
    bold: bool = False


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 1e-3, 2.5e-4."""
    digits, exponent = f"{rate:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def require_matplotlib() -> None:
    """Raise CeloError if figures cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CeloError("figures need Matplotlib, which is not installed; pip install 'celo[plots]'")


def place_labels(axes: Any, labels: list[Label], size: float = 9) -> None:
    """Labels right of the axes, at their line's height but never on top of each other.

    Args:
      axes: settled in scale and limits.
      labels: those of heights that are not finite are left out.
      size: of the type, points; bold labels are a little larger.
    """
    axes.figure.draw_without_rendering()  # settles the layout, so that heights in points are known
    points = axes.get_window_extent().height * 72 / axes.figure.dpi
    spacing = 1.5 * size / points
    labels = [label for label in labels if np.isfinite(label.height)]
    scale = axes.transScale + axes.transLimits
    low = axes.get_ylim()[0]
    heights = np.array([scale.transform((axes.get_xlim()[1], max(label.height, low)))[1] for label in labels])
    order = np.argsort(heights)
    placed = np.clip(heights[order], 0, 1)
    for _ in range(200):  # neighbours that overlap push each other apart
        gaps = np.diff(placed)
        push = np.maximum(spacing - gaps, 0) / 2
        if not push.size or push.max() < 1e-4:
            break
        placed[:-1] -= push
        placed[1:] += push
        placed = np.maximum(placed, 0)
    for height, index in zip(placed, order, strict=True):
        label = labels[index]
        axes.annotate(
            label.text,
            (1, height),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            color=label.colour,
            fontweight="bold" if label.bold else "normal",
            fontsize=size + 2 if label.bold else size,
            va="center",
        )
