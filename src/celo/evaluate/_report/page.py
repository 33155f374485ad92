"""A leaderboard as one HTML page that needs no other file: tables, charts, their numbers, and Vega."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from celo._plotting import DARK, LIGHT, OTHERS, Look, Slot, rate_text
from celo.evaluate._report import figures, rows, tables
from celo.evaluate._report.figures import Frame
from celo.evaluate._score.leaderboard import LOSSES, SCORES, TAUS, Leaderboard, Standing, TaskScores
from celo.evaluate._settings import Kind

_FONT = "system-ui, sans-serif"
# The charts' colours are the page's variables, so that light and dark are matters of style alone.
_PAGE = Look(
    *(f"var(--{name})" for name in ("paper", "ink", "soft", "background", "learned")),
    others=(*(f"var(--{slot})" for slot in OTHERS),),  # pyright: ignore[reportArgumentType]
)
_ROW_HEIGHT = 30  # pixels, of the table of standings and the chart in it
_BUNDLE = "window.vegaEmbed = vegaEmbed;"
_MANY = 16  # contestants, from which rows stand closer
_BRACKET = re.compile(r"^(.*) (\[.*\])$")


def page(board: Leaderboard, headline: str, caption: str) -> str:
    """The page; with one task the curves come first, and what compares tasks is left out.

    Args:
      board: what it shows.
      headline: its title, plain text.
      caption: what the numbers are, plain text.

    Raises:
      CeloError: without Altair or vl-convert.
    """
    figures.require_altair()
    import vl_convert

    one_task = len(board.tasks) == 1
    sections = dict(re.findall(r'(?s)(?<=<section id=")(\w+)(.*?</section>\n)', _asset("sections.html")))
    if one_task:
        for name in ("profiles", "tasks"):
            del sections[name]
        # The table of standings has the losses on it.
        sections = {
            "task": sections.pop("task").replace(
                '<div class="scroll long"><table id="results"></table></div>', ""
            ),
            **sections,
        }
    titles = {name: re.findall(r"<h2[^>]*>(.*?)</h2>", text)[0] for name, text in sections.items()}
    body = "".join(f'<section id="{name}{text}' for name, text in sections.items())
    runs, lost = (sum(getattr(one, name) for one in board.standings) for name in ("runs", "diverged"))
    parts = {
        "COLOURS": _colours(),
        "CSS": _asset("report.css"),
        "SIZE": f"{'one' if one_task else 'several'} {'many' if len(board.standings) > _MANY else 'few'}",
        "NAV": "".join(f'<a href="#{name}">{title}</a>' for name, title in titles.items()),
        "HEADLINE": html.escape(headline),
        "SUMMARY": html.escape(
            f"{_some(len(board.standings), 'contestant')} on {_some(len(board.tasks), 'task')}; "
            f"{runs:,} runs, {lost:,} of them diverged."
        ),
        "STANDINGS": _standings_table(board),
        "MISSING": html.escape("".join(f" {line}." for line in _missing(board))),
        "TASKS": _options(dict(zip(board.tasks, board.tasks, strict=True))),
        "LOSSES": _options({kind: f"{title} loss" for kind, title in LOSSES.items()}, chosen=board.loss),
        "RATES": figures.rates_legend(board).capitalize(),
        "PROFILES": _options({kind: _title(kind) for kind in TAUS}),
        "SCORES": _options({kind: _title(kind) for kind in SCORES}, chosen="speedup"),
        "REFERENCE": html.escape(board.reference),
        "DIVERGED": _diverged(board),
        "CAPTION": html.escape(caption),
        "VEGA": _script(vl_convert.javascript_bundle(_BUNDLE, figures.vega_lite_version())),
        # A name cannot end the script, nor begin a comment.
        "DATA": _json(as_json(board)).replace("<", "\\u003c"),
        "SCRIPT": _asset("report.js"),
    }
    # Sections first, then all else in one go: what was put in is not looked at again.
    text = _asset("report.html").replace("@@SECTIONS@@", body)
    return re.sub("@@([A-Z]+)@@", lambda found: parts[found[1]], text)


def as_json(board: Leaderboard) -> dict[str, Any]:
    """All that the page's script reads, as JSON values."""
    settings: dict[str, int] = {}  # each of the settings that runs share is there once
    records = {
        one.contestant: {task: _record(entry, settings) for task, entry in one.entries.items()}
        for one in board.standings
    }
    slots = tables.colours(board)
    scores = {kind: rows.score_rows(board, kind) for kind in SCORES}
    rates = {task: rows.rate_rows(board, task) for task in board.tasks}
    spans = {task: rows.rate_range(board, task, rates[task]) for task in board.tasks}
    return {
        "reference": board.reference,
        "loss": board.loss,
        "task": board.counted[0],
        "tasks": list(board.tasks),
        "order": [one.contestant for one in board.standings],
        "colours": {name: slot for name, slot in slots.items() if slot != Slot.BACKGROUND},
        "slots": [Slot.LEARNED, *OTHERS],
        "charts": _charts(board),
        "curves": {task: _curves(board, task) for task in board.tasks},
        "rates": {
            task: {"rows": found, "tried": rows.tried_rates(board, task), "ends": spans[task]}
            for task, found in rates.items()
        },
        "results": {task: tables.result_cells(board, task) for task in board.tasks if len(board.tasks) > 1},
        "profiles": {
            kind: {
                "rows": rows.profile_rows(board, kind),
                "x": rows.plain(taus),
                "title": figures.PROFILE_TITLES[kind],
            }
            for kind, taus in TAUS.items()
        },
        "scores": {kind: {"rows": found, "ends": rows.score_range(found)} for kind, found in scores.items()},
        "heat": {kind: rows.task_rows(board, kind) for kind in SCORES},
        "costs": rows.cost_rows(board),
        "facts": _FACTS,
        "records": records,
        "settings": [json.loads(text) for text in settings],
        "sums": {one.contestant: _sums(one) for one in board.standings},
    }


