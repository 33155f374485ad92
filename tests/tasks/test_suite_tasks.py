"""What every task of the suite must do, on stand-ins for the data sets that would have to be downloaded."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stand_ins

from celo.evaluate._run.suites import SUITES, load_task
from celo.tasks._base import SPLITS, value_and_grad

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES = [task.name for task in SUITES["laptop"]]
STEPS, RATE = 40, 3e-3
SEEDS = (0, 0, 1)

# The loss of who knows nothing but how often each class is met, or the mean.
GUESSING = {
    **dict.fromkeys(
        [
            name
            for name in NAMES
            if name.startswith(("cifar10", "fashion_mnist")) and "autoencoder" not in name
        ],
        math.log(10),
    ),
    **dict.fromkeys([name for name in NAMES if name.startswith("kjv")], math.log(63)),
    "breast_cancer_mlp": math.log(2),
    "diabetes_mlp": 1.0,
    "mnist_vae": math.log(2),
}


@pytest.fixture(scope="module")
def make():
    """A function: name -> task family, made once, of stand-ins."""
    with pytest.MonkeyPatch.context() as patch:
        stand_ins.install(patch)
        yield functools.cache(load_task)


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def study(family):
    """Everything the tests look at, of a short training with Adam on each of SEEDS, in one program."""
    tx = optax.adam(RATE)

    def run(seed):
        key_task, key_init, key_draw, key_held_out, key_loss = jax.random.split(jax.random.key(seed), 5)
        task = family.sample(key_task, jnp.zeros((), jnp.int32))
        start = task.init(key_init)
        held_out = at(family.draw(key_held_out, 1), 0)
        batches = {split: family.batch(task, split, held_out) for split in SPLITS}

        def step(carry, now):
            (params, model_state), opt_state = carry
            draw, key = now
            batch = family.batch(task, "train", draw)
            loss, grads, model_state = value_and_grad(task, params, model_state, key, batch)
            updates, opt_state = tx.update(grads, opt_state, params)
            norms = jax.tree.map(jnp.linalg.norm, grads)
            return ((optax.apply_updates(params, updates), model_state), opt_state), (loss, norms)

        luck = family.draw(key_draw, STEPS), jax.random.split(key_loss, STEPS)
        (end, _), (losses, norms) = jax.lax.scan(step, (start, tx.init(start[0])), luck)
        before, after = (task.evaluate(*model, key_loss, batches["valid"]) for model in (start, end))
        return {
            **{"batches": batches, "start": start, "end": end, "losses": losses, "norms": norms},
            **{"before": before, "after": after},
        }

    with jax.numpy_dtype_promotion("standard"):  # optax.adam
        return jax.jit(jax.vmap(run))(jnp.asarray(SEEDS, jnp.uint32))


@pytest.fixture(scope="module", params=NAMES)
def studied(request, make):
    """(name, family, what `study` found)."""
    family = make(request.param)
    return request.param, family, jax.device_get(study(family))


def test_shapes_and_dtypes(studied):
    _, family, found = studied
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((found["start"], found["norms"])))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found["start"], found["end"])
    assert all(jax.tree.leaves(same))
    loss, metrics = found["after"]
    assert (loss.dtype, loss.shape) == (np.float32, (len(SEEDS),))
    assert all(jnp.issubdtype(metric.dtype, jnp.floating) for metric in metrics.values())
    assert all(np.isfinite(metric).all() and metric.shape == loss.shape for metric in metrics.values())
    draws = jax.tree.leaves(family.draw(jax.random.key(0), 3))
    assert all(draw.shape[0] == 3 for draw in draws)


def test_loss_begins_where_it_should(studied):
    name, family, found = studied
    first = found["losses"][:, 0]
    assert (first < family.loss_cap).all()
    if name in GUESSING:
        assert (first > 0.95 * GUESSING[name]).all()
        assert (first < 2.5 * GUESSING[name]).all()  # random outputs cost something too


def test_adam_lowers_the_loss(studied):
    _, _, found = studied
    assert np.isfinite(found["losses"]).all()
    assert (found["losses"][:, -5:].mean(axis=1) < 0.95 * found["losses"][:, :2].mean(axis=1)).all()
    assert (found["after"][0] < found["before"][0]).all()  # on held-out data too


def test_every_parameter_has_a_finite_gradient(studied):
    _, _, found = studied
    for path, norms in jax.tree_util.tree_leaves_with_path(found["norms"]):
        assert np.isfinite(norms).all(), path
        assert (norms.max(axis=1) > 0).all(), path


def test_deterministic_in_the_key(studied):
    _, _, found = studied
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[1]), found)
    assert found["losses"][0, 0] != found["losses"][2, 0]


def test_only_what_trains_changes_the_model_state(studied):
    name, _, found = studied
    (_, before), (_, after) = found["start"], found["end"]
    assert bool(jax.tree.leaves(before)) == ("batchnorm" in name)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a != b).any(axis=1).all()  # `evaluate` returns none, and so cannot


def test_splits_share_no_example(studied):
    """Batches of one draw; that the data of the splits are disjoint is tested where they are loaded."""
    name, _, found = studied
    if name == "quadratic":
        return
    seen = []
    for split in SPLITS:
        inputs, targets = found["batches"][split]
        both = inputs.reshape(*inputs.shape[:2], -1), targets.reshape(*targets.shape[:2], -1)
        rows = np.concatenate(both, axis=-1).reshape(-1, both[0].shape[-1] + both[1].shape[-1])
        seen.append({row.tobytes() for row in rows})
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_tasks_hold_no_data(make):
    for name in NAMES:
        task = make(name).sample(jax.random.key(0), jnp.int32(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(task)) <= 20, name


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_adam_lowers_the_loss_on_real_data(name):
    found = jax.device_get(study(load_task(name)))
    assert (found["losses"][:, -5:].mean(axis=1) < 0.97 * found["losses"][:, :2].mean(axis=1)).all()
