"""Celo and its rule in PyTorch: as in JAX, as published, on any tensors, and in a real training."""

import functools

import golden_data
import jax.numpy as jnp
import numpy as np
import pytest
import side_by_side
import torch
from sklearn.datasets import load_digits

import celo
from celo import weights
from celo._errors import CeloError
from celo.torch import Celo, CeloRule, _rule

HORIZON = 60  # ten more than the steps that are compared
BUNDLED = {
    group: {name: np.asarray(array) for name, array in arrays.items()}
    for group, arrays in weights.load("celo-1").theta.items()
}
ORTHOGONAL = side_by_side.with_orthogonal_steps(BUNDLED)
THETA = {"plain": BUNDLED, "orthogonal": ORTHOGONAL}
GOLDEN = golden_data.load()
TOLERANCE = 1e-4  # of a tensor's movement


@functools.cache
def problem():
    return side_by_side.problem()


def jax_run(tx, names=None, dtype=jnp.float32):
    params, grads, losses = problem()
    params = {name: p for name, p in params.items() if names is None or name in names}
    path, _ = side_by_side.in_jax(tx, *side_by_side.as_in_jax(params, grads), losses, dtype)
    return side_by_side.as_in_torch(path)


@functools.cache
def celo_in_jax(kind):
    return jax_run(celo.celo(HORIZON, weights=THETA[kind]))


def assert_alike(ours, theirs, tolerance=TOLERANCE):
    far = side_by_side.deviations(ours, theirs)
    assert max(far.values()) <= tolerance, far


# ---------------------------------------------------------------------- as in JAX


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("kind", THETA)
def test_celo_takes_the_steps_it_takes_in_jax(kind, foreach):
    ours, optimizer = side_by_side.in_torch(
        lambda params: Celo(params, HORIZON, weights=THETA[kind], foreach=foreach), *problem()
    )
    assert_alike(ours, celo_in_jax(kind))
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}


@pytest.mark.parametrize("kind", THETA)
def test_slices_change_nothing(monkeypatch, kind):
    monkeypatch.setattr(_rule, "CPU_SLICE", 37)
    ours, _ = side_by_side.in_torch(lambda params: Celo(params, HORIZON, weights=THETA[kind]), *problem())
    assert_alike(ours, celo_in_jax(kind))


@pytest.mark.filterwarnings("ignore:learning_rate is|lr is:celo.OutOfRangeWarning")
def test_weights_without_a_zero_are_used_as_in_jax(theta):
    tx = celo.celo(HORIZON, weights=theta, learning_rate=300.0)
    ours, _ = side_by_side.in_torch(lambda p: Celo(p, HORIZON, weights=theta, lr=300.0), *problem())
    assert_alike(ours, jax_run(tx))


@pytest.mark.parametrize(("kind", "wanted"), [("plain", True), ("orthogonal", False)])
def test_orthogonalize_overrides_the_weights_as_in_jax(kind, wanted):
    tx = celo.celo(HORIZON, weights=THETA[kind], orthogonalize=wanted)
    ours, _ = side_by_side.in_torch(
        lambda params: Celo(params, HORIZON, weights=THETA[kind], orthogonalize=wanted), *problem()
    )
    assert_alike(ours, jax_run(tx))
    assert max(side_by_side.deviations(ours, celo_in_jax(kind)).values()) > 0.1


def test_groups_have_options_of_their_own_and_one_schedule():
    kind = "orthogonal"
    names = list(side_by_side.SHAPES)
    groups = [
        (names[0::3], {"lr": 0.5, "weight_decay": 0.01}),
        (names[1::3], {"min_rms": 0.3, "orthogonalize": False}),
        (names[2::3], {"lr": 2.0, "min_rms": 0.0, "weight_decay": 0.003, "orthogonalize": True}),
    ]
    theirs = {}
    for own, options in groups:
        options = {**options, "learning_rate": options.get("lr", 1.0)}
        options.pop("lr", None)
        theirs |= jax_run(celo.celo(HORIZON, weights=THETA[kind], **options), own)
    ours, _ = side_by_side.in_torch(
        lambda given: Celo(given, HORIZON, weights=THETA[kind]), *problem(), groups=groups
    )
    assert_alike(ours, theirs)


