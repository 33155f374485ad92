"""The command line: what it accepts, and that a user's mistake is one line and never a traceback."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from celo import __version__, weights
from celo.cli import main
from celo.meta._recipes import RECIPES, Recipe
from celo.optimizers import Celo


@pytest.fixture
def theta_file(tmp_path):
    path = tmp_path / "theta.safetensors"
    theta = jax.tree.map(np.asarray, Celo().init_theta(jax.random.key(0)))
    weights.save(path, theta, metadata={"architecture": "celo"})
    return path


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


@pytest.mark.parametrize(("command", "config"), [("train", Recipe)])
def test_every_field_is_an_option_with_help(command, config, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in text
        assert field.metadata["help"].split()[0] in text


def test_overrides_reach_the_recipe(tmp_path, monkeypatch):
    from celo.meta import _run as train

    seen = {}

    def start(run, recipe, **settings):
        seen.update(run=run, recipe=recipe)
        raise train.Stopped("enough")

    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setattr(train, "start", start)
    assert main(["train", "--recipe", "celo", "--std", "0.02", "--out", str(tmp_path / "r")]) == 130
    assert seen["run"] == tmp_path / "r"
    assert seen["recipe"] == dataclasses.replace(RECIPES["celo"], std=0.02)


def test_info_shows_weights(theta_file, capsys):
    assert main(["info", str(theta_file)]) == 0
    text = capsys.readouterr().out
    assert weights.load(theta_file).sha256 in text
    assert "update_rule/w0" in text
    assert main(["info"]) == 0
    assert "celo_image_mlps" in capsys.readouterr().out


def test_convert_there_and_back(theta_file, tmp_path, capsys):
    state, again = tmp_path / "theta.state", tmp_path / "again.safetensors"
    assert main(["convert", str(theta_file), str(state)]) == 0
    assert main(["convert", str(state), str(again)]) == 0
    assert "celo" in capsys.readouterr().out
    first, second = (weights.flatten(weights.load(path).theta) for path in (theta_file, again))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_data_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CELO_DATA_DIR", str(tmp_path))
    assert main(["data", "list"]) == 0
    assert "digits" in capsys.readouterr().out


def test_the_installed_command_answers():
    """The script that pip made, next to the Python that runs the tests."""
    command = Path(sys.executable).with_name("celo")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"celo {__version__}\n"
    assert not done.stderr
    done = subprocess.run([command, "tarin"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("celo: unknown command 'tarin'")


def test_weights_that_do_not_name_their_recipe_cannot_be_measured(theta_file, capsys):
    assert main(["info", str(theta_file), "--measure"]) == 2
    assert "recipe" in capsys.readouterr().err
