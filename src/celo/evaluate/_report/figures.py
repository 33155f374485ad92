"""Charts of a leaderboard, made with Altair: the same for the page as for the PNG and SVG files.

Who stands in which colour is told by two parameters of a chart, `shown` (contestants) and `inks` (their
colours, in the same order); all others are in grey behind. On the page a script changes them, and the rows.
"""

import importlib.util
from typing import Any, NamedTuple

from celo._errors import CeloError
from celo._plotting import Look, Slot
from celo.evaluate._report import rows
from celo.evaluate._report.tables import colours
from celo.evaluate._score.leaderboard import Leaderboard

SCORE_TITLES = {
    "ratio": "loss ratio",
    "ratio_clock": "loss ratio at equal time",
    "early": "early speedup",
    "speedup": "speedup",
    "clock": "speedup in time",
}
PROFILE_TITLES = {
    "ratio": "runs with a loss ratio of at least …",
    "ratio_clock": "runs with a loss ratio at equal time of at least …",
    "early": "runs with an early speedup of at least …",
    "speedup": "runs with a speedup of at least …",
    "clock": "runs with a speedup in time of at least …",
    "target": "tasks solved within … of the fewest steps",
    "target_clock": "tasks solved within … of the shortest time",
}
_LETTER = 14  # pixels between the baselines of two labels
_DASHES = [4, 3]

Ends = tuple[Any, Any]  # numbers, or the names of parameters


class Frame(NamedTuple):
    """What a chart is drawn in.

    Attributes:
      look: its colours.
      width: pixels, or "container".
      height: pixels, of a row where rows are contestants or tasks.
      live: on a page, where a pointer can ask for names and values.
      named: lines have names at their ends.
    """

    look: Look
    width: int | str
    height: int
    live: bool
    named: bool = True


def require_altair() -> None:
    """Raise CeloError if charts cannot be drawn."""
    if None in map(importlib.util.find_spec, ("altair", "vl_convert")):
        raise CeloError(
            "reports need Altair and vl-convert, which are not installed; pip install 'celo[plots]'"
        )


def rates_legend(board: Leaderboard) -> str:
    """What a chart of `rates` is made of; a race runs every rate to the end, in one rung."""
    rungs = max(len(entry.record.rung_steps) for one in board.standings for entry in one.entries.values())
    if rungs > 1:
        return "lines: every rate, early on; dots: the best, at the end; ring: the chosen one; level: untuned"
    return "lines: every rate, at the end; ring: the chosen one; level: untuned"


# One chart each. Limits are numbers, or the names of parameters that a page sets.


def curves(data: Any, frame: Frame, *, limits: Ends, last_step: Any) -> Any:
    """`rows.curve_rows`: losses against steps, the mean in front of the range; × where a seed diverged."""
    import altair as alt

    low, high = limits
    base = _unfolded(data, "x", "value", "below", "above").transform_calculate(
        low="isValid(datum.value) ? datum.value * (1 - datum.below / 1000) : null",
        high="isValid(datum.value) ? datum.value * (1 + datum.above / 1000) : null",
    )
    axis = alt.Axis(tickCount=5 if frame.named else 2, format=",d", grid=False)
    x = alt.X("x:Q", title="step", scale=_scale(0, last_step), axis=axis)
    y = _loss_axis(low, high)
    height = f"{frame.height} * log({high} / datum.value) / log({high} / {low})"
    mean = base.transform_filter("datum.kind == 'mean'")
    lost = base.transform_filter(f"datum.kind == 'lost' && datum.value <= {high}")
    crosses = lost.mark_point(shape="cross", angle=45, size=60, filled=True, opacity=1)
    crosses = crosses.encode(x, y, color=_ink(frame), tooltip=_tooltip(x="diverged after step"))
    layers = [*_lines(mean, x, y, frame, height, top=high), crosses]
    return alt.layer(*layers).properties(width=frame.width, height=frame.height)


