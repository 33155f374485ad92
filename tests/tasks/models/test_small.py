"""The small models of meta-training, on the digits that need no download."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.tasks import TASKS, Augmented, Reparametrisation, make_task, value_and_grad

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", params=[name for name in TASKS if name.startswith("small_")])
def family(request):
    return make_task(request.param, datasets=("digits", "digits"))


def test_members_are_called_after_set_and_model(family):
    assert len(family.members) == 2
    assert all(name.startswith("digits_") for name in family.members)


def test_it_learns_and_many_run_side_by_side_in_other_units(family):
    """As meta-training runs it: vmapped over tasks of both members, each in units of its own."""
    augmented = Augmented(family, Reparametrisation("global", 0.1, 10.0))

    @jax.jit
    @jax.vmap
    def train(index):
        key = jax.random.fold_in(jax.random.key(0), index)
        task = augmented.sample(key, index % 2)
        params, state = task.init(key)
        factor = jax.tree.leaves(task.factors)[0]

        def step(params, draw):
            batch = augmented.batch(task, "train", draw)
            loss, grads, _ = value_and_grad(task, params, state, key, batch)
            return jax.tree.map(lambda p, g: p - 0.3 * g / factor**2, params, grads), loss

        return jax.lax.scan(step, params, augmented.draw(key, 150))[1]

    losses = train(jnp.arange(4))
    assert np.isfinite(losses).all()
    assert (losses[:, -20:].mean(axis=1) < 0.9 * losses[:, :5].mean(axis=1)).all()
    assert (losses <= family.loss_cap).all()
