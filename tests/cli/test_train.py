"""celo train: what reaches the run, and what is said at its end."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from celo import weights
from celo._errors import CeloError
from celo.cli import _train, main
from celo.meta import _run
from celo.meta._recipes import RECIPES, Recipe
from celo.optimizers import Celo


@pytest.fixture(autouse=True)
def devices_as_they_are(monkeypatch):
    """JAX has computed already in this process."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))


@pytest.fixture
def started(monkeypatch):
    """What `start` was called with; the run stops at once."""
    seen = {}

    def start(run, recipe, **settings):
        seen.update(run=run, recipe=recipe, **settings)
        raise _run.Stopped("asked to stop at outer step 3")

    monkeypatch.setattr(_run, "start", start)
    return seen


def test_every_field_is_an_option_with_help(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in text
        assert field.metadata["help"].split()[0] in text


def test_overrides_reach_the_recipe(started, tmp_path):
    assert main(["train", "--recipe", "celo", "--std", "0.02", "--out", str(tmp_path / "r")]) == 130
    assert started["run"] == tmp_path / "r"
    assert started["recipe"] == dataclasses.replace(RECIPES["celo"], std=0.02)


def test_by_default_the_quick_recipe_runs_in_a_folder_of_its_name(started, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--kernel", "xla"]) == 130
    assert str(started["run"]) == "runs/quick"
    assert started["recipe"] == RECIPES["quick"]
    assert started["kernel"] == "xla"
    assert started["checkpoint_seconds"] == 120
    assert "kernel:  xla" in capsys.readouterr().out
    assert main(["train", "--recipe", "celo", "--checkpoint-seconds", "7.5"]) == 130
    assert str(started["run"]) == "runs/celo"
    assert started["checkpoint_seconds"] == 7.5


def test_tasks_take_several_names_and_may_be_one(started, tmp_path):
    out = str(tmp_path / "r")
    assert (
        main(["train", "--task", "quadratic", "--rule-tasks", "quadratic", "wine_mlp", "--out", out]) == 130
    )
    assert started["recipe"].tasks == ("quadratic",)
    assert started["recipe"].rule_tasks == ("quadratic", "wine_mlp")


def test_a_run_that_was_stopped_says_how_to_go_on(started, tmp_path, capsys):
    run = tmp_path / "r"
    assert main(["train", "--out", str(run)]) == 130
    said = capsys.readouterr().err
    assert said == f"celo: asked to stop at outer step 3; go on with `celo train --resume {run}`\n"


@pytest.mark.parametrize(
    "others", [["--seed", "1"], ["--recipe", "celo"], ["--out", "x"], ["--kernel", "xla"]]
)
def test_what_is_resumed_has_its_own_recipe_folder_and_kernel(others, tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path), *others]) == 2
    assert "--resume continues with the run's own recipe and folder" in capsys.readouterr().err


def test_errors_of_a_run_speak_of_options(monkeypatch, tmp_path, capsys):
    def start(*words, **settings):
        raise CeloError("rule_steps and std are wrong")

    monkeypatch.setattr(_run, "start", start)
    assert main(["train", "--out", str(tmp_path / "r")]) == 2
    # A word of the language is no option: "std" may stand in a sentence.
    assert capsys.readouterr().err == "celo: --rule-steps and std are wrong\n"


@pytest.fixture
def finished(monkeypatch):
    """A run of two phases that was trained in no time."""
    rows = [
        {
            "phase": phase,
            "outer_step": step,
            "meta_loss": loss,
            "tasks": {"quadratic[2]": 2 * loss, "wine_mlp": 1.0},
            "nonfinite_fraction": 0.0125,
            "seconds": 60.0,
        }
        for phase, losses in (("rule", (1.0, 0.5)), ("scheduler", (0.5, 0.4)))
        for step, loss in enumerate(losses)
    ]

    def start(run, recipe, **settings):
        run.mkdir()
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        theta = jax.tree.map(np.asarray, Celo().init_theta(jax.random.key(0)))
        metadata = {"architecture": "celo", "version": "0.1", "tasks": "quadratic,wine_mlp"}
        metadata |= {"largest_model": "50", "recipe": json.dumps(dataclasses.asdict(recipe))}
        weights.save(run / "theta.safetensors", theta, metadata=metadata)
        return run / "theta.safetensors"

    monkeypatch.setattr(_run, "start", start)
    monkeypatch.setenv("COLUMNS", "150")


def test_a_finished_run_shows_each_phase_and_where_everything_is(finished, tmp_path, capsys):
    run = tmp_path / "r[1]"
    assert main(["train", "--out", str(run)]) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert [line for line in lines if line.startswith("phase")] == ["phase rule", "phase scheduler"]
    assert "quadratic[2] 2.0000 1.0000 -50.0%" in lines
    assert "wine_mlp 1.0000 1.0000 +0.0%" in lines
    assert "meta-loss, minimized 1.0000 0.5000 -0.5000" in lines
    assert "non-finite inner steps: 1.25%" in text
    assert f"card: {run / 'theta.json'}" in lines
    sha256 = weights.load(run / "theta.safetensors").sha256
    assert any(
        line.startswith(f"weights: {run / 'theta.safetensors'} (sha256 {sha256[:16]}") for line in lines
    )
    assert any(line.startswith("curve:") for line in lines)
    assert (run / "theta.json").is_file()


def test_without_matplotlib_the_curve_alone_is_missing(finished, tmp_path, monkeypatch, capsys):
    def missing(*words):
        raise ImportError("no module named 'matplotlib'")

    monkeypatch.setattr("celo.meta._summary.draw_metrics", missing)
    assert main(["train", "--out", str(tmp_path / "r")]) == 0
    assert "curve:   not drawn; pip install 'celo[plots]'" in capsys.readouterr().out


# Several processes


@pytest.fixture
def ended(monkeypatch):
    """Statuses with which this process was to end at once."""
    statuses = []
    monkeypatch.setattr("os._exit", statuses.append)
    return statuses


def fail(error):
    with _train._ending_at_once_alone():
        raise error


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [CeloError("all of them"), _run.Stopped("all of them")], ids=repr)
def test_what_all_processes_raise_at_one_place_passes(error, count, ended, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    with pytest.raises(type(error), match="all of them"):
        fail(error)
    assert ended == []


def test_another_error_ends_one_process_of_several_at_once_with_its_traceback(ended, monkeypatch, capsys):
    """In the usual way it would wait for the others, and they for it."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    fail(ZeroDivisionError("mine alone"))
    assert ended == [3]
    assert "ZeroDivisionError: mine alone" in capsys.readouterr().err
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    with pytest.raises(ZeroDivisionError, match="mine alone"):
        fail(ZeroDivisionError("mine alone"))
    assert ended == [3]


def test_a_process_that_lost_another_says_how_to_go_on(ended, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("celo.meta._hosts.lost_process", lambda error: "it is silent")
    fail(RuntimeError("from far below"))
    assert ended == [3]
    said = capsys.readouterr().err
    assert "has lost another process of the run (it is silent); start all of them again with --resume" in said
    assert "Traceback" not in said