def _curves(board: Leaderboard, task: str) -> dict[str, Any]:
    found: dict[str, Any] = {"x": rows.curve_steps(board, task)}
    for loss in LOSSES:
        values = rows.curve_rows(board, task, loss)
        found[loss] = {"rows": values, "ends": rows.curve_range(values)}
    return found


def _charts(board: Leaderboard) -> dict[str, Any]:
    """Element of the page -> chart in Vega, whose data "rows" and parameters the script sets."""
    import altair as alt
    import vl_convert

    data, low_high = alt.NamedData("rows"), ("low", "high")
    many = len(board.standings) > _MANY

    def frame(height: int) -> Frame:
        return Frame(_PAGE, "container", height, live=True)

    signals = {"low": 0.1, "high": 1.0, "left": 0.1, "right": 1.0, "last": 1, "order": []}
    charts = {
        "curves": figures.curves(data, frame(400), limits=low_high, last_step="last"),
        "rates": figures.rates(data, frame(400), limits=low_high, span=("left", "right")),
        "profile": figures.profiles(data, frame(380), span=("left", "right")),
        "standings-chart": figures.standings(
            data, frame(_ROW_HEIGHT), limits=low_high, order="order", named=False
        ),
        "heat": figures.tasks(data, frame(24 if many else 30), board=board),
        "heat-turned": figures.tasks(data, frame(26), board=board, turned=True),
        "cost": figures.costs(data, frame(400), board=board),
    }
    found = {}
    for name, chart in charts.items():
        chart = chart.add_params(*(alt.param(name=key, value=value) for key, value in signals.items()))
        spec = figures.as_vega_lite(chart, board, _PAGE, font=_FONT)
        if name == "standings-chart":
            spec["padding"] = {"left": 0, "right": 0, "top": 0, "bottom": 5}  # in step with the table's rows
        found[name] = vl_convert.vegalite_to_vega(spec, vl_version=figures.vega_lite_version())
    return found


# What is behind a number

_FACTS = ["learning rate", "seeds", "final training loss", "final validation loss"]
_FACTS += [*tables.SCORE_COLUMNS, "time of a step", "Adam's, beside it", "steps in Adam's time"]
_SUMS = {
    **{
        f"{kind}_{name}": f"{figures.SCORE_TITLES[kind]}, {name if name != 'iqm' else 'IQM'}"
        for kind in SCORES
        for name in ("iqm", "median", "mean")
    },
    **{"ratio_gap": "loss ratio, gap to 1", "ratio_gap_clock": "loss ratio at equal time, gap to 1"},
    **{"improvement": "P(better)", "improvement_clock": "P(better) at equal time"},
    **{"rank": "mean rank", "rank_clock": "mean rank at equal time"},
    **{"algoperf": "target score", "algoperf_clock": "target score in time"},
}


