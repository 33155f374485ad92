"""VeLO in PyTorch: as in JAX, as published, on tensors and groups of any kind."""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import side_by_side
import torch
import velo_reading

import celo
from celo import _compile, weights
from celo._errors import CeloError
from celo.torch import VeLO

HORIZON = 60
PROBLEM = golden_data.below(golden_data.load(), "problem")
GOLDEN = golden_data.load(golden_data.VELO)
THETA = {
    kind: golden_data.to_velo_theta(golden_data.below(GOLDEN, f"theta/velo_s__{kind}"))
    for kind in golden_data.KINDS
}
NOISY = THETA["noisy"]
KERNELS = ["eager"] if _compile.find_compiler() is None else ["eager", "native"]


@functools.cache
def problem():
    return side_by_side.problem()


def jax_run(tx, dtype=jnp.float32):
    params, grads, losses = problem()
    path, state = side_by_side.in_jax(tx, *side_by_side.as_in_jax(params, grads), losses, dtype)
    return side_by_side.as_in_torch(path), state


@functools.cache
def in_jax(dtype="float32"):
    return jax_run(celo.velo(HORIZON, weights=NOISY), getattr(jnp, dtype))


def assert_alike(ours, theirs, tolerance=1e-4):
    far = side_by_side.deviations(ours, theirs)
    assert max(far.values()) <= tolerance, far


@pytest.mark.parametrize(
    "options", [*({"kernel": kernel} for kernel in KERNELS), {"kernel": "eager", "foreach": False}]
)
def test_it_takes_the_steps_it_takes_in_jax(options):
    make = functools.partial(VeLO, num_steps=HORIZON, weights=NOISY, **options)
    ours, optimizer = side_by_side.in_torch(make, *problem())
    theirs, state = in_jax()
    assert_alike(ours, theirs)
    assert {x.dtype for of_one in optimizer.state.values() for x in of_one.values()} == {torch.float32}
    (controller,) = filter(keeps_time, jax.tree.leaves(state, is_leaf=keeps_time))
    order = sorted(range(len(side_by_side.SHAPES)), key=lambda i: list(side_by_side.SHAPES)[i])
    of_each = list(optimizer.state.values())
    for name in ("hidden", "cell"):
        found = np.stack([of_each[i][name].numpy() for i in order])
        np.testing.assert_allclose(found, getattr(controller, name), rtol=1e-3, atol=1e-4)


def keeps_time(node):
    return getattr(node, "keeps_time", False)


def test_bfloat16_parameters_keep_float32_statistics():
    make = functools.partial(VeLO, num_steps=HORIZON, weights=NOISY)
    ours, optimizer = side_by_side.in_torch(make, *problem(), dtype=torch.bfloat16)
    theirs, _ = in_jax("bfloat16")
    for name, path in theirs.items():  # JAX rounds the step and then the sum, PyTorch the sum alone
        allowed = 0.05 * np.abs(path[-1] - path[0]).max() + 2.0**-6 * np.abs(path).max()
        np.testing.assert_allclose(ours[name], path, rtol=0, atol=allowed, err_msg=name)
    assert {x.dtype for of_one in optimizer.state.values() for x in of_one.values()} == {torch.float32}


def test_rates_decay_and_scale_are_as_in_jax():
    tx = celo.velo(
        HORIZON, weights=NOISY, learning_rate=0.5, weight_decay=0.3, mixture_scale=1.3, plateau=0.5
    )
    make = functools.partial(
        VeLO, num_steps=HORIZON, weights=NOISY, lr=0.5, weight_decay=0.3, mixture_scale=1.3, plateau=0.5
    )
    ours, optimizer = side_by_side.in_torch(make, *problem())
    assert_alike(ours, jax_run(tx)[0])
    assert optimizer.param_groups[0]["schedule_clock"] == 30


def test_horizons_that_change_are_as_in_jax():
    params, grads, losses = side_by_side.problem({"w": (4, 6), "b": (5,)}, steps=30)
    tx = celo.velo(HORIZON, weights=NOISY, plateau=0.25)
    update, theirs, state = jax.jit(tx.update), params, tx.init(params)
    tensors = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    optimizer = VeLO(tensors.values(), HORIZON, weights=NOISY, plateau=0.25)
    for step, loss in enumerate(losses):
        if step == 8:
            state = celo.with_horizon(state, 40)
            optimizer.set_horizon(40)
        if step == 20:
            state = celo.cool_down(state, 10)
            optimizer.cool_down(10)
        now = {name: grads[name][step] for name in params}
        updates, state = update(now, state, theirs, value=loss)
        theirs = {name: theirs[name] + updates[name] for name in params}
        for name, x in tensors.items():
            x.grad = torch.tensor(now[name])
        optimizer.step(loss=torch.tensor(loss))
    ours = {name: np.stack([params[name], x.detach().numpy()]) for name, x in tensors.items()}
    assert_alike(ours, {name: np.stack([params[name], np.asarray(x)]) for name, x in theirs.items()})


