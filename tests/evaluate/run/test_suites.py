import jax
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.evaluate._run.suites import SUITES, suite_tasks
from celo.evaluate._run.training import train_curve
from celo.tasks import TASKS, Quadratics, make_task


def test_suites_name_registered_tasks_once():
    for tasks in SUITES.values():
        names = [task.name for task in tasks]
        assert len(set(names)) == len(names)
        assert {name for name in names if ":" not in name} <= set(TASKS)
        assert all(task.num_steps % task.eval_every == 0 for task in tasks)
    assert {task.num_steps for task in SUITES["laptop"]} == {2000}
    assert len(SUITES["laptop"]) >= 15
    other = {task.name for suite in SUITES if suite != "probe" for task in SUITES[suite]}
    assert not other & {task.name for task in SUITES["probe"]}  # weights are chosen by it


def test_the_published_suite_has_the_papers_tasks_on_the_published_data():
    here, original = SUITES["paper"], SUITES["published"]
    assert [task.stands_for for task in here] == [task.stands_for for task in original]
    assert {task.eval_every for task in (*here, *original)} == {10}
    changed = {b.name for a, b in zip(here, original, strict=True) if a != b}
    assert changed == {
        *("cifar100_conv_full", "cifar100_vit_wideshallow", "cifar100_vit_skinnydeep"),
        *("lm1b_transformer_lm0", "lm1b_transformer_lm2", "lm1b_transformer_lm5"),
        *("lm1b_lstm256", "wikipedia_lstm256"),
    }


def test_a_task_alone_runs_as_in_the_first_suite_that_has_it():
    names = ("mnist_autoencoder", "cifar10_conv_full", "lm1b_lstm256", "digits_vit", "celo_image_mlps")
    found = suite_tasks(None, names, None)
    assert [task.name for task in found] == list(names)
    assert [task.eval_every for task in found] == [20, 10, 10, 5, 20]
    assert suite_tasks("paper", names[:2], None) == (SUITES["paper"][13], SUITES["paper"][3])
    assert suite_tasks("paper", (), 30)[3].num_steps == 30
    assert suite_tasks(None, (), None) == SUITES["laptop"]


def test_a_task_that_a_suite_has_not():
    with pytest.raises(CeloError, match="task of suite paper 'kjv_lstm'; known, nearest first: kjv_lstm256"):
        suite_tasks("paper", ["kjv_lstm"], None)


def test_load_task_by_name_and_by_place():
    assert make_task("quadratic") == make_task("celo.tasks:Quadratics") == Quadratics()


def test_load_task_that_is_not_there():
    with pytest.raises(CeloError, match="unknown task 'kjv_gro'; known, nearest first: kjv_gru"):
        make_task("kjv_gro")


def test_a_curve_evaluates_as_the_model_would_be_used():
    """Dropout is in the training loss and not in that of validation."""
    family = make_task("breast_cancer_mlp")
    curve = train_curve(family, 0, optax.adam(1e-3), num_steps=100, seeds=(0, 1), eval_every=50)
    assert curve.train_loss.shape == (2, 3)
    assert np.all(curve.train_loss[:, -1] < curve.train_loss[:, 0])
    assert np.all(curve.metrics["accuracy"][:, -1] > 0.85)
    assert np.all(curve.valid_loss[:, -1] < curve.train_loss[:, -1])
    assert jax.tree.leaves(curve.metrics)