def rates(data: Any, frame: Frame, *, limits: Ends, span: Ends) -> Any:
    """`rows.rate_rows`: lines for every rate early on, dots for the best at the end, rings for the chosen."""
    import altair as alt

    base = _unfolded(data, "x", "value")
    axis = alt.Axis(tickCount=4, format="~e", grid=False)
    x = alt.X("x:Q", title="learning rate", scale=_scale(*span, type="log"), axis=axis)
    y, ink = _loss_axis(*limits), _ink(frame)
    tooltip = _tooltip(x="learning rate", value="training loss")
    single = "contestant:N"

    def kind(name: str, *, front: bool) -> Any:
        return base.transform_filter(f"datum.kind == '{name}' && datum.place {'>=' if front else '<'} 0")

    layers = []
    for front in (False, True):
        level = kind("level", front=front).mark_rule(strokeWidth=2 if front else 1, clip=front)
        # What is grey is held below the top, what is in colour is cut there: cutting is slow.
        early = kind("early", front=front).transform_calculate(
            value="datum.value" if front else f"min(datum.value, {limits[1]})"
        )
        early = early.mark_line(strokeWidth=1.7 if front else 0.8, opacity=0.75, clip=front)
        final = kind("final", front=front).transform_filter(f"datum.value <= {limits[1]}")
        final = final.mark_circle(size=40 if front else 14, opacity=1)
        layers += [
            level.encode(y, color=ink, tooltip=_tooltip(value="training loss")),
            early.encode(x, y, color=ink, detail=single),
            final.encode(x, y, color=ink, tooltip=tooltip),
        ]
    chosen = kind("chosen", front=True).mark_point(size=90, fill=frame.look.paper, strokeWidth=2, opacity=1)
    lost = kind("lost", front=True).mark_point(shape="cross", angle=45, size=45, filled=True, opacity=1)
    lost_at = _tooltip(x="diverged at learning rate")
    layers.append(chosen.encode(x, y, color=ink, tooltip=tooltip))
    layers.append(lost.encode(x, y=alt.value(0), color=ink, tooltip=lost_at))
    return alt.layer(*layers).properties(width=frame.width, height=frame.height)


def profiles(data: Any, frame: Frame, *, span: Ends) -> Any:
    """`rows.profile_rows`: shares of runs or tasks against a score, with 95% intervals; dashes at 1."""
    import altair as alt

    base = _unfolded(data, "x", "value", "low", "high")
    x = alt.X("x:Q", title=None, scale=_scale(*span), axis=alt.Axis(tickCount=6, grid=False))
    y = alt.Y("value:Q", title=None, scale=_scale(0, 1.02), axis=alt.Axis(format="%", tickCount=5))
    at_one = alt.Chart(alt.InlineData([{"x": 1}])).mark_rule(color=frame.look.soft, strokeDash=_DASHES)
    lines = _lines(base, x, y, frame, f"{frame.height} * (1 - datum.value / 1.02)", what="share", form=".0%")
    return alt.layer(at_one.encode(alt.X("x:Q")), *lines).properties(width=frame.width, height=frame.height)


def standings(data: Any, frame: Frame, *, limits: Ends, order: list[str] | str, named: bool = True) -> Any:
    """`rows.score_rows`: a dot and its 95% interval for each contestant; dashes where the reference stands.

    `order` is a list of contestants, or the name of a parameter that holds it.
    """
    import altair as alt

    base = alt.Chart(data).transform_calculate(**_COLOUR)
    axis = alt.Axis(title=None, domain=False, ticks=False, labelColor=frame.look.ink, labelPadding=8)
    domain = alt.ExprRef(order) if isinstance(order, str) else order
    y_scale = alt.Scale(domain=domain, paddingInner=0, paddingOuter=0)
    y = alt.Y("contestant:N", scale=y_scale, sort=None, axis=axis if named else None)
    x = _scale(*limits, clamp=True)
    grid = alt.Axis(tickCount=4, gridOpacity=0.35, domain=False, ticks=False)
    value = alt.X("value:Q", title=None, scale=x, axis=grid)
    one = alt.Chart(alt.InlineData([{"value": 1}])).mark_rule(color=frame.look.soft, strokeDash=_DASHES)
    band = base.mark_rule(strokeWidth=7, opacity=0.35, strokeCap="round")
    dots = base.mark_circle(size=90, opacity=1)
    return alt.layer(
        one.encode(alt.X("value:Q")),
        band.encode(alt.X("low:Q"), y, alt.X2("high:Q"), color=_ink(frame)),
        dots.encode(value, y, color=_ink(frame), tooltip=_tooltip(value="score", low="from", high="to")),
    ).properties(width=frame.width, height=alt.Step(frame.height))


