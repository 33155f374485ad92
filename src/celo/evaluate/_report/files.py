"""The charts as PNG and SVG files for papers, on white; of tasks side by side where the page shows one."""

from collections.abc import Callable
from typing import Any

from celo._plotting import LIGHT, Slot
from celo.evaluate._report import figures, rows
from celo.evaluate._report.figures import Frame
from celo.evaluate._report.tables import colours
from celo.evaluate._score.leaderboard import LOSSES, SCORES, TAUS, Leaderboard

_FONT = "DejaVu Sans"
Datasets = dict[str, list[dict[str, Any]]]  # they join a chart at the end: Altair would copy them many times


def draw_all(board: Leaderboard) -> dict[str, bytes]:
    """File name -> contents, PNG and SVG.

    Raises:
      CeloError: without Altair or vl-convert.
    """
    figures.require_altair()
    import vl_convert

    files = {}
    for name, draw in FIGURES.items():
        data: Datasets = {}
        spec = figures.as_vega_lite(draw(board, data), board, LIGHT, font=_FONT, background=LIGHT.paper)
        spec["datasets"] = {**spec.get("datasets", {}), **data}
        svg = vl_convert.vegalite_to_svg(spec, vl_version=figures.vega_lite_version())
        files[f"{name}.svg"] = svg.encode()
        files[f"{name}.png"] = vl_convert.svg_to_png(svg, scale=2)
    return files


def _add(data: Datasets, values: list[dict[str, Any]], **columns: Any) -> Any:
    """Add rows to `data`, and get what a chart calls them; `columns` are shared by all that lack them."""
    import altair as alt

    name = f"rows{len(data)}"
    data[name] = [{**columns, **row} for row in values]
    return alt.NamedData(name)


def _curves_figure(board: Leaderboard, data: Datasets) -> Any:
    def draw(task: str, frame: Frame) -> Any:
        steps, values = rows.curve_steps(board, task), rows.curve_rows(board, task, board.loss)
        return figures.curves(
            _add(data, values, x=steps), frame, limits=rows.curve_range(values), last_step=steps[-1]
        )

    return _by_task(board, f"{LOSSES[board.loss]} loss against steps", draw)


def _rates_figure(board: Leaderboard, data: Datasets) -> Any:
    def draw(task: str, frame: Frame) -> Any:
        values = rows.rate_rows(board, task)
        span, limits = rows.rate_range(board, task, values)
        return figures.rates(
            _add(data, values, x=rows.tried_rates(board, task)), frame, limits=limits, span=span
        )

    return _by_task(board, f"training loss by learning rate; {figures.rates_legend(board)}", draw)


def _by_task(board: Leaderboard, title: str, draw: Any) -> Any:
    """Small charts, one a task, under one legend."""
    import altair as alt

    columns = min(4, len(board.tasks))
    frame = Frame(LIGHT, 1000 // columns - 50, 150 if columns > 1 else 360, live=False, named=columns == 1)
    charts = [draw(task, frame).properties(title=task) for task in board.tasks]
    grid = alt.concat(*charts, columns=columns).resolve_scale(x="independent", y="independent")
    return alt.vconcat(_legend(board), grid, title=title)


def _legend(board: Leaderboard) -> Any:
    """Names in their colours, in a line."""
    import altair as alt

    labels, at = [], 0
    for name, slot in colours(board).items():
        if slot != Slot.BACKGROUND:
            labels.append({"contestant": name, "at": at, "colour": LIGHT.line(slot)})
            at += 28 + 8 * len(name)
    base = alt.Chart(alt.InlineData(labels)).encode(
        x=alt.X("at:Q", scale=alt.Scale(domain=[0, 1000]), axis=None), color=alt.Color("colour:N", scale=None)
    )
    dots, names = base.mark_circle(size=80, opacity=1), base.mark_text(align="left", dx=9)
    return alt.layer(dots, names.encode(text="contestant:N")).properties(width=1000, height=14)


def _profiles_figure(board: Leaderboard, data: Datasets) -> Any:
    import altair as alt

    charts = []
    for kind in ("ratio", "speedup", "target"):
        taus = rows.plain(TAUS[kind])
        frame = Frame(LIGHT, 270, 230, live=False)
        chart = figures.profiles(
            _add(data, rows.profile_rows(board, kind), x=taus), frame, span=(taus[0], taus[-1])
        )
        charts.append(chart.properties(title=figures.PROFILE_TITLES[kind]))
    return alt.hconcat(*charts).resolve_scale(x="independent")


def _standings_figure(board: Leaderboard, data: Datasets) -> Any:
    import altair as alt

    charts = []
    for i, kind in enumerate(SCORES):
        values = rows.score_rows(board, kind)
        order, limits = [one.contestant for one in board.standings], rows.score_range(values)
        frame = Frame(LIGHT, 200, 17, live=False)
        chart = figures.standings(_add(data, values), frame, limits=limits, order=order, named=i == 0)
        charts.append(chart.properties(title=f"{figures.SCORE_TITLES[kind]}, IQM"))
    return alt.hconcat(*charts).resolve_scale(x="independent", y="shared")


def _tasks_figure(board: Leaderboard, data: Datasets) -> Any:
    frame = Frame(LIGHT, 46 * len(board.tasks), 22, live=False)
    chart = figures.tasks(_add(data, rows.task_rows(board, "speedup")), frame, board=board)
    return chart.properties(title=f"speedup in steps over {board.reference}, mean of seeds")


def _costs_figure(board: Leaderboard, data: Datasets) -> Any:
    chart = figures.costs(_add(data, rows.cost_rows(board)), Frame(LIGHT, 520, 340, live=False), board=board)
    return chart.properties(title="speedup in steps, IQM")


FIGURES: dict[str, Callable[[Leaderboard, Datasets], Any]] = {
    "leaderboard": _standings_figure,
    "profiles": _profiles_figure,
    "curves": _curves_figure,
    "rates": _rates_figure,
    "tasks": _tasks_figure,
    "clock": _costs_figure,
}
