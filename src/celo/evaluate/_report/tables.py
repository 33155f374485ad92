"""A leaderboard in words and numbers: headline, caption, tables as text, Markdown and CSV."""

import csv
import io
import math

import numpy as np

from celo._plotting import Slot, rate_text, slots
from celo.evaluate._score import metrics
from celo.evaluate._score import time_to_target as targets
from celo.evaluate._score.aggregate import RESAMPLES, SEED, Interval
from celo.evaluate._score.leaderboard import LOSSES, SCORES, Leaderboard, Standing
from celo.evaluate._settings import ADAM, Kind


def colours(board: Leaderboard) -> dict[str, Slot]:
    """Contestant -> what its colour stands for, the best first."""
    learned = {one.contestant for one in board.standings if one.learned}
    return slots([one.contestant for one in board.standings], reference=board.reference, learned=learned)


def headline(board: Leaderboard) -> str:
    """The finding in one sentence.

    Over several tasks it is who ends lowest, and by how much. On one it is what a user of that task wants to
    know: steps and time to the reference's loss, and what a step costs; where the training data is learned by
    heart, how the two fare on other data.
    """
    best, loss = board.standings[0], f"{LOSSES[board.loss]} loss"
    if len(board.tasks) == 1:
        return _headline_of_one_task(board)
    first = next(iter(best.counted))
    where = f"Over {len(best.counted)} tasks" if len(best.counted) > 1 else f"On {first}"
    if best.contestant == board.reference:
        return f"{where}, nobody's {loss} ends below {board.reference}'s"
    ratio = best.scores["ratio_iqm"]
    ends = [_range(ratio, "{} to {} over seeds"), _range(best.over_tasks, "{} to {} over tasks")]
    told = ", ".join(filter(None, ends))
    return (
        f"{where}, {best.contestant}'s {loss} ends {ratio.value:.2f}× below "
        f"{board.reference}'s{f' (95% interval {told})' if told else ''}"
    )


BY_HEART = 0.1  # of the validation loss: the reference's training loss where it has learned its data by heart


def _headline_of_one_task(board: Leaderboard) -> str:
    """Of the best contestant that is not the reference, beside it; medians of the seeds."""
    [task] = board.tasks
    reference = next(one for one in board.standings if one.contestant == board.reference)
    others = [one for one in board.standings if one is not reference]
    if not others:
        return f"On {task}, {reference.contestant} ran alone"
    ref = f"{'tuned ' if reference.kind == Kind.TUNED else ''}{reference.contestant}'s"
    known = {title: float(np.median(values)) for title, values in finals(board, reference).items()}
    train, valid = known["training loss"], known["validation loss"]
    if board.loss == "train" and train < BY_HEART * valid:
        title, sign = ("accuracy", -1) if "accuracy" in known else ("validation loss", 1)
        ends = {one.contestant: float(np.median(finals(board, one)[title])) for one in others}
        best = min(ends, key=lambda name: sign * ends[name] if math.isfinite(ends[name]) else math.inf)
        words = {"accuracy": "validation accuracy"}.get(title, title)
        form = "{:.1%}".format if title == "accuracy" else "{:.4g}".format
        return (
            f"On {task}, where the training data is learned by heart (training loss {train:.1g}), {best}'s "
            f"{words} ends at {form(ends[best])}, {ref} at {form(known[title])}"
        )
    best, target = others[0], known[f"{LOSSES[board.loss]} loss"]
    entry, adams = best.entries[task], reference.entries[task].record
    [taken], horizon = targets.typical_times([entry.times]), int(entry.record.steps[-1])
    cost = f"a step costs {entry.cost:.2f} times {board.reference}'s" if math.isfinite(entry.cost) else ""
    goal = f"{ref} final {LOSSES[board.loss]} loss ({target:.3g})"
    if not math.isfinite(taken):
        return "; ".join(filter(None, (f"On {task}, {best.contestant} does not reach {goal}", cost)))
    seconds = (taken * entry.cost * adams.seconds_per_step, horizon * adams.seconds_per_step)
    known_time = math.isfinite(seconds[0]) and seconds[1] > 0
    spent = f" and {duration(seconds[0])} instead of {duration(seconds[1])}" if known_time else ""
    text = (
        f"On {task}, {best.contestant} reaches {goal} in {int(taken):,} steps instead of {horizon:,}{spent}"
    )
    return "; ".join(filter(None, (text, cost)))


