"""What a race found, in words, as a table, as JSON, and as one HTML page that needs no other file."""

import base64
import dataclasses
import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from celo._plotting import rate_text
from celo.evaluate._race_figure import draw
from celo.evaluate._run.baselines import DEFAULT_RATES
from celo.evaluate._run.training import Curve
from celo.evaluate._score import metrics
from celo.weights import write_file

if TYPE_CHECKING:  # race imports this module to show what it found
    from celo.evaluate._race import RaceResult, Row


def write(result: "RaceResult", folder: Path) -> list[Path]:
    """Write race.json, race.png and race.html into `folder`; each appears whole or not at all.

    Raises:
      CeloError: if Matplotlib is missing or a file cannot be written.
    """
    title, note = headline(result), caption(result)
    light, dark = (draw(result, title, note, dark=dark) for dark in (False, True))
    files = {
        "race.json": json.dumps(as_json(result), indent=1, allow_nan=False).encode(),
        "race.png": light,
        "race.html": page(result, light, dark).encode(),
    }
    for name, data in files.items():
        write_file(folder / name, data)
    return [folder / name for name in files]


def show(result: "RaceResult", console: Console) -> None:
    """Print the headline, the table and the caption; a narrow terminal gets fewer columns."""
    header, rows = cells(result)
    spared = ("valid loss", "n") if console.width < 110 else ()
    kept = [i for i, name in enumerate(header) if name not in spared]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i in kept:
        table.add_column(header[i], justify="right" if i else "left")
    for row, source in zip(rows, result.rows, strict=True):
        table.add_row(*(row[i] for i in kept), style="bold" if "learned" in source.roles else None)
    console.print(f"\n[bold]{headline(result)}[/bold]", table, caption(result), sep="\n", highlight=False)


def headline(result: "RaceResult") -> str:
    """The finding in one sentence: where Celo's training loss ends beside Adam's."""
    celo, tuned = result.row("celo", "learned"), result.row("adam", "tuned")
    default = result.row("adam", "default")
    finite = np.isfinite(celo.final["train"])
    if not finite.all():
        return f"Celo diverged on {np.sum(~finite)} of {finite.size} seeds"
    return (
        f"Untuned, Celo's training loss ends {_beside(celo, tuned)} tuned Adam's and "
        f"{_beside(celo, default)} Adam's at {rate_text(default.learning_rate or 0)}"
    )


def caption(result: "RaceResult") -> str:
    """What the numbers are: task, steps, seeds, how rates were chosen, what the scores mean."""
    config, count = result.config, len(result.seeds)
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    spread = f"mean ± standard deviation over {seeds}" if count > 1 else "one seed, so no spread"
    return (
        f"{config.task}, {config.steps:,} steps, {spread}. Learning rates were chosen from "
        f"{len(config.rates)} on {count} other seed{'s' if count > 1 else ''}. Losses and accuracies are "
        f"means over the last {metrics.WINDOW} evaluations. Speedup: steps of the race / steps until the "
        "final training loss of Adam with the same seed; a seed that never gets there counts 0. "
        "Step time: batch, gradient and update, one run alone."
    )


def cells(result: "RaceResult") -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the final table, as text."""
    adam = result.row("adam", "tuned").seconds_per_step
    names = list(result.rows[0].final)[1:]  # after "train"
    against = rate_text(DEFAULT_RATES["adam"])
    header = ["optimizer", "train loss", *names, "speedup: tuned Adam", f"speedup: Adam {against}"]
    header += ["step time", "× Adam", "n"]
    rows = []
    for row in result.rows:
        rate = "" if row.learning_rate is None else f" {rate_text(row.learning_rate)} {', '.join(row.roles)}"
        rows.append(
            [
                row.optimizer + rate,
                *(_spread(row.final[name], percent="accuracy" in name) for name in ("train", *names)),
                _score(row.speedup),
                _score(row.speedup_default),
                f"{row.seconds_per_step * 1e6:,.0f} µs",
                f"{row.seconds_per_step / adam:.2f}",
                str(row.speedup.size),
            ]
        )
    return header, rows


def as_json(result: "RaceResult") -> dict[str, Any]:
    """The whole result as JSON values: curves as they were measured; null stands for a non-finite number."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Curve):
            return plain(value._asdict())
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, np.ndarray):
            return plain(value.tolist())
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, float):
            return float(f"{value:.7g}") if math.isfinite(value) else None  # float32 has seven digits
        return value

    return {
        "command": result.config.command,
        "headline": headline(result),
        "caption": caption(result),
        **plain(result),
    }


