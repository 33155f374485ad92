"""Long commands at a terminal: bars that show how far they are, and Ctrl-C that stops them in good order.

The library tells its progress to a function it is given and asks another one whether to stop; here those two
functions are made.
"""

import codecs
import importlib
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.text import Text

from celo._types import Progress
from celo.cli._settings import INTERRUPTED


def plain_console(*, quiet: bool = False) -> Console:
    """A terminal that shows what users name as they wrote it: [x] and :x: are no markup."""
    return Console(quiet=quiet, markup=False, emoji=False)


_ASCII = {
    "θ": "theta",
    "±": "+-",
    "×": "x",
    "…": "...",
    "–": "-",
    "≤": "<=",
    "≥": ">=",
    "²": "^2",
    "σ": "sigma",
}


def _in_words(error: UnicodeError) -> tuple[str, int]:
    """Characters that a terminal does not have, in ones that any has."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in missing), error.end


codecs.register_error("celo.in_words", _in_words)


@contextmanager
def any_terminal() -> Iterator[None]:
    """Output of the block reaches terminals and files of any encoding (ASCII, cp1252), with θ as "theta"."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="celo.in_words")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


class _Bars(rich_progress.Progress):
    details = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.details:
            yield Text(self.details)


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """A `Progress` function that draws one bar for each thing it is told of, as long as the block runs.

    The note's further lines stand below the bars, those of the last thing that was told of.
    A bar appears with the first call for its thing, with the work already done in it: the remaining time is
    estimated from what is done from then on.
    """
    bars = _Bars(
        rich_progress.TextColumn("{task.description}", markup=False),  # [x] in a name stays [x]
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[note]}", markup=False),
        rich_progress.TextColumn("ETA"),
        rich_progress.TimeRemainingColumn(),
        console=console,
        speed_estimate_period=math.inf,  # jobs of an evaluation may be minutes apart
    )
    tasks: dict[str, rich_progress.TaskID] = {}
    show = _in_a_cell(bars) if console.is_jupyter else lambda: None

    def tell(what: str, done: int, total: int, note: str) -> None:
        note, _, bars.details = note.partition("\n")
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, completed=done, note=note)
        bars.update(tasks[what], completed=done, total=total, note=note)
        show()

    with nullcontext() if console.is_jupyter else bars:
        yield tell


def _in_a_cell(bars: _Bars) -> Callable[[], None]:
    """Shows the bars in their place below a notebook's cell; Rich itself needs widgets for that."""
    display = importlib.import_module("IPython.display").display  # every kernel has it
    place: list[Any] = []

    def show() -> None:
        page = Console(file=io.StringIO(), width=100, force_jupyter=False)
        page.print(bars)
        text = {"text/plain": page.file.getvalue()}  # pyright: ignore[reportAttributeAccessIssue]
        if place:
            place[0].update(text, raw=True)
        else:
            place.append(display(text, raw=True, display_id=True))

    return show


_SHOW_CURSOR = b"\x1b[?25h\n"  # progress bars hide it


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT (Ctrl-C) or SIGTERM has come, as long as the block runs.

    The first is answered in a line at once. A second SIGINT ends the process: a computation that still runs
    would crash the interpreter as it takes itself apart. The handlers that were there come back afterwards.
    Only a main thread can have any; in another the answer is always no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        del frame
        if number == signal.SIGINT and number in received:
            os.write(2, _SHOW_CURSOR if os.isatty(2) else b"")
            os._exit(INTERRUPTED)
        if number not in received:
            os.write(2, b"\ncelo: stopping after these steps; Ctrl-C aborts at once\n")
        received.append(number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
