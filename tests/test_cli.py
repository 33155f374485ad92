"""The command line: what it accepts, and that a user's mistake is one line and never a traceback."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celo import __version__
from celo.cli import main

COMMANDS = ("train", "race", "evaluate", "report", "data", "convert", "info")
MISTAKES = {
    "tarin": ["'tarin'", "nearest first: train"],
    "train --recipe qiuck": ["'qiuck'", "nearest first: quick"],
    "train --ruel-steps 3": ["'--ruel-steps'", "nearest first: --rule-steps"],
    "train --rule-steps many": ["--rule-steps", "'many'"],
    "train --rule-steps 0": ["--rule-steps", "0"],
    "train --horizon-max 10": ["--horizon-max", "10"],
    "train --tasks digits": ["'digits'", "nearest first: digits_"],
    "train --augmentation tensors": ["'tensors'", "nearest first: tensor"],
    "train --kernel natve": ["'natve'", "nearest first: native"],
    "train --checkpoint-seconds 0": ["--checkpoint-seconds", "0"],
    "train --resume no/such/run": ["no/such/run"],
    "train --resume runs --seed 1": ["--resume"],
    "race --task digit_mlp": ["'digit_mlp'", "nearest first: digits_"],
    "race adm": ["'adm'", "nearest first: adam"],
    "race --steps 0": ["--steps", "0"],
    "race --seeds 0": ["--seeds", "0"],
    "race no/such.safetensors": ["no/such.safetensors"],
    "race cello": ["'cello'", "celo"],
    "race --kernel natve": ["'natve'", "nearest first: native"],
    "race --optimizers adam": ["'--optimizers'", "option of `celo race`"],
    "evaluate": ["CONTESTANT"],
    "evaluate celo --suite labtop": ["'labtop'", "nearest first: laptop"],
    "evaluate celo --suite laptop --tasks digits_conv": ["'digits_conv'"],
    "evaluate celo --import mymodule": ["'mymodule'"],
    "evaluate celo --seeds 0": ["--seeds", "0"],
    "evaluate celo --steps 0": ["--steps", "0"],
    "report no/such/records": ["no/such/records"],
    "report . --smoothing 1": ["--smoothing", "1"],
    "data fetch mnits": ["'mnits'", "nearest first: mnist"],
    "data burn": ["'burn'"],
    "convert": ["source"],
    "convert no.state out.safetensors": ["no.state"],
    "info cello": ["'cello'"],
    "info --measure": ["--measure", "celo info celo"],
    "info --explain": ["--explain", "celo info celo"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line_that_names_them(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("celo: ")
    assert "Traceback" not in error
    for words in MISTAKES[line]:
        assert words in error
    assert not [path for path in tmp_path.iterdir() if path.name in ("runs", "race", "evaluation")], (
        "work had begun"
    )


def test_the_installed_command_answers():
    """The script that pip made, next to the Python that runs the tests."""
    command = Path(sys.executable).with_name("celo")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"celo {__version__}\n"
    assert not done.stderr
    done = subprocess.run([command, "tarin"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("celo: unknown command 'tarin'")


OUT = (
    "train --recipe quick --kernel xla --tasks quadratic",
    "evaluate adam --tasks quadratic --workers 1",
    "info celo-1 --explain",
)


@pytest.mark.parametrize("line", OUT)
@pytest.mark.parametrize("folder", ["a file", "a folder that takes no files"])
def test_a_folder_that_cannot_be_is_named_in_a_line(line, folder, tmp_path, monkeypatch, capsys):
    if "--explain" in line:
        pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    (tmp_path / "file").write_bytes(b"")
    out = tmp_path / "file" / "out" if folder == "a file" else Path("/proc/celo")
    if not out.parent.exists():
        pytest.skip("needs /proc, where nobody may write")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.chdir(tmp_path)
    assert main([*line.split(), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(out) in error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_a_line(number, monkeypatch, capsys):
    def refuse(name, apt_update):
        raise OSError(number, os.strerror(number), "/data/digits.npz")

    monkeypatch.setattr("celo.data.fetch", refuse)
    assert main(["data", "fetch", "digits"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"celo: /data/digits.npz: {os.strerror(number)}; check")
    assert error.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "line",
    ["--help", *(f"{name} --help" for name in COMMANDS), "info", "info celo", "data list", "tarin θ"],
)
def test_a_terminal_of_any_encoding_can_read_it(line, encoding, monkeypatch):
    terminals = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", terminals[0])
    monkeypatch.setattr("sys.stderr", terminals[1])
    try:
        status = main(line.split())
    except SystemExit as done:
        status = done.code
    finally:
        monkeypatch.undo()
    assert status == (2 if "tarin" in line else 0)
    assert any(terminal.buffer.getvalue() for terminal in terminals)


BROKEN = """
from celo.tasks import Quadratics

class Broken(Quadratics):
    def draw(self, key, count):
        return key + "three"

broken = Broken()
"""


def test_what_fails_in_a_users_own_code_is_one_line_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_task.py").write_text(BROKEN)
    words = ["train", "--tasks", "broken_task:broken", "--kernel", "xla", "--out", "run"]
    try:
        assert main(words) == 1
    finally:
        sys.modules.pop("broken_task", None)
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("celo: TypeError: ")
    assert error.endswith(f"({tmp_path}/broken_task.py:6, in draw)\n")
    assert "Traceback" not in error