def caption(board: Leaderboard) -> str:
    """What the numbers are, and which tasks they are over."""
    entries = [one.entries[task] for one in board.standings for task in one.counted]
    steps = sorted({int(entry.record.steps[-1]) for entry in entries})
    seeds = sorted({entry.ratio.size for entry in entries})
    ref, several = board.reference, len(board.tasks) > 1
    if not several:
        over = f"On {board.tasks[0]}"
    elif board.common:
        count = len(board.counted)
        over = (
            f"Aggregates are over the {f'{count} tasks' if count > 1 else 'task'} that all contestants have"
        )
    else:
        over = "Aggregates are over all tasks that a contestant has, ranks and target scores over shared ones"
    aside = "; ".join(f"{task} ({reason})" for task, reason in board.set_aside.items())
    parts = [
        f"{over}, {_some(steps)} steps, {_some(seeds)} {'seed' if seeds == [1] else 'seeds'}"
        f"{f'; set aside: {aside}' if aside else ''}.",
        _kinds(board),
        f"Compared are {LOSSES[board.loss]} losses, smoothed "
        f"(moving average over the evaluations, decay {board.smoothing:g}).",
    ]
    if set(board.too_short) & set(board.counted):
        parts.append(
            f"Runs are short for this smoothing: more than half of {ref}'s smoothed final loss is its loss "
            f"at the start on {', '.join(board.too_short)}."
        )
    parts += [
        f"Loss ratio: {ref}'s final loss with the same seed / a contestant's.",
        f"Equal-time ratio: the same of runs of the steps that fit into the time of {ADAM}'s run, with a "
        "schedule made for them; – where there were none.",
        f"Early speedup: {ref}'s steps / steps to halfway down from {ref}'s first loss to its final one, on "
        "a log scale, the curves not smoothed.",
        f"Speedup: all steps / steps until {ref}'s final loss; in time: divided by what a step costs. Either "
        "speedup is 0 if that loss is never reached.",
        f"All five are interquartile means over {'tasks and ' if several else ''}seeds; a diverged run "
        "counts 0.",
        "P(ahead): probability that a contestant's loss ratio stays above that of the next one below, by a "
        f"paired bootstrap over {'tasks and ' if several else ''}seeds.",
    ]
    if several:
        parts += [
            "Over tasks: 95% interval of the loss ratio if tasks were drawn again, and not seeds.",
            f"P(better): probability that a run ends below one of {ref}'s.",
            f"Target score: AlgoPerf's, with {ref}'s final loss as target.",
        ]
    parts.append(
        f"{'All other intervals' if several else 'Intervals'} are 95% stratified bootstrap ({RESAMPLES:,} "
        f"resamples, seed {SEED}): they tell of seeds, not of other tasks, nor of how exactly steps were "
        "timed."
    )
    return " ".join(parts)


def cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table, as text; with one task it tells its losses in place of ranks."""
    header = ["#", "contestant"]
    if len(board.tasks) > 1:
        header += [*SCORE_COLUMNS, "P(ahead)", "over tasks", "P(better)", "rank", "target score"]
    else:
        header += ["rate", *finals(board, board.standings[0]), *SCORE_COLUMNS, "P(ahead)"]
    header += ["step cost", "diverged"]
    return header, [_row(board, place, one) for place, one in enumerate(board.standings, 1)]


# Of `SCORES`, in this order.
SCORE_COLUMNS = ("loss ratio", "equal-time ratio", "early speedup", "speedup", "speedup in time")


def result_cells(board: Leaderboard, task: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of what everyone did on one task, the lowest loss first."""
    header = ["contestant", "rate", f"{LOSSES[board.loss]} loss", *SCORE_COLUMNS, "time of a step"]

    def final(one: Standing) -> float:
        return float(one.entries[task].final.mean())

    rows = []
    for one in sorted((one for one in board.standings if task in one.entries), key=final):
        entry = one.entries[task]
        scores = [score_text(kind, getattr(entry, kind)) for kind in SCORES]
        row = [one.contestant, _rate(entry.record.rate), loss_text(entry.final), *scores]
        rows.append([*row, duration(entry.record.seconds_per_step)])
    return header, rows


def score_text(kind: str, values: np.ndarray) -> str:
    """A score of `SCORES` on one task, mean of its seeds."""
    if np.isnan(values).any():
        return "–"
    mean = float(values.mean())
    return "never" if mean == 0 and not kind.startswith("ratio") else f"{mean:.2f}"


def loss_text(values: np.ndarray) -> str:
    """A final loss, mean of its seeds, or how many of them diverged."""
    lost = int(np.sum(~np.isfinite(values)))
    return f"diverged [{lost} of {values.size}]" if lost else f"{values.mean():.4g}"


def duration(seconds: float) -> str:
    """A short time as people say it."""
    if not math.isfinite(seconds):
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def markdown(board: Leaderboard) -> str:
    """The leaderboard as a Markdown document."""
    header, rows = cells(board)
    table = _table(header, ["--:", ":--", *("--:" for _ in header[2:])], rows)
    lacking = [f"- {text}" for text in missing(board)]
    parts = [f"# {headline(board)}", table, caption(board), *lacking]
    if len(board.tasks) > 1:
        header, rows = task_cells(board)
        parts += ["## Loss ratio on each task", _table(header, [":--", *("--:" for _ in header[1:])], rows)]
    return "\n\n".join(parts) + "\n"


