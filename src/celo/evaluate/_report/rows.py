"""The numbers that charts show: compact rows, one for each contestant, whose lists Vega unfolds.

A row is {"contestant": name, "x": [...], "value": [...], ...}, as JSON holds it: rounded to four digits, None
for what is not a finite number. The page and the files are drawn from the same rows.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from celo.evaluate._report.tables import score_text
from celo.evaluate._score import metrics
from celo.evaluate._score.leaderboard import Leaderboard, TaskScores

_POINTS = 41  # of a curve: what 400 to 800 pixels can show


def plain(value: Any, digits: int = 4) -> Any:
    """Numbers, arrays and nests of them as JSON values; None for what is not finite."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    value = float(value)
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def curve_steps(board: Leaderboard, task: str) -> list[int]:
    """The steps that `curve_rows` shows a task's losses at."""
    steps = _reference(board)[task].record.steps
    return steps[_thinned(len(steps))].tolist()


def curve_rows(board: Leaderboard, task: str, loss: str) -> list[dict[str, Any]]:
    """Smoothed losses at `curve_steps`, kind "mean"; kind "lost" where seeds diverged.

    The range over seeds lies "below" and "above" the mean by so many thousandths of it, which is short to
    write. A mean ends where one of its seeds does.
    """
    found = []
    for one in board.standings:
        if task not in one.entries:
            continue
        entry = one.entries[task]
        losses = _smoothed(entry, board, loss)
        losses = np.where(np.isfinite(losses) & (losses > 0), losses, np.nan)  # the axis is logarithmic
        kept = losses[:, _thinned(losses.shape[1])]
        mean, several = kept.mean(axis=0), len(kept) > 1
        row = {"contestant": one.contestant, "kind": "mean", "value": plain(mean)}
        row["below"] = plain((1000 * (1 - kept.min(axis=0) / mean)).round()) if several else []
        row["above"] = plain((1000 * (kept.max(axis=0) / mean - 1)).round()) if several else []
        found.append(row)
        ends = [int(np.flatnonzero(np.isfinite(seed)).max(initial=-1)) for seed in losses]
        lost = [(i, end) for i, end in enumerate(ends) if end >= 0 and entry.record.diverged[i]]
        if lost:
            xs = [int(entry.record.steps[end]) for _, end in lost]
            values = [plain(losses[i, end]) for i, end in lost]
            row = {"contestant": one.contestant, "kind": "lost", "x": xs, "value": values}
            found.append(row | {"below": [], "above": []})
    return found


def curve_range(curves: list[dict[str, Any]]) -> tuple[float, float]:
    """The losses that a chart of `curve_rows` shows; what flies off above the loss at the start is cut."""
    means = [row["value"] for row in curves if row["kind"] == "mean"]
    start = max([mean[0] for mean in means if mean[0] is not None], default=math.inf)
    return _log_range([x for mean in means for x in mean], 1.3 * start)


def rate_rows(board: Leaderboard, task: str) -> list[dict[str, Any]]:
    """Training loss by learning rate: "early" for every rate, "final" for the best few, the "chosen" one.

    "lost" are rates that diverged; "level" is the final loss of a contestant that was not tuned. "early"
    is at `tried_rates`, the others have an "x" of their own.
    """
    found = []
    everything = tried_rates(board, task)
    for one in board.standings:
        if task not in one.entries:
            continue
        record = one.entries[task].record

        def add(kind: str, rates: Any, losses: Any, name: str = one.contestant) -> None:
            finite = np.isfinite(losses) & (losses > 0)  # the axis is logarithmic
            if finite.any():
                found.append(
                    {
                        "contestant": name,
                        "kind": kind,
                        "x": plain(rates[finite]),
                        "value": plain(losses[finite]),
                    }
                )

        if not len(record.rates):
            final = metrics.smooth(record.train_loss, board.smoothing)[:, -1].mean(keepdims=True)
            add("level", np.ones(1), final)
            continue
        early, final = record.rung_losses[0], record.rung_losses[-1]
        if record.rates.tolist() == everything and (early > 0).all():
            found.append({"contestant": one.contestant, "kind": "early", "value": plain(early, 3)})
        else:
            add("early", record.rates, early)
        add("final", record.rates, final)
        add("chosen", record.rates, np.where(record.rates == record.rate, final, np.nan))
        add("lost", record.rates, np.where(np.isinf(early), 1.0, np.nan))
    return found


