"""An optimizer and a task registered from outside the package go through everything the command line does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy

from celo import weights
from celo.cli import main
from celo.evaluate._report import files, write
from celo.optimizers import OPTIMIZERS

HERE = Path(__file__).parent
RECIPE = (
    *("--optimizer", "toy", "--tasks", "toy:least_squares", "--rule-steps", "20", "--scheduler-steps", "0"),
    *("--rule-start", "normal", "--rule-schedule", "constant", "--imitation-steps", "0"),
    *("--pairs-per-task", "4", "--horizon-min", "50", "--horizon-max", "100", "--warmup-steps", "0"),
)


def celo(*arguments, folder):
    """Runs the command in a process of its own, which knows `toy` by `--import` alone."""
    done = subprocess.run(
        [Path(sys.executable).with_name("celo"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    celo("train", "--import", "toy", "--recipe", "quick", *RECIPE, "--out", "run", folder=folder)
    return folder


def test_it_is_registered_as_ours_are():
    assert OPTIMIZERS["toy"].optimizer is toy.ToyMomentum


def test_it_is_meta_trained(trained):
    rows = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["outer_step"] == 20
    assert rows[-1]["tasks"].keys() == {"line"}
    theta = weights.load(trained / "run" / "theta.safetensors")
    assert theta.metadata["architecture"] == "toy"
    assert theta.theta.keys() == {"toy"}
    assert {name: np.shape(x) for name, x in theta.theta["toy"].items()} == {"log_rate": (), "decay": ()}


@pytest.fixture
def here(trained, monkeypatch):
    """The folder of the training, and a function that runs the command in this process, which knows `toy`."""
    monkeypatch.chdir(trained)
    return trained, lambda *words: main([*words])


def test_its_weights_are_described(here, capsys):
    _, celo_here = here
    assert celo_here("info", "--import", "toy", "run/theta.safetensors") == 0
    text = capsys.readouterr().out
    assert "theta.safetensors: toy, sha256" in text
    assert "toy/log_rate" in text


def test_its_weights_are_converted_and_back(here):
    folder, celo_here = here
    assert celo_here("convert", "--import", "toy", "run/theta.safetensors", "toy.state") == 0
    assert celo_here("convert", "--import", "toy", "toy.state", "back.safetensors") == 0
    there, back = (weights.load(folder / name) for name in ("run/theta.safetensors", "back.safetensors"))
    assert back.metadata["architecture"] == "toy"
    for name, array in weights.flatten(there.theta).items():
        np.testing.assert_array_equal(weights.flatten(back.theta)[name], array)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["info", "convert"])
def test_weights_of_what_only_the_command_imports_are_read(trained, command):
    to = ["elsewhere.state"] if command == "convert" else []
    celo(command, "--import", "toy", "run/theta.safetensors", *to, folder=trained)


@pytest.fixture(scope="module")
def evaluated(trained):
    celo(
        *("evaluate", "run/theta.safetensors", "adam", "--import", "toy", "--tasks", "toy:least_squares"),
        *("--steps", "30", "--seeds", "2", "--workers", "1", "--out", "evaluation"),
        folder=trained,
    )
    return trained


def test_it_is_evaluated_beside_adam(evaluated, here, monkeypatch, capsys):
    monkeypatch.setattr(files, "draw_all", lambda board: {})  # charts take nearly all of a report's time
    monkeypatch.setattr(write, "page", lambda board, headline, caption: headline)
    folder, celo_here = here
    assert celo_here("report", "evaluation", "--out", "report") == 0
    assert "theta" in capsys.readouterr().out
    assert "theta" in (folder / "report" / "leaderboard.md").read_text()


@pytest.mark.slow
def test_its_charts_are_drawn(evaluated):
    assert "theta" in celo("report", "evaluation", "--out", "drawn", folder=evaluated)
    assert "theta" in (evaluated / "drawn" / "figures" / "leaderboard.svg").read_text()
    assert "theta" in (evaluated / "drawn" / "report.html").read_text()