def tasks(data: Any, frame: Frame, *, board: Leaderboard, turned: bool = False) -> Any:
    """`rows.task_rows`: numbers on colour, orange for better than the reference and blue for worse.

    Turned, for a narrow page, rows are tasks, and only those in colour have columns.
    """
    import altair as alt

    contestants = [one.contestant for one in board.standings]
    base = _unfolded(data, "task", "value", "text").transform_calculate(
        # Twice as fast is as far from level as half as fast.
        far="isValid(datum.value) ? clamp(log(max(datum.value, 0.001)) / log(4), -1, 1) : 0",
        # What never got there is many on a large board, and of least interest.
        depth="datum.value === 0 ? 0.16 : 0.62 * abs(datum.far)",
    )
    side = {
        "title": None,
        "domain": False,
        "ticks": False,
        "labelColor": frame.look.ink,
        "labelOverlap": False,
    }
    left = alt.Axis(labelPadding=6, labelLimit=112 if turned else 220, **side)
    top = alt.Axis(orient="top", labelAngle=-90 if turned else -40, labelLimit=220, **side)
    if turned:
        base = base.transform_filter("datum.place >= 0")
        x = alt.X(
            "contestant:N", scale=alt.Scale(domain=alt.ExprRef("shown"), padding=0), sort=None, axis=top
        )
        y = alt.Y("task:N", scale=alt.Scale(domain=list(board.tasks), padding=0), sort=None, axis=left)
    else:
        x = alt.X("task:N", scale=alt.Scale(domain=list(board.tasks), padding=0), sort=None, axis=top)
        y = alt.Y("contestant:N", scale=alt.Scale(domain=contestants, padding=0), sort=None, axis=left)
    fill = alt.condition("datum.far > 0", alt.value(frame.look.celo), alt.value(frame.look.others[0]))
    depth = alt.Opacity("depth:Q", scale=None, legend=None)
    shade = alt.condition("datum.value === 0", alt.value(frame.look.soft), alt.value(frame.look.ink))
    return alt.layer(
        base.mark_rect().encode(x, y, color=fill, opacity=depth, tooltip=_tooltip(task="task", text="score")),
        base.mark_text(fontSize=9.5 if turned else 11).encode(x, y, text="text:N", color=shade),
    ).properties(width=frame.width, height=alt.Step(frame.height))


def costs(data: Any, frame: Frame, *, board: Leaderboard) -> Any:
    """`rows.cost_rows`: speedup against the cost of a step; above the line the gain is worth its price."""
    import altair as alt

    (low, high), top = rows.cost_range(rows.cost_rows(board))
    base = alt.Chart(data).transform_calculate(**_COLOUR)
    axis = alt.Axis(grid=False, labelExpr="datum.label + '×'", tickCount=6)
    title = f"time of a step, in steps of {board.reference} (median task)"
    x = alt.X("x:Q", title=title, scale=_scale(low, high), axis=axis)
    y = alt.Y("value:Q", title=None, scale=_scale(0, top), axis=alt.Axis(tickCount=5))
    level = alt.InlineData([{"x": low, "value": low}, {"x": high, "value": high}])
    line = alt.Chart(level).mark_line(color=frame.look.soft, strokeWidth=1, strokeDash=_DASHES, clip=True)
    behind, front = (base.transform_filter(f"datum.place {sign} 0") for sign in ("<", ">="))
    ink, tooltip = _ink(frame), _tooltip(x="cost of a step", value="speedup, IQM", low="from", high="to")
    band = front.mark_rule(strokeWidth=5, opacity=0.3, strokeCap="round")
    names = _spread(front, f"{frame.height} * (1 - datum.value / {top})", frame)
    names = names.mark_text(align="left", dx=11, fontWeight=500)
    return alt.layer(
        line.encode(alt.X("x:Q"), alt.Y("value:Q")),
        band.encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=ink),
        behind.mark_circle(size=50, opacity=1).encode(x, y, color=ink, tooltip=tooltip),
        front.mark_circle(size=110, opacity=1).encode(x, y, color=ink, tooltip=tooltip),
        names.encode(x, y=alt.value(alt.ExprRef("datum.at")), text="contestant:N", color=ink),
    ).properties(width=frame.width, height=frame.height)