def tried_rates(board: Leaderboard, task: str) -> list[float]:
    """All learning rates that some contestant was tuned over, rising."""
    entries = [one.entries[task] for one in board.standings if task in one.entries]
    return sorted({rate for entry in entries for rate in entry.record.rates.tolist()})


def rate_range(
    board: Leaderboard, task: str, found: list[dict[str, Any]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The rates and the losses that a chart of `rate_rows` shows, up to twice the loss at the start."""
    start = float(_reference(board)[task].smoothed[:, 0].mean())
    rates = tried_rates(board, task) or [1e-4, 1.0]
    losses = [x for row in found for x in row["value"] if row["kind"] != "lost"]
    return (plain(rates[0] / 1.6), plain(rates[-1] * 1.6)), _log_range(losses, 2 * start)


def profile_rows(board: Leaderboard, kind: str) -> list[dict[str, Any]]:
    """Performance profiles over `TAUS[kind]`, with 95% intervals."""
    return [
        {"contestant": one.contestant}
        | {name: plain(getattr(one.profiles[kind], name), 3) for name in ("value", "low", "high")}
        for one in board.standings
    ]


def score_rows(board: Leaderboard, kind: str) -> list[dict[str, Any]]:
    """Interquartile means of a score, with 95% intervals."""
    rows = []
    for one in board.standings:
        score = one.scores[f"{kind}_iqm"]
        text = f"{score.value:.2f}" if math.isfinite(score.value) else "–"
        row = {"contestant": one.contestant, "value": plain(score.value), "text": text}
        rows.append(row | {"low": plain(score.low), "high": plain(score.high)})
    return rows


def score_range(scores: list[dict[str, Any]]) -> tuple[float, float]:
    """What a chart of `score_rows` shows; what lies beyond stands at the edge."""
    ends = [row[name] for row in scores for name in ("value", "low", "high") if row[name] is not None]
    low, high = min([0.9, *ends]), min(5.0, max([1.1, *ends]))
    return round(low - 0.06 * (high - low), 3), round(high + 0.06 * (high - low), 3)


def task_rows(board: Leaderboard, kind: str) -> list[dict[str, Any]]:
    """A score on each task, mean of the seeds, as a number and in words."""
    rows = []
    for one in board.standings:
        mine = {task: getattr(entry, kind) for task, entry in one.entries.items()}
        texts = [score_text(kind, values) for values in mine.values()]
        values = [plain(values.mean()) for values in mine.values()]
        rows.append({"contestant": one.contestant, "task": list(mine), "value": values, "text": texts})
    return rows


def cost_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """What a step costs, and the speedup in steps with its 95% interval."""
    rows = []
    for one in board.standings:
        gain = one.scores["speedup_iqm"]
        if math.isfinite(one.cost) and math.isfinite(gain.value):
            row = {"contestant": one.contestant, "x": plain(one.cost), "value": plain(gain.value)}
            rows.append(row | {"low": plain(gain.low), "high": plain(gain.high)})
    return rows


def cost_range(costs: list[dict[str, Any]]) -> tuple[tuple[float, float], float]:
    """The costs of a step, and the highest speedup, that a chart of `cost_rows` shows."""
    found = [row["x"] for row in costs] or [1.0]
    space = 0.15 * (max(found) - min(found) or 1.0)
    gains = [x for row in costs for x in (row["value"], row["high"]) if x is not None]
    ends = max(0.0, round(min(found) - space, 3)), round(max(found) + space, 3)
    return ends, round(1.08 * max([1.2, *gains]), 3)


def _reference(board: Leaderboard) -> Any:
    return next(one for one in board.standings if one.contestant == board.reference).entries


def _smoothed(entry: TaskScores, board: Leaderboard, loss: str) -> np.ndarray:
    if loss == board.loss:
        return entry.smoothed
    return metrics.smooth(getattr(entry.record, f"{loss}_loss"), board.smoothing)


def _thinned(count: int) -> np.ndarray:
    """Indices of at most `_POINTS` of `count` points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _log_range(values: Sequence[float | None], most: float) -> tuple[float, float]:
    """Ends of a logarithmic axis; values above `most` do not stretch it."""
    usable = [x for x in values if x is not None and 0 < x <= most]
    low, high = (min(usable), max(usable)) if usable else (0.1, 1.0)
    return plain(low / 1.08), plain(high * (1.08 if high > low else 2))