def task_cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """(header, rows): on each task the reference's final loss, and the mean ratios of those in colour."""
    slot = colours(board)
    reference = next(one for one in board.standings if one.contestant == board.reference)
    front = [one for one in board.standings if slot[one.contestant] not in (Slot.REFERENCE, Slot.BACKGROUND)]
    rows = []
    for task, entry in reference.entries.items():
        rate = "" if entry.record.rate is None else f" at {rate_text(entry.record.rate)}"
        ratios = [_ratio_text(one, task) for one in front]
        rows.append([task, f"{loss_text(entry.final)}{rate}", *ratios])
    return ["task", f"{board.reference}'s loss", *(one.contestant for one in front)], rows


def _ratio_text(one: Standing, task: str) -> str:
    """Its loss ratio on a task, to three places; a dash where there is none."""
    ratio = one.entries[task].ratio.mean() if task in one.entries else math.nan
    return "–" if math.isnan(ratio) else f"{ratio:.3f}"


def _table(header: list[str], rule: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def scores_csv(board: Leaderboard) -> str:
    """Every score, one line for each contestant, task and seed, for statistics of one's own."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        [
            *("contestant", "task", "seed", "final_loss", "loss_ratio", "equal_time_ratio"),
            *("early_speedup", "speedup", "step_cost"),
        ]
    )
    for one in board.standings:
        for task, entry in one.entries.items():
            columns = (entry.smoothed[:, -1], entry.ratio, entry.ratio_clock, entry.early, entry.speedup)
            for seed, *scores in zip(entry.seeds, *columns, strict=True):
                lines.writerow([one.contestant, task, seed, *(f"{x:.6g}" for x in (*scores, entry.cost))])
    return text.getvalue()


def _row(board: Leaderboard, place: int, one: Standing) -> list[str]:
    scores = [*(cell(one.scores[f"{kind}_iqm"]) for kind in SCORES), ahead_text(one)]
    if len(board.tasks) > 1:
        others = (cell(one.scores[name]) for name in ("improvement", "rank", "algoperf"))
        row = [*scores, over_tasks_text(one), *others]
    else:
        [entry] = one.entries.values()
        row = [_rate(entry.record.rate), *map(loss_text, finals(board, one).values()), *scores]
    cost = f"{one.cost:.2f}×" if math.isfinite(one.cost) else "–"
    return [str(place), one.contestant, *row, cost, f"{one.diverged} of {one.runs}"]


def finals(board: Leaderboard, one: Standing) -> dict[str, np.ndarray]:
    """Title -> loss or metric at the end of the only task, smoothed, of each seed."""
    [entry] = one.entries.values()
    record = entry.record
    found = {f"{title} loss": getattr(record, f"{kind}_loss") for kind, title in LOSSES.items()}
    found |= record.metrics
    return {title: metrics.smooth(x, board.smoothing)[:, -1] for title, x in found.items()}


def _rate(rate: float | None) -> str:
    return "–" if rate is None else rate_text(rate)


def cell(found: Interval) -> str:
    """A score and its interval."""
    if not math.isfinite(found.value):
        return "∞" if found.value > 0 else "–"
    return f"{found.value:.2f}{_range(found, ' [{}, {}]')}"


def ahead_text(one: Standing) -> str:
    """How surely it is ahead of the next one below; a dash for the last."""
    return "–" if math.isnan(one.ahead) else f"{one.ahead:.2f}"


def over_tasks_text(one: Standing) -> str:
    """The interval of its loss ratio over tasks."""
    return _range(one.over_tasks, "{} to {}") or "–"


def _kinds(board: Leaderboard) -> str:
    """Who was given what."""
    named = {kind: [one.contestant for one in board.standings if one.kind == kind] for kind in Kind}
    learned, fixed = (", ".join(named[kind]) for kind in (Kind.LEARNED, Kind.ONE_SETTING))
    told = [f"Learned, with nothing to tune: {learned}."] if learned else []
    told += [f"At one learning rate on all tasks, the one behind an @: {fixed}."] if fixed else []
    if named[Kind.TUNED]:
        others = "Learning rates of all others" if told else "Learning rates"
        told.append(f"{others} were tuned on each task, on training losses.")
    return " ".join(told)


def _range(found: Interval, text: str) -> str:
    """An interval in words; nothing where there is none."""
    if np.isnan(found.low) or np.isnan(found.high):
        return ""
    return text.format(*(f"{end:.2f}" if math.isfinite(end) else "∞" for end in (found.low, found.high)))


def missing(board: Leaderboard) -> list[str]:
    """One line for each contestant that lacks records, or has none that can be scored."""
    lines = [f"{name} is left out: {why}" for name, why in board.left_out.items()]
    for one in board.standings:
        lacks = [task for task in board.tasks if task not in one.entries]
        if lacks:
            lines.append(f"{one.contestant} has no record on {', '.join(lacks)}")
    return lines


def _some(numbers: list[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