def _record(entry: TaskScores, settings: dict[str, int]) -> dict[str, Any]:
    """The texts of `_FACTS`, seed by seed, and where the record's settings are in the pool `settings`."""
    record = entry.record
    losses = [getattr(record, f"{kind}_loss")[:, -1] for kind in LOSSES]
    facts = ["–" if record.rate is None else rate_text(record.rate), ", ".join(map(str, entry.seeds))]
    facts += [_listed(values) for values in (*losses, *(getattr(entry, kind) for kind in SCORES))]
    facts += [tables.duration(seconds) for seconds in (record.seconds_per_step, record.adam_seconds_per_step)]
    runs = record.in_adams_time
    facts.append("–" if runs is None else f"{int(runs.steps[-1]):,}")
    texts = [_json(pair) for pair in _settings(entry).items()]
    return {"facts": facts, "config": [settings.setdefault(text, len(settings)) for text in texts]}


def _settings(entry: TaskScores) -> Mapping[str, Any]:
    """A record's settings as JSON values, by name."""
    return entry.record.facts()


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{x:.4g}" if math.isfinite(x) else "–" for x in values)


def _sums(one: Standing) -> list[list[str]]:
    """Titles and texts of all scores of a contestant."""
    facts = [["kind", one.kind]]
    facts += [[title, tables.cell(one.scores[name])] for name, title in _SUMS.items()]
    facts.append(["loss ratio, interval over tasks", tables.over_tasks_text(one)])
    facts.append(["ahead of the next below", tables.ahead_text(one)])
    return [*facts, ["tasks", ", ".join(one.counted)]]


# Tables


def _standings_table(board: Leaderboard) -> str:
    """The table of `tables.cells`; a heading sorts it, and one column is a chart."""
    header, texts = tables.cells(board)
    shown = dict(zip(tables.SCORE_COLUMNS, SCORES, strict=True))
    rare = {
        "loss ratio": "",
        "contestant": "",
        "speedup": "spare",
    }  # all others: the first that a narrow page drops
    upwards = {
        "#",
        "contestant",
        "rank",
        "step cost",
        "diverged",
        "rate",
        *(f"{title} loss" for title in LOSSES.values()),
    }
    values = [_values(board, place, one) for place, one in enumerate(board.standings, 1)]
    head, body = [], []
    # The chart is the third column.
    for i, title in enumerate(header):
        column = i + (i > 1)
        marks = f' data-score="{shown[title]}"' if title in shown else ""
        marks += " data-up" if title in upwards else ""
        marks += ' aria-sort="ascending"' if title == "#" else ""
        kind = f"c{column} {rare.get(title, 'rare')}"
        head.append(
            f'<th class="{kind}"{marks}><button type="button" data-sort>{html.escape(title)}</button></th>'
        )
        if i == 1:
            head.append('<th class="c2"></th>')
    for place, (one, cells) in enumerate(zip(board.standings, texts, strict=True)):
        name = html.escape(one.contestant)
        row = []
        for i, (title, text) in enumerate(zip(header, cells, strict=True)):
            kind = f"c{i + (i > 1)} {rare.get(title, 'rare')}"
            value = values[place].get(title)
            shows = "" if value is None else html.escape(str(value))
            inner = _who(one.contestant) + _kind(one) if title == "contestant" else _small(text)
            row.append(f'<td class="{kind}" data-value="{shows}">{inner}</td>')
            if i == 1 and place == 0:
                row.append(
                    f'<td class="chart-cell" rowspan="{len(texts) + 1}"><div id="standings-chart"></div></td>'
                )
        learned = ' class="learned"' if one.learned else ""
        body.append(f'<tr{learned} data-open="{name}"{_task_of(board)}>{"".join(row)}</tr>')
    axis = "".join(f'<td class="{rare.get(title, "rare")}"></td>' for title in header)
    body.append(f'<tr class="axis">{axis}</tr>')
    head, body = "".join(head), "".join(body)
    return f'<table id="standings"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _task_of(board: Leaderboard) -> str:
    """With one task a row of the leaderboard is a record."""
    return f' data-task="{html.escape(board.tasks[0])}"' if len(board.tasks) == 1 else ""


def _values(board: Leaderboard, place: int, one: Standing) -> dict[str, Any]:
    """Title of a column -> what it is sorted by; what is not a number stands last."""
    names = [*(f"{kind}_iqm" for kind in SCORES), "improvement", "rank", "algoperf"]
    titles = [*tables.SCORE_COLUMNS, "P(better)", "rank", "target score"]
    found: dict[str, Any] = {
        title: rows.plain(one.scores[name].value, 8) for title, name in zip(titles, names, strict=True)
    }
    found |= {
        "#": place,
        "contestant": one.contestant,
        "P(ahead)": rows.plain(one.ahead),
        "over tasks": rows.plain(one.over_tasks.low),
        "step cost": rows.plain(one.cost),
        "diverged": one.diverged,
    }
    if len(board.tasks) == 1:
        found["rate"] = one.entries[board.tasks[0]].record.rate
        finals = tables.finals(board, one)
        found |= {title: rows.plain(values.mean(), 8) for title, values in finals.items()}
    return found


