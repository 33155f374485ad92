"""The tasks of the laptop suite can be learned, on stand-ins for data that would have to be downloaded.

What every task owes to the library is in `tests/contract/task_contract.py`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but

from celo.evaluate._run.suites import SUITES
from celo.tasks import make_task, value_and_grad

NAMES = [task.name for task in SUITES["laptop"]]
STEPS, RATE = 40, 3e-3
SEEDS = (0, 1)

# The loss of predicting class frequencies, or the mean.
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
        valid = family.batch(task, "valid", held_out)

        def step(carry, now):
            (params, model_state), opt_state = carry
            draw, key = now
            batch = family.batch(task, "train", draw)
            loss, grads, model_state = value_and_grad(task, params, model_state, key, batch)
            updates, opt_state = tx.update(grads, opt_state, params)
            return ((optax.apply_updates(params, updates), model_state), opt_state), loss

        luck = family.draw(key_draw, STEPS), jax.random.split(key_loss, STEPS)
        (end, _), losses = jax.lax.scan(step, (start, tx.init(start[0])), luck)
        before, after = (task.evaluate(*model, key_loss, valid) for model in (start, end))
        return {"start": start, "end": end, "losses": losses, "before": before, "after": after}

    with jax.numpy_dtype_promotion("standard"):  # optax.adam
        return jax.jit(lambda seeds: jax.lax.map(run, seeds))(jnp.asarray(SEEDS, jnp.uint32))


# Others compile for longer.
QUICK = ("quadratic", "breast_cancer_mlp", "china_siren")


@pytest.fixture(
    scope="module",
    params=slow_but(QUICK, NAMES),
)
def studied(request, make):
    """(name, family, what `study` found)."""
    family = make(request.param)
    return request.param, family, jax.device_get(study(family))


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


def test_only_what_trains_changes_the_model_state(studied):
    name, _, found = studied
    (_, before), (_, after) = found["start"], found["end"]
    assert bool(jax.tree.leaves(before)) == ("batchnorm" in name)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a != b).any(axis=1).all()  # `evaluate` returns none, and so cannot


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_adam_lowers_the_loss_on_real_data(name):
    found = jax.device_get(study(make_task(name)))
    assert (found["losses"][:, -5:].mean(axis=1) < 0.97 * found["losses"][:, :2].mean(axis=1)).all()
