import jax
import numpy as np
import optax
import pytest

from celo.errors import CeloError
from celo.evaluate.curve import train_curve
from celo.evaluate.suite import SUITES, load_task
from celo.tasks import TASKS, Quadratics


def test_suites_name_registered_tasks_once():
    for tasks in SUITES.values():
        names = [task.name for task in tasks]
        assert len(set(names)) == len(names)
        assert {name for name in names if ":" not in name} <= set(TASKS)
        assert all(task.num_steps % task.eval_every == 0 for task in tasks)
    assert {task.num_steps for task in SUITES["laptop"]} == {2000}
    assert len(SUITES["laptop"]) >= 15
    other = {task.name for suite in ("laptop", "paper") for task in SUITES[suite]}
    assert not other & {task.name for task in SUITES["probe"]}  # weights are chosen by it


def test_load_task_by_name_and_by_place():
    assert load_task("quadratic") == load_task("celo.tasks:Quadratics") == Quadratics()


def test_load_task_that_is_not_there():
    with pytest.raises(CeloError, match="unknown task 'kjv_gro'; known, nearest first: kjv_gru"):
        load_task("kjv_gro")


def test_a_curve_evaluates_as_the_model_would_be_used():
    """Dropout is in the training loss and not in that of validation."""
    family = load_task("breast_cancer_mlp")
    curve = train_curve(family, 0, optax.adam(1e-3), num_steps=100, seeds=(0, 1), eval_every=50)
    assert curve.train_loss.shape == (2, 3)
    assert np.all(curve.train_loss[:, -1] < curve.train_loss[:, 0])
    assert np.all(curve.metrics["accuracy"][:, -1] > 0.85)
    assert np.all(curve.valid_loss[:, -1] < curve.train_loss[:, -1])
    assert jax.tree.leaves(curve.metrics)