def test_bfloat16_parameters_keep_float32_statistics():
    tx = celo.celo(HORIZON, weights=ORTHOGONAL)
    ours, optimizer = side_by_side.in_torch(
        lambda params: Celo(params, HORIZON, weights=ORTHOGONAL), *problem(), dtype=torch.bfloat16
    )
    # JAX rounds the step and then the sum, PyTorch the sum alone.
    assert_alike(ours, jax_run(tx, dtype=jnp.bfloat16), 0.05)
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}
    assert {p.dtype for group in optimizer.param_groups for p in group["params"]} == {torch.bfloat16}


def test_the_rule_takes_the_steps_it_takes_in_jax():
    rule = {"update_rule": ORTHOGONAL["update_rule"]}
    tx = celo.celo_rule(0.7, weights=rule, weight_decay=0.002)
    ours, _ = side_by_side.in_torch(
        lambda params: CeloRule(params, 0.7, weights=rule, weight_decay=0.002), *problem()
    )
    assert_alike(ours, jax_run(tx))


def test_the_rule_follows_a_scheduler_of_pytorch():
    rates = 0.5 * (1 + np.cos(np.pi * np.arange(50) / 50))
    tx = celo.celo_rule(lambda step: jnp.asarray(rates, jnp.float32)[step])
    params, grads, _ = problem()
    tensors = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    optimizer = CeloRule(tensors.values())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        for name, x in tensors.items():
            x.grad = torch.from_numpy(np.asarray(grads[name][step]))
        optimizer.step()
        scheduler.step()
    ours = {name: np.stack([params[name], x.detach().numpy()]) for name, x in tensors.items()}
    theirs = {name: path[[0, -1]] for name, path in jax_run(tx).items()}
    assert_alike(ours, theirs)


def test_of_a_matrix_its_momentum_is_kept_and_its_first_size():
    """Also by an optimizer that is made after one with other weights; of a vector, what the rule needs."""
    rules = {"momenta", "second_moment", "row", "col"}
    for kind, matrixs in (("plain", rules), ("orthogonal", {"momentum", "first_size"})):
        params = [torch.ones(5, 3, 7, requires_grad=True), torch.ones(7, requires_grad=True)]
        optimizer = Celo(params, HORIZON, weights=THETA[kind])
        of_matrix, of_vector = optimizer.state.values()
        assert set(of_matrix) == matrixs
        assert set(of_vector) == rules


# ---------------------------------------------------------------------- as published