# Parts


_COLOUR = {"place": "indexof(shown, datum.contestant)", "ink": "inks[datum.place]"}


def _unfolded(data: Any, *fields: str) -> Any:
    """A chart of rows whose lists are unfolded, each with its colour; `place` is -1 in the background."""
    import altair as alt

    return alt.Chart(data).transform_flatten(list(fields)).transform_calculate(**_COLOUR)


def _ink(frame: Frame) -> Any:
    """A mark's colour: its contestant's, or grey."""
    import altair as alt

    return alt.condition("datum.place >= 0", alt.Color("ink:N", scale=None), alt.value(frame.look.grid))


def _scale(low: Any, high: Any, **settings: Any) -> Any:
    """A scale with these ends."""
    import altair as alt

    if settings.get("type") != "log":
        settings["zero"] = False
    fixed = all(isinstance(end, int | float) for end in (low, high))
    return alt.Scale(domain=[low, high] if fixed else alt.ExprRef(f"[{low}, {high}]"), nice=False, **settings)


def _loss_axis(low: Any, high: Any) -> Any:
    import altair as alt

    axis = alt.Axis(tickCount=5, format="~g", labelOverlap=True)
    return alt.Y("value:Q", title=None, scale=_scale(low, high, type="log"), axis=axis)


def _tooltip(**titles: str) -> Any:
    """The contestant, and these fields under these titles."""
    import altair as alt

    told = [alt.Tooltip("contestant:N")]
    for name, title in titles.items():
        if name in ("task", "text"):
            told.append(alt.Tooltip(name, type="nominal", title=title))
        else:
            form = "~e" if "rate" in title else ",.4~g"
            told.append(alt.Tooltip(name, type="quantitative", title=title, format=form))
    return told


def _lines(
    base: Any,
    x: Any,
    y: Any,
    frame: Frame,
    height: str,
    *,
    what: str = "loss",
    form: str = ".4~g",
    top: Any = 1,
) -> list[Any]:
    """Grey lines behind; in front the coloured ones, each before its band and beside its name.

    Args:
      base: a chart of points, by `contestant`.
      x: encoding; so is `y`.
      frame: where.
      height: expression for the pixels between the top and a datum.
      what: `y` in a tooltip; `form` is its format.
      top: of `y`; what lies above does not show.
    """
    import altair as alt

    ink, single = _ink(frame), "contestant:N"
    behind, front = (base.transform_filter(f"datum.place {sign} 0") for sign in ("<", ">="))
    # What is grey is held below the top, what is in colour is cut there: cutting is slow.
    behind = behind.transform_calculate(value=f"isValid(datum.value) ? min(datum.value, {top}) : null")
    band = front.mark_area(opacity=0.13, clip=True)
    layers = [
        behind.mark_line(strokeWidth=1, color=frame.look.grid).encode(x, y, detail=single),
        band.encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=ink, detail=single),
        front.mark_line(strokeWidth=2.2, clip=True).encode(x, y, color=ink, detail=single),
    ]
    if frame.named:
        ends = (
            front.transform_filter("isValid(datum.value)")
            .transform_window(
                last="rank()", groupby=["contestant"], sort=[alt.SortField("x", order="descending")]
            )
            .transform_filter("datum.last == 1")
        )
        names = _spread(ends, height, frame).mark_text(align="left", dx=6, fontWeight=500)
        layers.append(
            names.encode(
                x=alt.value("width"), y=alt.value(alt.ExprRef("datum.at")), text=_label(frame), color=ink
            )
        )
    if frame.live:
        # The line nearest to the pointer, in ink, and its values there.
        near = alt.selection_point(
            name="near",
            on="pointermove",
            clear="pointerout",
            nearest=True,
            fields=["contestant"],
            empty=False,
        )
        told = [
            alt.Tooltip(single),
            alt.Tooltip("x:Q", title="at", format=",.4~g"),
            alt.Tooltip("value:Q", title=what, format=form),
        ]
        points = base.transform_filter(f"isValid(datum.value) && datum.value <= {top}").mark_point(
            opacity=0, size=30
        )
        strong = base.transform_filter(near).mark_line(strokeWidth=3, color=frame.look.ink, clip=True)
        layers += [strong.encode(x, y, detail=single), points.encode(x, y, tooltip=told).add_params(near)]
    return layers


