"""`python -m celo` is the command `celo`."""

import subprocess
import sys

import celo


def run(*words):
    return subprocess.run([sys.executable, "-m", "celo", *words], capture_output=True, text=True)


def test_it_runs_commands():
    done = run("--version")
    assert done.returncode == 0, done.stderr
    assert celo.__version__ in done.stdout


def test_it_exits_as_the_command_does():
    done = run("info", "no_such_thing")
    assert done.returncode != 0
    assert "no_such_thing" in done.stderr
    assert "Traceback" not in done.stderr
