"""celo info NAME: what a name stands for."""

import re

import pytest

from celo.cli import main
from celo.evaluate import BASELINES, SUITES
from celo.meta import ESTIMATORS, RECIPES
from celo.optimizers import OPTIMIZERS


def info(capsys, *words):
    assert main(["info", *words]) == 0
    return capsys.readouterr().out


def test_a_task_tells_size_batch_cost_and_suites(capsys):
    text = info(capsys, "wine_mlp")
    assert text.startswith("task wine_mlp\n")
    assert "in suite probe: 300 steps, evaluated every 5" in text
    size = re.search(r"size: ([\d,]+) parameters in (\d+) tensors", text)
    assert int(size[1].replace(",", "")) == 13 * 64 + 64 + 64 * 64 + 64 + 64 * 3 + 3
    assert size[2] == "6"
    assert re.search(r"batch: float32\[\d+, 13\], int32\[\d+\]", text)
    assert re.search(r"cost: \S+ (million )?floating-point operations a gradient", text)


def test_a_task_of_ones_own_is_described_by_its_import_path(capsys):
    assert "10 parameters" in info(capsys, "celo.tasks:Quadratics")
    assert main(["info", "celo.tasks:Nothing"]) == 2
    assert "Nothing" in capsys.readouterr().err


def test_baselines_tell_their_definition_and_their_state(capsys):
    text = info(capsys, "adam_cosine")
    assert "optimizer: optax.adam\n" in text
    assert "b2=0.999" in text
    assert "cosine to 0" in text
    assert "size: 8 bytes of state a parameter" in text
    assert "size: 0 bytes" in info(capsys, "sgd")


def test_a_recipe_tells_what_differs_from_the_papers_and_its_cost(capsys):
    text = info(capsys, "quick")
    recipe = RECIPES["quick"]
    assert f"rule_steps: {recipe.rule_steps} (the paper's: 100000)" in text
    assert "truncation_length" not in text
    steps = (recipe.rule_steps + recipe.scheduler_steps) * 2 * recipe.pairs_per_task * 50
    assert f"cost: {steps:,} inner steps" in text


def test_a_name_of_several_kinds_tells_all(capsys):
    """`celo` is weights, a learned optimizer and a recipe."""
    text = info(capsys, "celo")
    for start in ("celo: celo, sha256 ", "learned optimizer celo\n", "recipe celo\n"):
        assert re.search(f"^{start}", text, re.MULTILINE)
    assert "size: 154 weights in update_rule" in text


@pytest.mark.parametrize("name", [*OPTIMIZERS, *BASELINES, *RECIPES, *ESTIMATORS, *SUITES])
def test_all_can_be_described(name, capsys):
    assert len(info(capsys, name).splitlines()) >= 2


def test_what_is_nothing_is_refused_with_the_nearest_names(capsys):
    assert main(["info", "adm"]) == 2
    assert "unknown name 'adm'; known, nearest first: adam" in capsys.readouterr().err
