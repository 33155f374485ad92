"""The small models of meta-training, on digits or made-up data, which need no download."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_ins

from celo.tasks import TASKS, Augmented, Reparametrisation, make_task, value_and_grad

OTHER_DATA = {"small_coordinates": ["cifar10_0", "cifar10_1"], "small_language": ["state_of_the_union"]}


# They compile for longest.
SLOW = ("small_language", "small_transformers", "small_recurrent")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in TASKS
        if name.startswith("small_")
    ],
)
def family(request):
    if request.param not in OTHER_DATA:
        yield make_task(request.param, datasets=("digits", "digits"))
        return
    with pytest.MonkeyPatch.context() as patch:
        stand_ins.install(patch)
        yield make_task(request.param)


def test_members_are_called_after_set_and_model(family, request):
    sets = OTHER_DATA.get(request.node.callspec.params["family"], ["digits", "digits"])
    assert len(family.members) == len(sets)
    for member, name in zip(family.members, sets, strict=True):
        assert member.startswith(name)


@pytest.mark.slow
def test_it_learns_and_many_run_side_by_side_in_other_units(family):
    """As meta-training runs it: vmapped over tasks of both members, each in units of its own."""
    augmented = Augmented(family, Reparametrisation("global", 0.1, 10.0))

    @jax.jit
    @jax.vmap
    def train(index):
        key = jax.random.fold_in(jax.random.key(0), index)
        task = augmented.sample(key, index % len(family.members))
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
