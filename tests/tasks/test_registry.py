"""Tasks by name and by import path."""

import sys
import types

import pytest
import stand_ins

from celo._errors import CeloError
from celo.tasks import CELO_DATASETS, TASKS, Quadratics, make_task, task_at


def test_the_factories_of_image_sets_are_named_after_them(monkeypatch):
    monkeypatch.setattr("celo.tasks._sources.load_images", stand_ins.images)
    assert make_task("celo_image_mlps").members == CELO_DATASETS
    names = [name for name in TASKS if "_8x8_" in name]
    assert len(names) == 6
    for name in names:
        family = make_task(name)
        assert family.layers == (64, 32, 10)
        assert f"{family.members[0]}_8x8_mlp32" == name


def test_settings_reach_the_family():
    assert make_task("quadratic", dim=3) == Quadratics(dim=3)
    assert make_task("digits_8x8_mlp32", batch_size=5, hidden=(7, 6)).layers == (64, 7, 6, 10)


def test_unknown_task_lists_the_nearest_first():
    with pytest.raises(CeloError, match=r"unknown task 'digit_mlp'; known, nearest first: digits_"):
        make_task("digit_mlp")


# A task by its import path


@pytest.fixture
def place(monkeypatch):
    module = types.ModuleType("my_tasks")
    module.ready, module.maker, module.number = Quadratics(dim=2), Quadratics, 3
    monkeypatch.setitem(sys.modules, "my_tasks", module)
    return "my_tasks"


def test_a_task_of_the_users(place):
    assert task_at(f"{place}:ready") == Quadratics(dim=2)
    assert task_at(f"{place}:maker", dim=5) == Quadratics(dim=5)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (":numbr", "unknown attribute of my_tasks 'numbr'; known, nearest first: number"),
        (":number", "task 'my_tasks:number' is a int: name a TaskFamily"),
        ("", "write one of your own as package.module:attribute"),
        (".deeper:task", "no module"),
    ],
)
def test_no_task_there(place, attribute, message):
    with pytest.raises(CeloError, match=message):
        task_at(f"{place}{attribute}")


@pytest.mark.parametrize("name", ["digits_conv", "wine_mlp"])  # imports Flax at its top; in its factory
def test_missing_flax_says_how_to_get_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "flax", None)
    for module in ("flax.linen", *(name for name in sys.modules if name.startswith("celo.tasks._models."))):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(CeloError, match=r"needs flax: pip install 'celo\[suite\]'"):
        make_task(name)


def test_what_the_users_module_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_tasks.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CeloError, match="needs 'not_installed_anywhere', which is not installed"):
        task_at("broken_tasks:task")
