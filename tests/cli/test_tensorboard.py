"""`celo train --log tensorboard`: curves beside the log of a run, if the package is there."""

import sys

import pytest

from celo._errors import CeloError
from celo.cli import main
from celo.cli._tensorboard import FOLDER, curves, row_writer

ROW = {
    "phase": "rule",
    "outer_step": 10,
    "meta_loss": 0.5,
    "tasks": {"mnist": 0.25, "own:task": 2.0},
    "gradient_norm": 1.0,
    "nonfinite_fraction": 0.0,
    "inner_steps_per_second": 3000.0,
    "seconds": 1.0,
}


def test_a_row_is_a_point_of_each_curve():
    assert curves(ROW) == {
        "rule/meta_loss": 0.5,
        "rule/gradient_norm": 1.0,
        "rule/nonfinite_fraction": 0.0,
        "rule/inner_steps_per_second": 3000.0,
        "rule/loss/mnist": 0.25,
        "rule/loss/own_task": 2.0,
    }


def test_without_a_log_there_is_nothing_to_tell(tmp_path):
    with row_writer(None, tmp_path) as write:
        assert write is None


def test_an_unknown_log_and_a_missing_package_are_said_before_anything_is_made(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with pytest.raises(CeloError, match="unknown log 'tensorbord'; known, nearest first: tensorboard"):
        row_writer("tensorbord", run).__enter__()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    words = ["train", "--tasks", "quadratic", "--kernel", "xla", "--log", "tensorboard", "--out", str(run)]
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(
        "celo: --log tensorboard needs tensorboardX: pip install 'celo[tensorboard]'\n"
    )
    assert not run.exists()


def test_rows_become_points_in_the_folder_of_the_run(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs celo[tensorboard]")
    with row_writer("tensorboard", tmp_path / "run") as write:
        assert not (tmp_path / "run").exists()
        write(ROW)
        write({**ROW, "outer_step": 20, "meta_loss": 0.25})
    [file] = (tmp_path / "run" / FOLDER).iterdir()
    assert "tfevents" in file.name
    read = pytest.importorskip("tensorboardX.proto.event_pb2", reason="reads what was written")
    points = [
        (value.tag, event.step, value.simple_value)
        for event in map(read.Event.FromString, _records(file.read_bytes()))
        for value in event.summary.value
    ]
    assert ("rule/meta_loss", 10, 0.5) in points
    assert ("rule/meta_loss", 20, 0.25) in points
    assert ("rule/loss/own_task", 20, 2.0) in points


def _records(data):
    """Of a TFRecord file: length (8 bytes), its checksum (4), as many bytes, their checksum (4)."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]
