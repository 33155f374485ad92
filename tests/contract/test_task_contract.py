"""Every registered task keeps the contract, on stand-ins for data that would have to be downloaded."""

import dataclasses

import jax
import numpy as np
import pytest
import stand_ins
from marks import slow_but
from task_contract import check_task_family

from celo.tasks import SPLITS, TASKS, Quadratic, Quadratics, TaskFamily, make_task

# Their last layer starts at zero, so that no gradient reaches the layers below in the first step.
ZERO_HEAD = ("vit_wideshallow", "vit_skinnydeep")


@pytest.fixture(scope="module", autouse=True)
def stand_in_data():
    with pytest.MonkeyPatch.context() as patch:
        stand_ins.install(patch)
        yield


# One of each kind; what is in the networks is tested with the models.
QUICK = ("quadratic", "celo_image_mlps", "breast_cancer_mlp", "china_siren", "cifar10_conv", "mnist_vae")
QUICK += ("kjv_lstm",)


@pytest.mark.parametrize("name", slow_but(QUICK, TASKS))
def test_contract(name):
    settings = {} if TASKS[name] is Quadratics else {"batch_size": 8}  # for speed; sizes are tested elsewhere
    family = make_task(name, **settings)
    assert isinstance(family, TaskFamily)
    found = check_task_family(family)
    for path, grads in jax.tree_util.tree_leaves_with_path(found["grads"]):
        assert grads.any() or name.endswith(ZERO_HEAD), f"no gradient reaches {jax.tree_util.keystr(path)}"
    if jax.tree.leaves(found["batches"]):
        _check_splits_are_disjoint(found["batches"])


def _check_splits_are_disjoint(batches):
    """Batches of one draw; that the data of the splits are disjoint is tested where they are loaded."""
    seen = []
    for split in SPLITS:
        inputs, targets = (np.asarray(part, np.float64) for part in batches[split])
        rows = np.concatenate([inputs.reshape(len(inputs), -1), targets.reshape(len(targets), -1)], axis=1)
        seen.append({row.tobytes() for row in rows})
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_a_task_from_outside_the_package_keeps_it_too(monkeypatch):
    import toy

    check_task_family(make_task("toy:least_squares"))
    monkeypatch.setitem(TASKS, "toy_least_squares", toy.least_squares)  # the registry line
    check_task_family(make_task("toy_least_squares"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Uphill(Quadratic):
    """A quadratic whose gradient has the wrong sign."""

    def loss(self, params, model_state, key, batch):
        loss, rest = super().loss(params, model_state, key, batch)
        return 2 * jax.lax.stop_gradient(loss) - loss, rest


class UphillFamily(Quadratics):
    def sample(self, key, member):
        task = super().sample(key, member)
        return Uphill(task.curvature, task.centre)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Quadratics(dim=3, members=("twice", "twice")), "different names"),
        (Quadratics(dim=3, loss_cap=1e-6), "above the cap"),
        (Quadratics(dim=1000), "holds no data"),
        (UphillFamily(dim=3), "lowers the loss"),
    ],
)
def test_the_contract_notices_what_breaks_it(family, message):
    with pytest.raises(AssertionError, match=message):
        check_task_family(family)