def _label(frame: Frame) -> Any:
    """Names beside lines; on a narrow page the legend above has them."""
    import altair as alt

    return (
        alt.value(alt.ExprRef("containerSize()[0] < 560 ? '' : datum.contestant"))
        if frame.live
        else "contestant:N"
    )


def _spread(ends: Any, height: str, frame: Frame) -> Any:
    """`at`: the height of a label in pixels from the top, at its line's but never on top of another.

    A label that would cover the one above moves down: at least to that one's height and a letter, and so on
    from the topmost, which is a running maximum. Those pushed below the chart stand on its floor.
    """
    import altair as alt

    order = [alt.SortField("wanted")]
    return (
        ends.transform_calculate(wanted=f"clamp({height}, 0, {frame.height})")
        .transform_window(row="row_number()", sort=order)
        .transform_calculate(free=f"datum.wanted - {_LETTER} * datum.row")
        .transform_window(pushed="max(free)", sort=order, frame=[None, 0])
        .transform_joinaggregate(count="count()")
        .transform_calculate(
            floor=f"{frame.height} - {_LETTER} * (datum.count - datum.row)",
            at=f"min(datum.pushed + {_LETTER} * datum.row, datum.floor)",
        )
    )


def as_vega_lite(
    chart: Any, board: Leaderboard, look: Look, *, font: str, background: str = "transparent"
) -> dict[str, Any]:
    """The chart as Vega-Lite, with its type and colours, and the parameters `shown` and `inks`."""
    import altair as alt

    front = {name: slot for name, slot in colours(board).items() if slot != Slot.BACKGROUND}
    chart = chart.add_params(
        alt.param(name="shown", value=list(front)),
        alt.param(name="inks", value=[look.line(slot) for slot in front.values()]),
    )
    spec = chart.to_dict(validate=False)  # each part was validated when it was made
    spec["background"] = background
    spec["config"] = {
        "font": font,
        "aria": False,  # thousands of marks; the tables have the numbers
        "view": {"stroke": None},
        "text": {"fontSize": 12},
        "title": {
            "color": look.soft,
            "anchor": "start",
            "frame": "group",
            "fontSize": 12,
            "fontWeight": "normal",
        },
        "axis": {
            **{f"{part}Color": look.grid for part in ("domain", "tick", "grid")},
            **{f"{part}Color": look.soft for part in ("label", "title")},
            **{"labelFontSize": 11.5, "titleFontSize": 11.5, "titleFontWeight": "normal"},
            **{"gridOpacity": 0.35, "titlePadding": 8, "tickSize": 4},
        },
    }
    return spec


def vega_lite_version() -> str:
    """The version of Vega-Lite that Altair writes, as vl-convert names it: "6.4"."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