def page(result: "RaceResult", light: bytes, dark: bytes) -> str:
    """The race as one HTML page: headline, figure (a PNG for light and one for dark), table, command."""
    header, rows = cells(result)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f'<tr class="{source.roles[0]}">'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>\n"
        for row, source in zip(rows, result.rows, strict=True)
    )
    facts = ", ".join(f"{name} {value}" for name, value in result.environment.items())
    return _PAGE.format(
        headline=html.escape(headline(result)),
        light=base64.b64encode(light).decode(),
        dark=base64.b64encode(dark).decode(),
        head=head,
        body=body,
        caption=html.escape(caption(result)),
        command=html.escape(result.config.command),
        facts=html.escape(f"{facts}; weights {result.config.weights}, sha256 {result.weights_sha256}"),
    )


def _beside(row: "Row", other: "Row") -> str:
    """How the final training loss of `row` stands to that of `other`, means over seeds."""
    loss, reference = float(row.final["train"].mean()), float(other.final["train"].mean())
    if not math.isfinite(reference):
        return "finite, unlike"
    if loss <= 0 or reference <= 0 or 0.95 < loss / reference < 1.05:
        return "level with" if loss >= reference else "below"
    ratio = max(loss, reference) / min(loss, reference)
    return f"{ratio:.{0 if ratio >= 10 else 1}f}× {'below' if loss < reference else 'above'}"


def _spread(values: np.ndarray, *, percent: bool = False) -> str:
    """Mean ± standard deviation over seeds; how many diverged, if any did."""
    finite = np.isfinite(values)
    if not finite.all():
        return f"diverged ({np.sum(~finite)} of {values.size})"
    numbers = [values.mean(), values.std(ddof=1)] if values.size > 1 else [values.mean()]
    if percent:
        return f"{numbers[0]:.1%}" + "".join(f" ± {100 * x:.1f}" for x in numbers[1:])
    return " ± ".join(f"{x:.3f}" if x >= 0.01 or x == 0 else rate_text(float(f"{x:.1e}")) for x in numbers)


def _score(values: np.ndarray) -> str:
    """Mean speedup over seeds; how many seeds reached the reference, if not all did."""
    if np.isnan(values).any():
        return "–"
    reached = int(np.sum(values > 0))
    if reached == 0:
        return "never"
    return f"{values.mean():.2f}" + ("" if reached == values.size else f" (on {reached} of {values.size})")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>celo race</title>
<style>
:root {{ --paper: #fff; --ink: #1f2328; --soft: #59616b; --line: #d9dde3; --celo: #c24e00 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #15171c; --ink: #e4e6ea; --soft: #9aa1ab; --line: #31353d; --celo: #ff8c42 }}
}}
body {{ background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 2.5rem auto; max-width: 76rem; padding: 0 1.25rem }}
h1 {{ font-size: 1.6rem; line-height: 1.25; text-wrap: balance }}
img {{ display: block; height: auto; width: 100% }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; width: 100% }}
th, td {{ border-bottom: 1px solid var(--line); padding: .45rem .8rem; text-align: right }}
th {{ color: var(--soft); font-weight: 500 }}
th:first-child, td:first-child {{ text-align: left }}
.learned td {{ color: var(--celo); font-weight: 650 }}
p {{ color: var(--soft) }}
code {{ background: color-mix(in srgb, var(--line) 45%, transparent); border-radius: .3rem;
  padding: .15rem .4rem }}
</style>
</head>
<body>
<h1>{headline}</h1>
<picture>
<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">
<img alt="Training loss against steps, and final loss against learning rate; the table has the numbers"
  src="data:image/png;base64,{light}">
</picture>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
<p>{caption}</p>
<p>Again: <code>{command}</code></p>
<p><small>{facts}</small></p>
</body>
</html>
"""
