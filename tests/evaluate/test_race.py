import importlib.util
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from celo import weights
from celo._errors import CeloError
from celo.evaluate._race import RaceConfig, run_race
from celo.evaluate._run.baselines import LEARNING_RATES

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="figures need Matplotlib"
)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory, theta):
    path = tmp_path_factory.mktemp("weights") / "theta.safetensors"
    weights.save(path, theta, metadata={"architecture": "celo"})
    return str(path)


@pytest.fixture(scope="module")
def raced(tmp_path_factory, weights_file):
    """(result, folder, what was printed) of a race in which SGD diverges at its only rate."""
    folder = tmp_path_factory.mktemp("race") / "new" / "folder"
    config = RaceConfig(
        task="quadratic",
        optimizers=("sgd",),
        steps=30,
        seeds=2,
        weights=weights_file,
        rates=(1e6, 1e5),
        out=str(folder),
    )
    console = Console(width=200, record=True, file=io.StringIO())
    result = run_race(config, console=console)
    return result, folder, console.export_text()


@needs_matplotlib
def test_celo_and_adam_race_even_when_not_named(raced):
    result, _, _ = raced
    assert result.config.optimizers == ("celo", "adam", "sgd")
    assert result.config.rates == (1e5, 1e6)
    assert [c.optimizer for c in result.contestants] == ["celo", "adam", "sgd"]


@needs_matplotlib
def test_rates_are_chosen_on_other_seeds_than_those_reported(raced):
    result, _, _ = raced
    assert len(set(result.seeds) | set(result.tuning_seeds)) == 4
    adam = result.contestants[1]
    assert adam.rates == (1e-3, 1e5, 1e6)  # the default rate races too
    assert adam.best == int(np.argmin(adam.tuning_loss)) == 0
    assert adam.curves.train_loss.shape == (3, 2, 31)


@needs_matplotlib
def test_tuned_adam_is_its_own_yardstick(raced):
    result, _, _ = raced
    row = result.row("adam", "tuned")
    assert row.roles == ("tuned", "default")
    np.testing.assert_array_equal(row.ratio, 1.0)
    assert (row.speedup >= 1).all()


@needs_matplotlib
def test_divergence_is_reported_and_scores_zero(raced):
    result, folder, printed = raced
    row = result.row("sgd", "tuned")
    assert not np.isfinite(row.final["train"]).any()
    for score in (row.ratio, row.speedup, row.speedup_default):
        np.testing.assert_array_equal(score, 0.0)
    line = next(line for line in printed.splitlines() if "sgd" in line)
    assert "diverged (2 of 2)" in line
    assert "never" in line
    row = json.loads((folder / "race.json").read_text())["rows"][-1]
    assert row["final"]["train"] == [None, None]


@needs_matplotlib
def test_the_json_holds_the_whole_race(raced, weights_file):
    result, folder, _ = raced
    data = json.loads((folder / "race.json").read_text())
    assert data["config"]["task"] == "quadratic"
    assert data["weights_sha256"] == weights.load(weights_file).sha256
    assert {"celo", "jax", "optax", "numpy", "python"} <= set(data["environment"])
    assert data["seeds"] == list(result.seeds)
    loss = np.array(data["contestants"][0]["curves"]["train_loss"])
    np.testing.assert_allclose(loss, result.contestants[0].curves.train_loss, rtol=1e-6)
    assert data["command"].startswith("celo race --task quadratic --optimizers celo adam sgd --steps 30")


@needs_matplotlib
def test_the_page_needs_no_other_file_and_has_every_row(raced):
    _, folder, printed = raced
    page = (folder / "race.html").read_text()
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    rows = re.findall(r"<tr class=.*?</tr>", page)
    assert len(rows) == 3
    for row in rows:
        cells = re.findall(r"<td>(.*?)</td>", row)
        line = next(line for line in printed.splitlines() if line.strip().startswith(cells[0]))
        assert re.split(r"\s{2,}", line.strip()) == cells


@needs_matplotlib
def test_the_figure_is_a_png_and_nothing_else_is_left_behind(raced):
    _, folder, _ = raced
    assert (folder / "race.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["race.html", "race.json", "race.png"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"task": "digits_mlp"}, "unknown task 'digits_mlp'.*nearest first: digits_"),
        ({"optimizers": ("adan",)}, "unknown optimizer 'adan'.*nearest first: adam,"),
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"steps": 2.5}, "steps must be .*got 2.5"),
        ({"seeds": -1}, "seeds must be .*got -1"),
        ({"seed": -1}, "seed must be .*at least 0, got -1"),
        ({"rates": ()}, "at least one learning rate"),
        ({"rates": (1e-3, 0.0)}, "learning rate must be a positive number, got 0.0"),
        ({"rates": (float("nan"),)}, "learning rate must be .*got nan"),
        ({"rates": (float("inf"),)}, "learning rate must be .*got inf"),
    ],
)
def test_bad_settings_are_refused_by_value(setting, message):
    with pytest.raises(CeloError, match=message):
        RaceConfig(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"weights": "cello"}, "unknown weights 'cello'"),
        ({"weights": "nowhere.safetensors"}, "no such file"),
        ({"task": "celo_image_mlps"}, "2 tasks .*fashion_mnist"),
        ({"out": "/dev/null/race"}, "/dev/null/race: cannot be made"),
    ],
)
@needs_matplotlib
def test_what_cannot_be_had_is_refused_before_training(setting, message, weights_file, monkeypatch):
    monkeypatch.setattr("celo.evaluate._race.CurveProgram", None)
    monkeypatch.setattr("celo.evaluate._race.make_task", _small_family)
    with pytest.raises(CeloError, match=message):
        run_race(RaceConfig(**{"weights": weights_file, **setting}), console=Console(quiet=True))


def test_missing_matplotlib_is_told_before_anything_runs(monkeypatch, weights_file):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"pip install 'celo\[plots\]'"):
        run_race(RaceConfig(weights=weights_file), console=Console(quiet=True))


def test_defaults():
    config = RaceConfig()
    assert config.optimizers == ("celo", "adam")
    assert config.rates == LEARNING_RATES
    assert config.command == "celo race"


def _small_family(name):
    """Stands in for tasks whose data would have to be fetched."""
    from celo.tasks import Quadratics

    members = ("mnist", "fashion_mnist") if name == "celo_image_mlps" else ("one",)
    return Quadratics(members=members)