@pytest.mark.parametrize("name", [n for n in golden_data.TRAJECTORIES if not n.startswith("celo_adam")])
def test_recordings_of_the_published_code_are_reproduced(name):
    optimizer, kind, case = name.split("__")
    theta = golden_data.to_theta(golden_data.below(GOLDEN, f"theta/celo__{kind}"))
    num_steps, prefix = golden_data.CASES[case]
    make = (
        functools.partial(CeloRule, weights=theta)
        if optimizer == "celo_phase1"
        else functools.partial(Celo, num_steps=num_steps, weights=theta)
    )
    ours, _ = side_by_side.in_torch(
        make,
        golden_data.below(GOLDEN, "problem/params0"),
        golden_data.below(GOLDEN, f"problem/{prefix}grads"),
        GOLDEN[f"problem/{prefix}losses"],
    )
    theirs = golden_data.below(GOLDEN, f"traj/{name}/params")
    assert ours.keys() == theirs.keys()
    for tensor, path in theirs.items():
        allowed = max(1e-3 * np.abs(path[-1] - path[0]).max(), 1e-7)
        np.testing.assert_allclose(ours[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


# ---------------------------------------------------------------------- tensors of any kind


def stepped(make, params, steps=5, **options):
    """Parameters after steps; their gradients are one row of numbers, however it is divided among them."""
    optimizer = make(params, **options)
    draw = np.random.default_rng(0)
    for step in range(steps):
        for p in params:
            p.grad = torch.tensor(draw.normal(size=p.shape), dtype=torch.float32)
        optimizer.step(loss=2.0 - 0.1 * step)
    return [p.detach().clone() for p in params]


def leaf(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32).requires_grad_()


make = functools.partial(Celo, num_steps=50, weights=ORTHOGONAL)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("shape", [(5,), (6, 8), (5, 6, 7), (4, 3, 3, 5)], ids=str)
def test_per_layer_is_as_if_each_layer_were_a_tensor(shape, foreach):
    stacks = [leaf(2, 3, *shape), leaf(2, 3, *shape, seed=1)]
    apart = [x.detach().clone().requires_grad_() for stack in stacks for x in stack.flatten(0, 1)]
    before = [x.detach().clone() for x in stacks]
    together = stepped(make, stacks, per_layer=2, foreach=foreach)
    layers = stepped(make, apart)
    for stack, first, of_it in zip(together, before, (layers[:6], layers[6:]), strict=True):
        expected = torch.stack(of_it).view(stack.shape)
        moved = float((expected - first).abs().max())
        assert moved > 0
        torch.testing.assert_close(stack, expected, rtol=0, atol=1e-4 * moved)


@pytest.mark.parametrize("per_layer", [1, 2])
def test_per_layer_is_as_in_jax(per_layer):
    shapes = {"stack": (2, 3, 5, 6), "stack_too": (2, 3, 5, 6), "lines": (3, 4, 7)}
    params, grads, losses = side_by_side.problem(shapes, steps=20)
    tx = celo.celo(HORIZON, per_layer=per_layer)
    theirs, _ = side_by_side.in_jax(tx, params, grads, losses)
    ours, _ = side_by_side.in_torch(lambda p: Celo(p, HORIZON, per_layer=per_layer), params, grads, losses)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("per_layer", [-1, 1.5, True, "1"])
def test_per_layer_that_is_no_count_is_refused(per_layer):
    with pytest.raises(CeloError, match=rf"per_layer must be .*got {per_layer!r}"):
        Celo([leaf(3, 4)], 50, per_layer=per_layer)


def test_per_layer_needs_as_many_axes():
    with pytest.raises(CeloError, match=r"per_layer=2 .*shape \[7\].*per_layer=0"):
        Celo([leaf(3, 4), leaf(7)], 50, per_layer=2)
    optimizer = Celo([{"params": [leaf(3, 4)], "per_layer": 2}, {"params": [leaf(7)]}], 50)
    assert len(optimizer.param_groups) == 2


def test_strides_of_a_parameter_do_not_matter():
    draw = leaf(4, 3, 5, 5)
    plain = [draw.detach().clone().requires_grad_(), leaf(6, 9)]
    strided = [
        draw.detach().clone().to(memory_format=torch.channels_last).requires_grad_(),
        leaf(6, 9).detach().T.contiguous().T.requires_grad_(),
    ]
    assert not any(p.is_contiguous() for p in strided)
    expected = stepped(make, plain)
    found = stepped(make, strided)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert not any(p.is_contiguous() for p in strided)


def test_tensors_that_share_a_shape_are_stepped_as_if_alone():
    params = [leaf(4, 6, seed=i) for i in range(5)]
    together = stepped(make, [p.detach().clone().requires_grad_() for p in params])
    alone = stepped(make, [p.detach().clone().requires_grad_() for p in params], foreach=False)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- a real training


def test_digits_are_learned():
    digits = load_digits()
    images = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = Celo(model.parameters(), num_steps=300)
    losses = []
    for step in range(300):
        batch = torch.arange(64 * step, 64 * (step + 1)) % len(labels)
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    assert 2.2 < losses[0] < 2.5
    assert np.mean(losses[-28:]) < 0.15  # over all images once