@pytest.mark.parametrize("kernel", KERNELS)
def test_per_layer_is_as_in_jax(kernel):
    shapes = {"lines": (3, 4, 7), "stack": (2, 3, 5, 6), "stack_too": (2, 3, 5, 6)}
    params, grads, losses = side_by_side.problem(shapes, steps=20)
    theirs, _ = side_by_side.in_jax(celo.velo(HORIZON, weights=NOISY, per_layer=1), params, grads, losses)
    make = functools.partial(VeLO, num_steps=HORIZON, weights=NOISY, per_layer=1, kernel=kernel)
    assert_alike(side_by_side.in_torch(make, params, grads, losses)[0], theirs)


# ---------------------------------------------------------------------- as published


def published_run(name, kernel):
    """(what ours does, θ, parameters, gradients, losses and horizon)."""
    _, kind, case = name.split("__")
    num_steps, prefix = golden_data.CASES[case]
    params, grads = (golden_data.below(PROBLEM, part) for part in ("params0", f"{prefix}grads"))
    losses = PROBLEM[f"{prefix}losses"]
    make = functools.partial(VeLO, num_steps=num_steps, weights=THETA[kind], kernel=kernel)
    ours, _ = side_by_side.in_torch(make, params, grads, losses)
    return ours, (THETA[kind], params, grads, losses, num_steps)


def check(ours, theirs):
    assert ours.keys() == theirs.keys()
    for tensor, path in theirs.items():
        allowed = max(1e-3 * np.abs(path[-1] - path[0]).max(), 1e-7)
        np.testing.assert_allclose(ours[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", golden_data.VELO_TRAJECTORIES)
def test_recordings_of_the_published_code_are_reproduced(name, kernel):
    check(published_run(name, kernel)[0], golden_data.below(GOLDEN, f"traj/{name}/params"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_stress(kernel):
    """Zero and huge gradients, spikes of the loss and one below zero; the reading stands for a recording."""
    ours, case = published_run("velo_s__noisy__stress", kernel)
    check(ours, velo_reading.run(*case))


# ---------------------------------------------------------------------- groups and weights


def steps_of(optimizer, params, count=3):
    draw = torch.Generator().manual_seed(0)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step(loss=1.0)
    return [p.detach().clone() for p in params]


def leaves():
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=draw).requires_grad_() for shape in ((4, 5), (3, 7), (4, 5))]


def test_groups_are_heard_together():
    """The LSTM's maximum is over all tensors, whatever their group."""
    whole, divided = leaves(), leaves()
    one = VeLO(whole, HORIZON, weights=NOISY)
    two = VeLO([{"params": divided[:1]}, {"params": divided[1:]}], HORIZON, weights=NOISY)
    for x, y in zip(steps_of(one, whole), steps_of(two, divided), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def test_tensors_of_adamw_have_no_say():
    with_others, alone = leaves(), leaves()
    groups = [{"params": with_others[:2]}, {"params": with_others[2:], "rule": "adamw"}]
    found = steps_of(VeLO(groups, HORIZON, weights=NOISY), with_others)
    expected = steps_of(VeLO(alone[:2], HORIZON, weights=NOISY), alone)
    for x, y in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def test_the_architecture_in_a_file_says_the_scale(tmp_path):
    steps = {}
    for architecture in ("velo_s", "velo_4000"):
        path = tmp_path / f"{architecture}.safetensors"
        weights.save(path, NOISY, metadata={"architecture": architecture})
        params = leaves()
        steps[architecture] = steps_of(VeLO(params, HORIZON, weights=path), params, 1)
    params = leaves()
    said = steps_of(VeLO(params, HORIZON, weights=NOISY, mixture_scale=100.0), params, 1)
    for x, y, z in zip(steps["velo_4000"], said, steps["velo_s"], strict=True):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)


def test_it_begins_with_the_first_state_of_theta():
    [state] = VeLO(
        [torch.ones(2, 3, 4, requires_grad=True)], HORIZON, weights=NOISY, per_layer=1
    ).state.values()
    for name, first in (("hidden", "h0"), ("cell", "c0")):
        np.testing.assert_array_equal(state[name], np.stack([NOISY["controller"][first]] * 2))


def test_options_out_of_range_are_refused():
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(CeloError, match=f"mixture_scale must be positive and finite, got {scale}"):
            VeLO(leaves(), HORIZON, weights=NOISY, mixture_scale=scale)
    with pytest.raises(CeloError, match=r"rule_bank.*Use weights trained for it"):
        VeLO(leaves(), HORIZON, weights="celo")
    with pytest.raises(TypeError):
        VeLO(leaves(), HORIZON)  # no weights of it are bundled
