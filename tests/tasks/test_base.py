"""The contract of a task, with one whose loss, gradient and state are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.tasks import Quadratics, Task, TaskFamily
from celo.tasks._base import SPLITS, value_and_grad


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counting(Task):
    """Half a squared distance to a batch's mean, in units of the task; its state counts batches."""

    unit: jax.Array

    def init(self, key):
        return {"x": jax.random.normal(key, ())}, jnp.zeros((), jnp.int32)

    def loss(self, params, model_state, key, batch):
        away = (params["x"] - jnp.mean(batch)) / self.unit
        return 0.5 * away**2, (model_state + 1, {"away": away, "drawn": jax.random.normal(key, ())})


TASK, PARAMS, BATCH = Counting(jnp.float32(2.0)), {"x": jnp.float32(5.0)}, jnp.asarray([0.0, 2.0])


def test_the_splits_are_three():
    assert SPLITS == ("train", "valid", "test")


def test_value_and_gradient_come_with_the_state_after_the_batch(key):
    loss, grads, state = jax.jit(value_and_grad)(TASK, PARAMS, jnp.int32(7), key, BATCH)
    assert float(loss) == 2.0  # half of (5 - 1)² / 2²
    assert grads.keys() == {"x"}
    assert float(grads["x"]) == 1.0  # (5 - 1) / 2²
    assert int(state) == 8


def test_a_task_is_a_pytree_of_what_it_differs_in():
    tasks = jax.vmap(Counting)(jnp.asarray([1.0, 2.0, 4.0]))
    losses = jax.vmap(lambda task: task.loss(PARAMS, jnp.int32(0), jax.random.key(0), BATCH)[0])(tasks)
    np.testing.assert_array_equal(losses, [8.0, 2.0, 0.5])


def test_evaluation_reads_the_state_and_gives_the_metrics_alone(key):
    loss, metrics = TASK.evaluate(PARAMS, jnp.int32(7), key, BATCH)
    assert float(loss) == 2.0
    assert float(metrics["away"]) == 2.0
    assert metrics["drawn"] == jax.random.normal(key, ())


def test_a_task_without_its_own_evaluation_has_that_of_its_loss(key):
    task = Quadratics().sample(key, jnp.int32(0))
    params, state = task.init(key)
    assert task.evaluate(params, state, key, ()) == (task.loss(params, state, key, ())[0], {})


@pytest.mark.parametrize(
    ("kind", "example", "methods"),
    [(Task, Counting, ("init", "loss")), (TaskFamily, Quadratics, ("sample", "draw", "batch"))],
)
def test_what_lacks_a_method_cannot_be_made(kind, example, methods):
    for missing in methods:
        others = {name: getattr(example, name) for name in methods if name != missing}
        with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
            type("Half", (kind,), others)()
