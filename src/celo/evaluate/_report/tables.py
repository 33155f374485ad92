"""Writing a leaderboard: as a table on the terminal and in Markdown, as figures, as one page."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from celo import __version__
from celo._errors import CeloError
from celo._plotting import REFERENCE as REFERENCE_SLOT
from celo._plotting import rate_text, require_matplotlib
from celo._provenance import commit
from celo.evaluate import _records as archive
from celo.evaluate._report import figures as leaderboard_figures
from celo.evaluate._report import page as leaderboard_page
from celo.evaluate._score import metrics
from celo.evaluate._score.aggregate import RESAMPLES, SEED, Interval
from celo.evaluate._score.entry import LOSSES
from celo.evaluate._score.leaderboard import REFERENCE, SCORES, Leaderboard, Standing, leaderboard
from celo.weights import write_file


def write_report(
    archives: Sequence[Path],
    out: Path,
    *,
    console: Console,
    reference: str = REFERENCE,
    contestants: Sequence[str] = (),
    tasks: Sequence[str] = (),
    common: bool = True,
    smoothing: float = metrics.SMOOTHING,
    loss: str = "train",
) -> Leaderboard:
    """Write leaderboard.md, scores.csv, report.html and figures into `out`; print the table.

    Args:
      archives: folders of records (`celo.evaluate._records`); of two records of the same contestant and task
        that of the earlier folder counts.
      out: folder, made if it is not there.
      console: where the table goes.
      reference: as in `leaderboard`, like what follows.
      contestants: who is shown; empty for all.
      tasks: on which; empty for all.
      common: aggregate over the tasks that all have.
      smoothing: decay of the curves' moving average.
      loss: "train" or "valid", what is compared.

    Raises:
      CeloError: no or damaged records, as `leaderboard`, no Matplotlib, or a file cannot be written.
    """
    require_matplotlib()
    for folder in archives:
        if not folder.is_dir():
            raise CeloError(f"{folder}: no such folder; make records with `celo evaluate --out {folder}`")
    records: dict[tuple[str, str], archive.Record] = {}
    for folder in archives:
        for record in archive.read_all(folder):
            records.setdefault((record.task, record.contestant), record)
    board = leaderboard(
        list(records.values()),
        reference=reference,
        contestants=contestants,
        tasks=tasks,
        common=common,
        smoothing=smoothing,
        loss=loss,
    )
    show(board, console)
    made = _made(archives)
    files = {
        "leaderboard.md": f"{markdown(board)}\n{made}\n".encode(),
        "scores.csv": scores_csv(board).encode(),
    }
    files |= {f"figures/{name}": data for name, data in leaderboard_figures.draw_all(board).items()}
    files["report.html"] = leaderboard_page.page(board, headline(board), f"{caption(board)} {made}").encode()
    for name, data in files.items():
        _write(out / name, data)
    console.print(f"report:  {out / 'report.html'}", highlight=False)
    return board


def _made(archives: Sequence[Path]) -> str:
    """What made a report, and of what."""
    source = commit()
    version = f"celo {__version__}{f', commit {source}' if source else ''}"
    return f"Made by {version} from {' and '.join(map(str, archives))}."


def headline(board: Leaderboard) -> str:
    """The finding in one sentence: who leads, and by how much."""
    best, loss = board.standings[0], f"{LOSSES[board.loss]} loss"
    over = _count(len(best.counted), "task")
    if best.contestant == board.reference:
        return f"Over {over}, nobody's {loss} ends below {board.reference}'s"
    ratio = best.scores["ratio_iqm"]
    return (
        f"Over {over}, {best.contestant}'s {loss} ends {ratio.value:.2f}× below "
        f"{board.reference}'s{_range(ratio, ' (95% interval {} to {})')}"
    )


def caption(board: Leaderboard) -> str:
    """What the numbers are, and which tasks they are over."""
    entries = [one.entries[task] for one in board.standings for task in one.counted]
    steps = sorted({int(entry.record.steps[-1]) for entry in entries})
    seeds = sorted({entry.ratio.size for entry in entries})
    ref = board.reference
    counted = (
        f"Aggregates are over the {_count(len(board.counted), 'task')} that all contestants have"
        if board.common
        else "Aggregates are over all tasks that each contestant has, ranks and time to target over those "
        "that all have"
    )
    aside = "; ".join(f"{task} ({reason})" for task, reason in board.set_aside.items())
    early = (
        f" Runs are short for this smoothing: more than half of {ref}'s smoothed final loss is its loss at "
        f"the start on {', '.join(board.early)}."
        if set(board.early) & set(board.counted)
        else ""
    )
    return (
        f"{counted}, {_some(steps)} steps, {_some(seeds)} {'seed' if seeds == [1] else 'seeds'}"
        f"{f'; set aside: {aside}' if aside else ''}. Learning rates were tuned on training losses; compared "
        f"are {LOSSES[board.loss]} losses, smoothed (moving average over the evaluations, decay "
        f"{board.smoothing:g}).{early} Loss ratio: {ref}'s final loss with the same seed / one's own. "
        f"Speedup: all steps / steps until {ref}'s final loss, 0 if never. In time: the same with each step "
        f"charged what it takes, the loss being that when {ref} is done. All four are interquartile means "
        "over tasks and seeds, a diverged run counts 0. P(better): probability that a run ends below one of "
        f"{ref}'s. Target score: AlgoPerf's, with {ref}'s final loss as target. Intervals are 95% stratified "
        f"bootstrap ({RESAMPLES:,} resamples, seed {SEED}): they tell of seeds, not of other tasks, nor of "
        "how exactly steps were timed."
    )


def cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table, as text."""
    header = ["#", "contestant", "loss ratio", "ratio in time", "speedup", "speedup in time"]
    header += ["P(better)", "rank", "target score", "step cost", "diverged"]
    return header, [_row(place, one) for place, one in enumerate(board.standings, 1)]


