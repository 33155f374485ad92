"""Bars and signals at a terminal."""

import io
import re
import signal
import subprocess
import sys
import threading
import types

import pytest
from rich.console import Console
from rich.table import Table

from celo.cli._console import any_terminal, plain_console, progress_bars, stop_requests


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def last_lines(terminal, count):
    """What stands there at the end, without the codes that move the cursor."""
    text = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", terminal.file.getvalue())
    return text.replace("\r", "\n").rstrip().splitlines()[-count:]


def test_a_bar_shows_what_is_done_of_how_much_and_a_note(terminal):
    with progress_bars(terminal) as tell:
        tell("phase 1: rule", 0, 40, "compiling")
        tell("phase 1: rule", 30, 40, "meta-loss 0.5")
    [line] = last_lines(terminal, 1)
    assert line.startswith("phase 1: rule")
    assert "30/40" in line
    assert "meta-loss 0.5" in line
    assert "compiling" not in line


def test_further_lines_of_a_note_stand_below_the_bars(terminal):
    with progress_bars(terminal) as tell:
        tell("phase 1: rule", 10, 40, "meta-loss 0.5\ntraining loss: one 2")
        tell("phase 2: scheduler", 30, 40, "meta-loss 0.25\ntraining loss: one 0.1, [x] 0.2")
    first, second, below = last_lines(terminal, 3)
    assert "meta-loss 0.5" in first
    assert "meta-loss 0.25" in second
    assert below.strip() == "training loss: one 0.1, [x] 0.2"


def test_a_notebook_shows_bars_in_their_place_without_widgets(monkeypatch):
    """A stand-in for IPython: what a cell shows first, and what takes its place."""
    shown = []

    class Place:
        def update(self, text, raw):
            assert raw
            shown.append(text["text/plain"])

    def display(text, raw, display_id):
        assert raw
        assert display_id
        shown.append(text["text/plain"])
        return Place()

    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    with progress_bars(Console(file=io.StringIO(), force_jupyter=True)) as tell:
        tell("phase 1: rule", 0, 40, "compiling")
        tell("phase 1: rule", 30, 40, "meta-loss 0.5\ntraining loss: one 2")
    assert len(shown) == 2
    assert "0/40" in shown[0]
    bar, details = shown[1].splitlines()
    assert "30/40" in bar
    assert "meta-loss 0.5" in bar
    assert details.strip() == "training loss: one 2"


def test_each_thing_has_a_bar_of_its_own_and_the_total_may_change(terminal):
    with progress_bars(terminal) as tell:
        tell("one", 1, 2, "")
        tell("two", 5, 6, "")
        tell("one", 2, 9, "")
    one, two = last_lines(terminal, 2)
    assert (one.split()[0], two.split()[0]) == ("one", "two")
    assert "2/9" in one
    assert "5/6" in two


def test_what_users_name_is_not_taken_for_markup(terminal):
    with progress_bars(terminal) as tell:
        tell("mine[bold]", 1, 2, "on [/x] task")
    [line] = last_lines(terminal, 1)
    assert "mine[bold]" in line
    assert "on [/x] task" in line


def test_a_plain_console_shows_words_and_tables_as_they_are(capsys):
    console, table = plain_console(), Table("name")
    table.add_row("mine[v2] :smile:")
    console.print(table, "a[/x]")
    shown = capsys.readouterr().out
    assert "mine[v2] :smile:" in shown
    assert "a[/x]" in shown
    plain_console(quiet=True).print("nothing")
    assert capsys.readouterr().out == ""


HANDLED = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", HANDLED, ids=lambda number: number.name)
def test_a_signal_asks_to_stop_and_is_answered_at_once(number, capfd):
    with stop_requests() as should_stop:
        assert not should_stop()
        for _ in range(1 if number == signal.SIGINT else 2):
            signal.raise_signal(number)
        assert should_stop()
    assert capfd.readouterr().err == "\ncelo: stopping after these steps; Ctrl-C aborts at once\n"


def test_a_second_interrupt_ends_the_process_at_once():
    code = (
        "import signal\n"
        "from celo.cli._console import stop_requests\n"
        "with stop_requests():\n"
        "    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):\n"
        "        print(number.name, flush=True)\n"
        "        signal.raise_signal(number)\n"
        "    print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "SIGTERM\nSIGINT\nSIGINT\n")


def test_the_handlers_that_were_there_come_back_whatever_happens():
    before = [signal.getsignal(number) for number in HANDLED]
    with stop_requests():
        assert [signal.getsignal(number) for number in HANDLED] != before
    assert [signal.getsignal(number) for number in HANDLED] == before
    with pytest.raises(ZeroDivisionError), stop_requests():
        _ = 1 / 0
    assert [signal.getsignal(number) for number in HANDLED] == before


@pytest.mark.parametrize(("encoding", "text"), [("ascii", b"theta +- ?\n"), ("cp1252", b"theta \xb1 ?\n")])
def test_a_terminal_of_any_encoding_gets_words(encoding, text, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    monkeypatch.setattr("sys.stdout", terminal)
    with any_terminal():
        print("θ ± ☃", flush=True)
    assert terminal.buffer.getvalue() == text
    with pytest.raises(UnicodeEncodeError):  # as it was before
        print("☃", flush=True)
    monkeypatch.undo()


def test_there_are_no_signals_outside_the_main_thread():
    answers = []

    def work():
        with stop_requests() as should_stop:
            answers.append(should_stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
