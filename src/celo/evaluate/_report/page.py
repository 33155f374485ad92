"""A leaderboard as one HTML page that needs no other file: numbers as JSON, and scripts that draw them."""

import html
import json
import math
import re
from importlib import resources
from typing import Any

import numpy as np

from celo._plotting import DARK, LIGHT, Look
from celo.evaluate._score import metrics
from celo.evaluate._score.entry import Entry
from celo.evaluate._score.leaderboard import SCORES, TAUS, Leaderboard, Standing

_SCRIPTS = ("marks.js", "figures.js", "report.js")
_INFINITE = 1e308  # JSON knows no infinity


def page(board: Leaderboard, headline: str, caption: str) -> str:
    """The page.

    Args:
      board: what it shows.
      headline: its title, plain text.
      caption: what the numbers are, plain text.
    """
    data = json.dumps(as_json(board), allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # a name cannot end the script, nor begin a comment
    parts = {
        "COLOURS": _colours(),
        "CSS": _asset("report.css"),
        "HEADLINE": html.escape(headline),
        "CAPTION": html.escape(caption),
        "SCRIPT": '"use strict";\n' + "\n".join(_asset(name) for name in _SCRIPTS),
        "DATA": data,
    }
    # In one go: what was put in is not looked at again.
    return re.sub("@@([A-Z]+)@@", lambda found: parts[found[1]], _asset("report.html"))


def as_json(board: Leaderboard) -> dict[str, Any]:
    """All that the page shows, as JSON values: four digits or eight, null for what is not a number."""
    slot = board.slots
    reference = next(one for one in board.standings if one.contestant == board.reference)
    return {
        "reference": board.reference,
        "loss": board.loss,
        "tasks": list(board.tasks),
        "counted": list(board.counted),
        "setAside": dict(board.set_aside),
        "taus": {name: _plain(taus) for name, taus in TAUS.items()},
        "steps": {task: reference.entries[task].record.steps.tolist() for task in board.tasks},
        "standings": [_standing(one, slot[one.contestant], board.smoothing) for one in board.standings],
    }


def _standing(one: Standing, slot: int | None, smoothing: float) -> dict[str, Any]:
    return {
        "name": one.contestant,
        "learned": one.learned,
        "slot": slot,
        "cost": _plain(one.cost),
        "runs": one.runs,
        "diverged": one.diverged,
        "counted": list(one.counted),
        # Rounded once, by who shows it: 1.105 may be 1.10 or 1.11.
        "scores": {name: _plain(found, digits=8) for name, found in one.scores.items()},
        "profiles": {name: _plain(found) for name, found in one.profiles.items()},
        "entries": {task: _entry(entry, smoothing) for task, entry in one.entries.items()},
    }


def _entry(entry: Entry, smoothing: float) -> dict[str, Any]:
    record = entry.record
    return {
        "rate": record.rate,
        "seeds": entry.seeds,
        "cost": _plain(entry.cost),
        "seconds": _plain(record.seconds_per_step),
        "adamSeconds": _plain(record.adam_seconds_per_step),
        **{kind: _plain(getattr(entry, kind), digits=8) for kind in SCORES},
        "train": _plain(metrics.smooth(record.train_loss, smoothing)),
        "valid": _plain(metrics.smooth(record.valid_loss, smoothing)),
        "rates": record.rates.tolist(),
        "rungSteps": record.rung_steps.tolist(),
        "rungLosses": _plain(record.rung_losses),
        "config": dict(record.config),
    }


def _plain(value: Any, digits: int = 4) -> Any:
    """Numbers and nests of them as JSON values."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, digits) for item in value]
    value = float(value)
    if math.isnan(value):
        return None
    return float(f"{value:.{digits}g}") if math.isfinite(value) else math.copysign(_INFINITE, value)


def _colours() -> str:
    """Both looks as CSS: by the reader's preference, or as the toggle says."""
    light, dark = (_variables(look) for look in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {dark} }} }}\n"
        f":root[data-theme=dark] {{ color-scheme: dark; {dark} }}\n"
        ":root[data-theme=light] { color-scheme: light }"
    )


def _variables(look: Look) -> str:
    lines = {str(slot): look.line(slot) for slot in range(1 + len(look.others))}
    lines["-reference"] = look.ink
    # Type is darker than lines, or small letters in the lighter colours could not be read.
    pairs = {f"line{slot}": colour for slot, colour in lines.items()}
    pairs |= {f"type{slot}": f"color-mix(in oklab, {c} 72%, {look.ink})" for slot, c in lines.items()}
    pairs |= {"paper": look.paper, "ink": look.ink, "soft": look.soft, "back": look.grid}
    pairs |= {
        "line": f"color-mix(in srgb, {look.grid} 50%, {look.paper})",
        "well": f"color-mix(in srgb, {look.grid} 28%, {look.paper})",
    }
    return "; ".join(f"--{name}: {value}" for name, value in pairs.items())


def _asset(name: str) -> str:
    return resources.files("celo.evaluate._report").joinpath("page", name).read_text(encoding="utf-8")