def markdown(board: Leaderboard) -> str:
    """The leaderboard as a Markdown document."""
    header, rows = cells(board)
    table = _table(header, ["--:", ":--", *("--:" for _ in header[2:])], rows)
    missing = [f"- {text}" for text in _missing(board)]
    parts = [f"# {headline(board)}", table, caption(board), *missing]
    header, rows = task_cells(board)
    parts += ["## Loss ratio on each task", _table(header, [":--", *("--:" for _ in header[1:])], rows)]
    return "\n\n".join(parts) + "\n"


def task_cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """(header, rows): on each task the reference's final loss, and the mean ratios of those in colour."""
    slot = board.slots
    reference = next(one for one in board.standings if one.contestant == board.reference)
    front = [one for one in board.standings if slot[one.contestant] not in (None, REFERENCE_SLOT)]
    rows = []
    for task, entry in reference.entries.items():
        loss = f"{entry.smoothed[:, -1].mean():.4g}"
        rate = "" if entry.record.rate is None else f" at {rate_text(entry.record.rate)}"
        ratios = [f"{one.entries[task].ratio.mean():.3f}" if task in one.entries else "–" for one in front]
        rows.append([task, f"{loss}{rate}", *ratios])
    return ["task", f"{board.reference}'s loss", *(one.contestant for one in front)], rows


def _table(header: list[str], rule: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def scores_csv(board: Leaderboard) -> str:
    """Every score, one line for each contestant, task and seed, for statistics of one's own."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["contestant", "task", "seed", "final_loss", "loss_ratio", "ratio_in_time", "speedup", "step_cost"]
    )
    for one in board.standings:
        for task, entry in one.entries.items():
            columns = (entry.smoothed[:, -1], entry.ratio, entry.ratio_clock, entry.speedup)
            for seed, *scores in zip(entry.seeds, *columns, strict=True):
                lines.writerow([one.contestant, task, seed, *(f"{x:.6g}" for x in (*scores, entry.cost))])
    return text.getvalue()


def show(board: Leaderboard, console: Console) -> None:
    """Print the headline, the table and the caption; a narrow terminal gets fewer columns."""
    header, rows = cells(board)
    widths = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
    kept = list(range(len(header)))
    for name in ("P(better)", "rank", "target score", "ratio in time", "speedup in time", "step cost"):
        if sum(widths[i] for i in kept) > console.width:
            kept.remove(header.index(name))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i in kept:
        table.add_column(header[i], justify="left" if i == 1 else "right", no_wrap=i != 1)
    for row, one in zip(rows, board.standings, strict=True):
        table.add_row(*(row[i] for i in kept), style="bold" if one.learned else None)
    console.print(f"\n[bold]{headline(board)}[/bold]", table, caption(board), sep="\n", highlight=False)
    for line in _missing(board):
        console.print(line, highlight=False)


def _row(place: int, one: Standing) -> list[str]:
    scores = one.scores
    return [
        str(place),
        one.contestant,
        *(_cell(scores[f"{kind}_iqm"]) for kind in SCORES),
        *(_cell(scores[name]) for name in ("improvement", "rank", "algoperf")),
        f"{one.cost:.2f}×" if math.isfinite(one.cost) else "–",
        f"{one.diverged} of {one.runs}",
    ]


def _cell(found: Interval) -> str:
    if not math.isfinite(found.value):
        return "∞" if found.value > 0 else "–"
    return f"{found.value:.2f}{_range(found, ' [{}, {}]')}"


def _range(found: Interval, text: str) -> str:
    """An interval in words; nothing where there is none."""
    if np.isnan(found.low) or np.isnan(found.high):
        return ""
    return text.format(*(f"{end:.2f}" if math.isfinite(end) else "∞" for end in (found.low, found.high)))


def _missing(board: Leaderboard) -> list[str]:
    """One line for each contestant that lacks records."""
    lines = []
    for one in board.standings:
        lacks = [task for task in board.tasks if task not in one.entries]
        if lacks:
            lines.append(f"{one.contestant} has no record on {', '.join(lacks)}")
    return lines


def _some(numbers: list[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"{path.parent}: cannot be made ({error.strerror}); choose another --out") from error
    write_file(path, data)
