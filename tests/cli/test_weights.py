"""celo convert and celo info."""

import importlib.util
import json

import jax
import numpy as np
import pytest

import celo
from celo import __version__, weights
from celo.cli import main
from celo.evaluate import BASELINES, SUITES
from celo.meta import ESTIMATORS, RECIPES, Recipe
from celo.optimizers import OPTIMIZERS, Celo
from celo.tasks import TASKS

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="figures need Matplotlib"
)


@pytest.fixture(scope="module")
def fresh():
    return jax.tree.map(np.asarray, Celo().init_theta(jax.random.key(0)))


@pytest.fixture
def save(fresh, tmp_path):
    """A function: more metadata -> path of weights that have it."""

    def saved(**metadata):
        path = tmp_path / "theta.safetensors"
        weights.save(path, fresh, metadata={"architecture": "celo", **metadata})
        return path

    return saved


@pytest.fixture
def theta_file(save):
    return save()


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


def test_weights_that_do_not_name_their_recipe_cannot_be_measured(theta_file, capsys):
    assert main(["info", str(theta_file), "--measure"]) == 2
    assert "recipe" in capsys.readouterr().err


def test_info_lists_every_name_that_commands_accept(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"celo {__version__}\n")
    assert max(map(len, text.splitlines())) <= 80
    words = set(text.replace(",", " ").split())
    for names in (weights.bundled(), OPTIMIZERS, BASELINES, TASKS, RECIPES, ESTIMATORS, SUITES):
        assert set(names) <= words


def test_a_folder_for_explanations_needs_one(tmp_path, capsys):
    for words in (["info"], ["info", "celo"], ["info", "adam"]):
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert "--explain" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_measures_and_explanations_are_of_weights(capsys):
    for flag in ("--measure", "--explain"):
        assert main(["info", "adam", flag]) == 2
        assert f"{flag} needs weights" in capsys.readouterr().err


def test_info_of_weights_tells_their_arrays_and_their_facts(save, capsys):
    path = save(recipe=json.dumps({"horizon_max": 7}), largest_model="50")
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}: celo, sha256 ")
    assert "  update_rule/w0           float32[30, 4]" in lines
    assert any(line.startswith("  recipe: ") and "7" in line for line in lines)
    assert any(line.startswith("  largest_model: ") for line in lines)


def test_weights_of_another_time_say_so_where_they_are_to_be_measured(save, capsys):
    path = save(recipe=json.dumps({"tasks": ["quadratic"], "rule_colour": "blue"}))
    assert main(["info", str(path), "--measure"]) == 2
    error = capsys.readouterr().err
    assert "rule_colour" in error
    assert "measure it with the version that trained it" in error


def test_measured_weights_tell_their_loss_on_each_task(save, monkeypatch, capsys):
    recipe = {"tasks": ["quadratic"], "horizon_max": 777}
    seen = []

    class Found:
        meta_loss, standard_error, task_losses = 1.25, 0.0625, {"quadratic": 2.5}

    monkeypatch.setattr("celo.meta.measure", lambda *words, **settings: seen.append(words) or Found())
    assert main(["info", str(save(recipe=json.dumps(recipe))), "--measure"]) == 0
    text = capsys.readouterr().out
    assert "measured meta-loss: 1.2500 ± 0.0625 (standard error)" in text
    assert "quadratic                    mean training loss 2.5000" in text
    [(theta, measured)] = seen
    assert measured == Recipe(**recipe)
    assert theta.keys() == {"update_rule", "scheduler"}


def test_explanations_need_matplotlib_and_make_no_folder_without_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["info", "celo", "--explain", "--out", str(tmp_path / "out")]) == 2
    assert "celo[plots]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_matplotlib
def test_an_explanation_is_drawn_of_the_task_of_ours(tmp_path, monkeypatch, capsys):
    explain = celo.explain
    monkeypatch.setattr(
        "celo._explain.explanation.explain", lambda weights: explain(num_steps=2, weights=weights)
    )
    assert main(["info", "celo", "--explain", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert "explain.png" in capsys.readouterr().out
    assert (tmp_path / "new" / "folder" / "explain.png").is_file()


def test_a_module_of_ones_own_is_imported_before_weights_are_converted(theta_file, tmp_path, monkeypatch):
    """It may register the architecture that they are of."""
    (tmp_path / "registers_theirs.py").write_text(
        "from celo.optimizers import OPTIMIZERS, CeloAdam, Entry, celo_adam\n"
        "OPTIMIZERS['theirs'] = Entry(CeloAdam, celo_adam, ())\n"
    )
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.safetensors"
    scheduler = {"scheduler": weights.load(theta_file).theta["scheduler"]}
    scheduler["scheduler"]["out_b"] = np.float32(0.5)
    weights.save(path, scheduler, metadata={"architecture": "theirs"})
    try:
        assert main(["convert", "--import", "registers_theirs", str(path), "theirs.state"]) == 0
        assert main(["convert", "--import", "registers_theirs", "theirs.state", "back.safetensors"]) == 0
    finally:
        OPTIMIZERS.pop("theirs", None)
    assert weights.load(tmp_path / "back.safetensors").theta["scheduler"]["out_b"] == 0.5