def _who(name: str) -> str:
    text = html.escape(name)
    return f'<button type="button" class="who" data-toggle="{text}"><i></i><span>{text}</span></button>'


def _kind(one: Standing) -> str:
    """What it was given, in small; nothing for the many that are tuned."""
    return "" if one.kind == Kind.TUNED else f" <small>{one.kind}</small>"


def _small(text: str) -> str:
    """An interval stands behind its value in small."""
    found = _BRACKET.match(text)
    return f"{html.escape(found[1])} <small>{html.escape(found[2])}</small>" if found else html.escape(text)


def _diverged(board: Leaderboard) -> str:
    """Runs that diverged: the reported ones, and those of tuning."""
    reported = [
        (one.contestant, task, _where(entry))
        for one in board.standings
        for task, entry in one.entries.items()
        if entry.record.diverged.any()
    ]
    body = "".join(
        f'<tr data-open="{html.escape(name)}" data-task="{html.escape(task)}"><td>{_who(name)}</td>'
        f"<td>{html.escape(task)}</td><td>{html.escape(where)}</td></tr>"
        for name, task, where in reported
    )
    tried = {one.contestant: _lost_trials(one) for one in board.standings}
    trials = "".join(
        f"<tr><td>{_who(name)}</td><td>{len(lost)} of {count}</td><td>{rate_text(min(lost))}</td></tr>"
        for name, (lost, count) in tried.items()
        if lost
    )
    columns = ("contestant", "runs of tuning", "lowest rate that diverged")
    tables_of = (
        _table(("contestant", "task", "not finite from"), body, "lost-runs", "None of the reported runs."),
        _table(columns, trials, "lost-trials", "None of the runs of tuning."),
    )
    return f'<div class="beside">{"".join(tables_of)}</div>'


def _where(entry: TaskScores) -> str:
    """Which seeds are lost, and by which step."""
    losses, steps = entry.record.train_loss, entry.record.steps
    lost = [(seed, ~np.isfinite(losses[i])) for i, seed in enumerate(entry.seeds)]
    return ", ".join(f"seed {seed} by step {steps[bad.argmax()]:,}" for seed, bad in lost if bad.any())


def _lost_trials(one: Standing) -> tuple[list[float], int]:
    """(rates of the trials of tuning that diverged, how many trials were run)."""
    lost, count = [], 0
    for entry in one.entries.values():
        for losses in entry.record.rung_losses:
            lost += entry.record.rates[np.isinf(losses)].tolist()
            count += int(np.sum(~np.isnan(losses)))
    return lost, count


def _table(header: Sequence[str], body: str, name: str, otherwise: str) -> str:
    if not body:
        return f'<p class="prose">{otherwise}</p>'
    head = "".join(f"<th>{title}</th>" for title in header)
    table = f'<table class="plain" id="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll long">{table}</div>'


def _missing(board: Leaderboard) -> list[str]:
    aside = [f"{task} is set aside: {why}" for task, why in board.set_aside.items()]
    return [*tables.missing(board), *aside]


# Small things


def _title(kind: str) -> str:
    titles = figures.SCORE_TITLES | {
        "target": "time to target, steps",
        "target_clock": "time to target, clock",
    }
    return titles[kind].capitalize()


def _options(titles: Mapping[str, str], chosen: str = "") -> str:
    lines = []
    for name, title in titles.items():
        mark = " selected" if name == chosen else ""
        lines.append(f'<option value="{html.escape(name)}"{mark}>{html.escape(title)}</option>')
    return "".join(lines)


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


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
    pairs = {"paper": look.paper, "ink": look.ink, "soft": look.soft}
    pairs |= {str(slot): look.line(slot) for slot in Slot}
    pairs["line"] = f"color-mix(in srgb, {look.grid} 45%, {look.paper})"
    pairs["well"] = f"color-mix(in srgb, {look.grid} 24%, {look.paper})"
    return "; ".join(f"--{name}: {value}" for name, value in pairs.items())


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _script(code: str) -> str:
    """Code that does not end its own script element."""
    return re.sub(r"</(?=script)", r"<\\/", code, flags=re.IGNORECASE)


def _asset(name: str) -> str:
    return resources.files("celo.evaluate._report").joinpath("page", name).read_text(encoding="utf-8")
