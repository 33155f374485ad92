"""Words at the shell's prompt."""

import os
import subprocess
import sys
import types

import pytest

from celo.cli import _completion, make_parser
from celo.cli._completion import complete, names


def test_names_are_those_that_an_argument_takes():
    assert {"celo", "adam", "baselines"} <= set(names("contestants"))
    assert {"quick", "laptop"} <= set(names("recipe"))
    assert "quadratic" in names("tasks")
    assert {"celo", "quadratic", "adam", "quick", "pes"} <= set(names("name"))
    assert names("steps") == []
    options = {action.dest for parser in make_parser()[1].values() for action in parser._actions}
    for dest in ("contestants", "estimator", "name", "names", "optimizer", "recipe", "rule_tasks", "suite"):
        assert names(dest)
        assert dest in options  # no name of an option that is gone


def test_only_a_shell_that_asks_is_answered(monkeypatch):
    asked = []
    stand_in = types.SimpleNamespace(
        FilesCompleter=lambda: lambda prefix, **rest: [prefix + "file"],
        autocomplete=lambda parser, default_completer: asked.append(default_completer),
    )
    monkeypatch.setitem(sys.modules, "argcomplete", stand_in)
    complete(make_parser()[0])
    assert not asked
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    complete(make_parser()[0])
    action = types.SimpleNamespace(dest="suite")
    assert asked[0]("la", action, parser=None) == [*names("suite"), "lafile"]
    monkeypatch.setitem(sys.modules, "argcomplete", None)  # of another environment than the shell's
    complete(make_parser()[0])
    assert _completion.names("suite")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "word"),
    [("celo ra", "race"), ("celo train --recipe qu", "quick"), ("celo race --tasks quadr", "quadratic")],
)
def test_the_shell_gets_its_words(line, word, tmp_path):
    pytest.importorskip("argcomplete", reason="needs celo[completion]")
    answer = tmp_path / "answer"
    asking = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\v"}
    asking |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    subprocess.run([sys.executable, "-m", "celo"], env={**os.environ, **asking}, check=True)
    assert answer.read_text().split("\v") == [word]
