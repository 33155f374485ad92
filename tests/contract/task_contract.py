"""What every task family owes to meta-training and evaluation: a function that checks any family."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from celo.tasks import SPLITS, value_and_grad

MOST_LEAVES = 20  # numbers in a task; data would be thousands


def check_task_family(family):
    """Fails with an AssertionError if the family breaks the contract of `celo.tasks.TaskFamily`.

    Returns:
      What was computed, of the first member: `study` as a dict of NumPy arrays.
    """
    assert family.members
    assert len(set(family.members)) == len(family.members), "members have different names"
    assert all(isinstance(name, str) for name in family.members)
    assert 0 < family.loss_cap < math.inf
    _check_shapes(family)
    run = jax.jit(lambda seed, member: study(family, jax.random.key(seed), member))
    first = None
    for member in range(len(family.members)):
        found = jax.device_get(run(jnp.uint32(member), jnp.int32(member)))
        _check_numbers(family, found)
        first = found if first is None else first
    again, other = (jax.device_get(run(jnp.uint32(seed), jnp.int32(0))) for seed in (0, 1000))
    jax.tree.map(np.testing.assert_array_equal, again, first)  # pure in the key
    # Not the losses: models whose last layer starts at zero all start at the loss of guessing.
    pairs = zip(jax.tree.leaves(first["grads"]), jax.tree.leaves(other["grads"]), strict=True)
    assert any((one != another).any() for one, another in pairs), "other keys give other starts and batches"
    return first


def study(family, key, member):
    """One task of the family: sampled, initialised, evaluated, and improved by one gradient step."""
    key_task, key_init, key_draw, key_loss = jax.random.split(key, 4)
    task = family.sample(key_task, member)
    params, model_state = task.init(key_init)
    draw = jax.tree.map(lambda x: x[1], family.draw(key_draw, 3))
    batches = {split: family.batch(task, split, draw) for split in SPLITS}
    loss, grads, new_state = value_and_grad(task, params, model_state, key_loss, batches["train"])
    # To first order this step lowers the loss by a hundredth, whatever the units of the parameters.
    squared = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda p, g: p - (0.01 * jnp.abs(loss) / squared) * g, params, grads)
    after, (_, metrics) = task.loss(moved, model_state, key_loss, batches["train"])
    valid, valid_metrics = task.evaluate(params, model_state, key_loss, batches["valid"])
    return {
        **{"params": params, "grads": grads, "model_state": model_state, "new_state": new_state},
        **{"loss": loss, "after": after, "metrics": metrics, "batches": batches},
        **{"valid": valid, "valid_metrics": valid_metrics},
    }


def _check_shapes(family):
    """Without computing anything: shapes, dtypes, structures, and that all of it can be vmapped."""
    keys, members = jax.random.split(jax.random.key(0), 2), jnp.zeros((2,), jnp.int32)
    tasks = jax.vmap(family.sample)(keys, members)
    assert sum(leaf.size for leaf in jax.tree.leaves(tasks)) <= 2 * MOST_LEAVES, "a task holds no data"
    draws = family.draw(jax.random.key(0), 3)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(draws))

    def many(tasks, keys):
        return jax.vmap(lambda task, key: _loss_twice(family, task, key))(tasks, keys)

    (first, second), params, states = jax.eval_shape(many, tasks, keys)
    assert first.shape == second.shape == (2,)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert signature(states[0]) == signature(states[1]), "a step must not change the type of the state"


def _loss_twice(family, task, key):
    """Two losses, the second on the model state that the first leaves."""
    params, before = task.init(key)
    draws = family.draw(key, 2)
    losses, state = [], before
    for i in range(2):
        batch = family.batch(task, "train", jax.tree.map(lambda x, i=i: x[i], draws))
        loss, (state, _) = task.loss(params, state, key, batch)
        losses.append(loss)
    return tuple(losses), params, (before, state)


def _check_numbers(family, found):
    for name in ("loss", "after", "valid"):
        assert found[name].dtype == np.float32
        assert found[name].shape == ()
        assert np.isfinite(found[name]), name
    assert found["loss"] < family.loss_cap, "training must not start above the cap"
    assert found["after"] < found["loss"], "a small step along the gradient lowers the loss"
    for name, metric in (found["metrics"] | found["valid_metrics"]).items():
        assert metric.shape == (), name
        assert jnp.issubdtype(metric.dtype, jnp.floating), name
        assert np.isfinite(metric), name
    assert signature(found["grads"]) == signature(found["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found["grads"]))
    batches = [signature(batch) for batch in found["batches"].values()]
    assert batches[0] == batches[1] == batches[2], "the splits' batches have the same shapes"


def signature(tree):
    """Structure, shapes and dtypes."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
