"""Celo-Adam in PyTorch: as in JAX, as published, and Adam's direction under the learned schedule."""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import side_by_side
import torch

import celo
from celo.optimizers import CeloAdam as CeloAdamInJax
from celo.torch import CeloAdam

# Large rates, so that rounding counts for little beside the steps.
pytestmark = pytest.mark.filterwarnings("ignore:learning_rate is|lr is:celo.OutOfRangeWarning")

HORIZON = 60
GOLDEN = golden_data.load()


@pytest.fixture(scope="module")
def theta(noisy_theta):
    return jax.tree.map(np.asarray, noisy_theta(CeloAdamInJax()))


@pytest.mark.parametrize(("dtype", "decay"), [("float32", 0.0), ("float32", 2e-4), ("bfloat16", 2e-4)])
def test_it_takes_the_steps_it_takes_in_jax(theta, dtype, decay):
    options = {"weights": theta, "weight_decay": decay}
    problem = side_by_side.problem()
    tx = celo.celo_adam(HORIZON, learning_rate=100.0, **options)
    theirs, _ = side_by_side.in_jax(tx, *problem, dtype=getattr(jnp, dtype))
    ours, optimizer = side_by_side.in_torch(
        lambda params: CeloAdam(params, HORIZON, lr=100.0, **options), *problem, getattr(torch, dtype)
    )
    far = side_by_side.deviations(ours, theirs)
    assert max(far.values()) <= (1e-4 if dtype == "float32" else 0.1), far
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}


@pytest.mark.parametrize("name", [n for n in golden_data.TRAJECTORIES if n.startswith("celo_adam")])
def test_recordings_of_the_published_code_are_reproduced(name):
    _, kind, case = name.split("__")
    theta = golden_data.to_theta(golden_data.below(GOLDEN, f"theta/celo_adam__{kind}"))
    num_steps, prefix = golden_data.CASES[case]
    ours, _ = side_by_side.in_torch(
        functools.partial(CeloAdam, num_steps=num_steps, weights=theta),
        golden_data.below(GOLDEN, "problem/params0"),
        golden_data.below(GOLDEN, f"problem/{prefix}grads"),
        GOLDEN[f"problem/{prefix}losses"],
    )
    theirs = golden_data.below(GOLDEN, f"traj/{name}/params")
    assert ours.keys() == theirs.keys()
    for tensor, path in theirs.items():
        allowed = max(1e-3 * np.abs(path[-1] - path[0]).max(), 1e-7)
        np.testing.assert_allclose(ours[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


def test_the_direction_is_adams(theta):
    ours = torch.linspace(-1, 1, 9).requires_grad_()
    adams = ours.detach().clone().requires_grad_()
    optimizers = CeloAdam([ours], 50, weights=theta), torch.optim.Adam([adams], lr=1e-3, eps=1e-8)
    shares = []
    for step in range(10):
        grad = torch.randn(9, generator=torch.Generator().manual_seed(step))
        before = ours.detach().clone(), adams.detach().clone()
        ours.grad, adams.grad = grad, grad.clone()
        optimizers[0].step(loss=1.0)
        optimizers[1].step()
        moves = ours.detach() - before[0], adams.detach() - before[1]
        shares.append(torch.nn.functional.cosine_similarity(*moves, dim=0).item())
    assert min(shares) > 0.999


def test_it_has_no_options_of_the_rule(theta):
    optimizer = CeloAdam([torch.ones(3, requires_grad=True)], 10, weights=theta)
    assert not {"min_rms", "per_layer", "orthogonalize"} & set(optimizer.param_groups[0])
    with pytest.raises(TypeError):
        CeloAdam([torch.ones(3, requires_grad=True)], 10)  # no weights of it are bundled
