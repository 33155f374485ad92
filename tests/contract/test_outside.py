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


def test_its_weights_are_described(trained):
    text = celo("info", "--import", "toy", "run/theta.safetensors", folder=trained)
    assert "theta.safetensors: toy, sha256" in text
    assert "toy/log_rate" in text


def test_its_weights_are_converted_and_back(trained):
    celo("convert", "--import", "toy", "run/theta.safetensors", "toy.state", folder=trained)
    celo("convert", "--import", "toy", "toy.state", "back.safetensors", folder=trained)
    there, back = (weights.load(trained / name) for name in ("run/theta.safetensors", "back.safetensors"))
    assert back.metadata["architecture"] == "toy"
    for name, array in weights.flatten(there.theta).items():
        np.testing.assert_array_equal(weights.flatten(back.theta)[name], array)


def test_it_is_evaluated_beside_adam(trained):
    celo(
        *("evaluate", "run/theta.safetensors", "adam", "--import", "toy", "--tasks", "toy:least_squares"),
        *("--steps", "30", "--seeds", "2", "--workers", "1", "--out", "evaluation"),
        folder=trained,
    )
    text = celo("report", "evaluation", "--out", "report", folder=trained)
    assert "theta" in text
    assert (trained / "report" / "report.html").is_file()
