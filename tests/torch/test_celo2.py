"""Celo2 and Celo2-base in PyTorch: as in JAX, as published, and in a real training."""

import functools

import celo2_reading
import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import side_by_side
import torch
import usable_weights
from sklearn.datasets import load_digits

import celo
from celo import _compile
from celo._errors import CeloError
from celo.optimizers import Celo2 as Celo2InJax
from celo.torch import Celo2, Celo2Base, _kernel, celo2_param_groups

RATE, DECAY = 0.03, 0.1  # so that rounding counts for little beside the steps
# Three axes are a convolution along a line. JAX has matrices in the last two axes, PyTorch in the first two.
SHAPES = side_by_side.SHAPES | {"kernel/wide": (9, 8, 3, 2), "line/wide": (6, 7, 2)}
PROBLEM = golden_data.below(golden_data.load(), "problem")
GOLDEN = golden_data.load(golden_data.CELO2)
THETA = {
    kind: golden_data.to_celo2_theta(golden_data.below(GOLDEN, f"theta/celo2__{kind}"))
    for kind in golden_data.KINDS
}
KERNELS = ["eager"] if _compile.find_compiler() is None else ["eager", "native"]


@pytest.fixture(scope="module")
def theta(noisy_theta):
    return jax.tree.map(np.asarray, noisy_theta(Celo2InJax()))


AXES = {3: (2, 1, 0), 4: (3, 2, 0, 1)}  # of a kernel [places, in, out] as [out, in, places]


def as_in_torch(arrays, before=0):
    """Arrays of JAX's layout in PyTorch's; `before` axes are in front of a tensor's own."""
    turned = {}
    for name, x in arrays.items():
        axes = AXES.get(x.ndim - before, range(x.ndim - before))
        turned[name] = x.transpose(*range(before), *(before + axis for axis in axes))
    return turned


def as_in_jax(arrays, before=0):
    turned = {}
    for name, x in arrays.items():
        axes = np.argsort(AXES.get(x.ndim - before, range(x.ndim - before)))
        turned[name] = x.transpose(*range(before), *(before + axis for axis in axes))
    return turned


def vectors(params):
    return {name: p.ndim < 2 for name, p in params.items()}


@functools.cache
def problem():
    return side_by_side.problem(SHAPES)


def jax_run(tx, dtype=jnp.float32):
    params, grads, losses = problem()
    path, _ = side_by_side.in_jax(tx, as_in_jax(params), as_in_jax(grads, 1), losses, dtype)
    return as_in_torch(path, 1)


OPTIMIZERS = {
    "celo2": (lambda theta: celo.celo2(RATE, weights=theta, weight_decay=DECAY, adam_mask=vectors), Celo2),
    "celo2_base": (lambda theta: celo.celo2_base(RATE, weights=theta, weight_decay=DECAY), Celo2Base),
}


SOME = [pytest.param("celo2_base", marks=pytest.mark.slow), "celo2"]  # the former is a part of the latter


@pytest.fixture(scope="module")
def in_jax(theta):
    return functools.cache(
        lambda name, dtype="float32": jax_run(OPTIMIZERS[name][0](theta), getattr(jnp, dtype))
    )


def assert_alike(ours, theirs, tolerance=1e-4):
    far = side_by_side.deviations(ours, theirs)
    assert max(far.values()) <= tolerance, far


@pytest.mark.parametrize(
    "options", [*({"kernel": k} for k in KERNELS), {"kernel": "eager", "foreach": False}]
)
@pytest.mark.parametrize("name", SOME)
def test_it_takes_the_steps_it_takes_in_jax(theta, in_jax, name, options):
    make = functools.partial(OPTIMIZERS[name][1], lr=RATE, weights=theta, weight_decay=DECAY, **options)
    ours, optimizer = side_by_side.in_torch(make, *problem())
    assert_alike(ours, in_jax(name))
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}


@pytest.mark.slow
def test_slices_change_nothing(monkeypatch, theta, in_jax):
    from celo.torch import _rule

    monkeypatch.setattr(_rule, "CPU_SLICE", 37)
    make = functools.partial(Celo2Base, lr=RATE, weights=theta, weight_decay=DECAY, kernel="eager")
    assert_alike(side_by_side.in_torch(make, *problem())[0], in_jax("celo2_base"))


@pytest.mark.parametrize("name", SOME)
def test_bfloat16_parameters_keep_float32_statistics(theta, in_jax, name):
    make = functools.partial(OPTIMIZERS[name][1], lr=RATE, weights=theta, weight_decay=DECAY)
    ours, optimizer = side_by_side.in_torch(make, *problem(), dtype=torch.bfloat16)
    # JAX rounds the step and then the sum, PyTorch the sum alone.
    assert_alike(ours, in_jax(name, "bfloat16"), 0.1)
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}


def test_groups_say_what_adam_takes(theta):
    names = list(SHAPES)
    by_adam = {name: name in names[::3] for name in names}
    tx = celo.celo2(RATE, weights=theta, adam_mask=lambda params: by_adam, adam_multiplier=3.0)
    groups = [(names[::3], {"adam": True}), ([n for n in names if not by_adam[n]], {"adam": False})]
    make = functools.partial(Celo2, lr=RATE, weights=theta, adam_multiplier=3.0)
    ours, _ = side_by_side.in_torch(make, *problem(), groups=groups)
    assert_alike(ours, jax_run(tx))


@pytest.mark.slow
def test_it_follows_a_scheduler_of_pytorch(theta):
    rates = RATE * 0.5 * (1 + np.cos(np.pi * np.arange(50) / 50))
    tx = celo.celo2(lambda step: jnp.asarray(rates, jnp.float32)[step], weights=theta, adam_mask=vectors)
    schedulers = []

    def make(params):
        optimizer = Celo2(params, RATE, weights=theta)
        schedulers.append(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50))
        optimizer.register_step_post_hook(lambda *_: schedulers[0].step())
        return optimizer

    ours, _ = side_by_side.in_torch(make, *problem())
    theirs = jax_run(tx)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_per_layer_is_as_in_jax(theta, kernel):
    shapes = {"biases": (3, 7), "stack": (2, 5, 6), "stack_too": (2, 5, 6)}
    params, grads, losses = side_by_side.problem(shapes, steps=20)
    adam = {"biases": True, "stack": False, "stack_too": False}
    tx = celo.celo2(RATE, weights=theta, per_layer=1, adam_mask=lambda _: adam)
    theirs, _ = side_by_side.in_jax(tx, params, grads, losses)
    make = functools.partial(Celo2, lr=RATE, weights=theta, per_layer=1, kernel=kernel)
    ours, _ = side_by_side.in_torch(make, params, grads, losses)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_per_layer_is_as_if_each_layer_were_a_tensor(theta, kernel):
    """Also of kernels, whose matrices are apart within each layer."""
    shapes = {"kernels": (2, 6, 5, 3, 2), "lines": (2, 4, 7, 3)}
    params, grads, losses = side_by_side.problem(shapes, steps=10)
    make = functools.partial(Celo2, lr=RATE, weights=theta, kernel=kernel)
    together, _ = side_by_side.in_torch(functools.partial(make, per_layer=1), params, grads, losses)
    for layer in range(2):
        one, _ = side_by_side.in_torch(
            make, {n: p[layer] for n, p in params.items()}, {n: g[:, layer] for n, g in grads.items()}, losses
        )
        assert_alike({name: path[:, layer] for name, path in together.items()}, one)


# ---------------------------------------------------------------------- as published

# Published name -> what makes ours, and the tensors that Adam takes; names with "/b" are biases.
PUBLISHED = {
    "celo2base": (Celo2Base, False),
    "celo2": (Celo2, True),
    "celo2_optax_noortho": (functools.partial(Celo2, adam=False, orthogonalize=False), False),
    "celo2_optax_ortho": (functools.partial(Celo2, adam=False), False),
}


def published_run(optimizer, theta, params, grads, kernel):
    make, biases_by_adam = PUBLISHED[optimizer]
    params, grads = as_in_torch(params), as_in_torch(grads, 1)
    groups = None
    if biases_by_adam:
        of_adam = [name for name in params if name.endswith("/b")]
        others = [name for name in params if name not in of_adam]
        groups = [(of_adam, {"adam": True}), (others, {"adam": False})]
    steps = len(next(iter(grads.values())))
    make = functools.partial(make, lr=1e-3, weights=theta, kernel=kernel)
    ours, _ = side_by_side.in_torch(make, params, grads, np.zeros(steps, "f4"), groups=groups)
    return as_in_jax(ours, 1)


def check(ours, theirs):
    assert ours.keys() == theirs.keys()
    for tensor, path in theirs.items():
        allowed = max(1e-3 * np.abs(path[-1] - path[0]).max(), 3e-7 * np.abs(path).max())
        np.testing.assert_allclose(ours[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", golden_data.CELO2_TRAJECTORIES)
def test_recordings_of_the_published_code_are_reproduced(name, kernel):
    optimizer, kind, _ = name.split("__")
    params, grads = (golden_data.below(PROBLEM, part) for part in ("params0", "grads"))
    ours = published_run(optimizer, THETA[kind], params, grads, kernel)
    check(ours, golden_data.below(GOLDEN, f"traj/{name}/params"))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("optimizer", ["celo2base", "celo2"])
def test_stress(optimizer, kernel):
    """Gradients that are zero and huge in between; the reading stands for a recording."""
    params, grads = (golden_data.below(PROBLEM, part) for part in ("params0", "stress_grads"))
    theirs = celo2_reading.run(
        THETA["noisy"],
        params,
        grads,
        orthogonalize=optimizer == "celo2",
        by_adam=[name for name in params if optimizer == "celo2" and name.endswith("/b")],
    )
    check(published_run(optimizer, THETA["noisy"], params, grads, kernel), theirs)


# ---------------------------------------------------------------------- tensors and options


def test_vectors_have_moments_and_matrices_statistics(theta):
    layer = torch.nn.Linear(4, 3)
    optimizer = Celo2(layer.parameters(), weights=theta)
    assert set(optimizer.state[layer.bias]) == {"step", "first", "second"}
    assert set(optimizer.state[layer.weight]) == {"momenta", "second_moment", "row", "col"}
    base = Celo2Base(torch.nn.Linear(4, 3).parameters(), weights=theta)
    assert {frozenset(state) for state in base.state.values()} == {frozenset(optimizer.state[layer.weight])}
    assert not {"adam", "adam_multiplier", "orthogonalize"} & set(base.param_groups[0])


def test_every_matrix_takes_a_step_of_the_learning_rate(theta):
    params = [torch.randn(shape).requires_grad_() for shape in ((6, 5), (4, 3, 2, 2), (2, 4, 7))]
    before = [p.detach().clone() for p in params]
    optimizer = Celo2(params, 0.01, weights=theta)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, first in zip(params, before, strict=True):
        sizes = (p - first).detach().square().mean(dim=(0, 1)).sqrt()
        torch.testing.assert_close(sizes, torch.full_like(sizes, 0.01), rtol=1e-3, atol=0)


def test_groups_of_a_model_send_embeddings_and_vectors_to_adam(theta):
    model = torch.nn.ModuleDict(
        {"tokens": torch.nn.Embedding(9, 4), "dense": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 9)}
    )
    optimizer = Celo2(celo2_param_groups(model), weights=theta)
    by_adam = {name: group["adam"] for group in optimizer.param_groups for name in group["param_names"]}
    assert by_adam == {
        "tokens.weight": True,
        "dense.weight": False,
        "dense.bias": True,
        "head.weight": False,
        "head.bias": True,
    }


def test_options_out_of_range_are_refused(theta, monkeypatch):
    params = [torch.ones(3, 4, requires_grad=True)]
    monkeypatch.setattr(_kernel, "_has_triton", lambda: True)
    with pytest.raises(CeloError, match=r"Celo2Base has no Triton kernel; use kernel='auto'"):
        Celo2Base(params, weights=theta, kernel="triton")
    with pytest.raises(CeloError, match=r"adam must be True, False or None .*got 'yes'"):
        Celo2(params, weights=theta, adam="yes")
    with pytest.raises(CeloError, match=r"adam_multiplier must be finite and at least 0, got -1"):
        Celo2(params, weights=theta, adam_multiplier=-1)
    with pytest.raises(CeloError, match=r"Celo2Base has no Adam: leave adam= out.*or use Celo2"):
        Celo2Base([{"params": params, "adam": True}], weights=theta)
    with pytest.raises(CeloError, match=r"update_rule/w0.*Use weights trained for it"):
        Celo2(params, weights="celo")
    with pytest.raises(TypeError):
        Celo2(params)  # no weights of it are bundled


# ---------------------------------------------------------------------- a real training


def test_digits_are_learned():
    digits = load_digits()
    images = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = Celo2(model.parameters(), 0.01, weights=usable_weights.celo2())
    losses = []
    for step in range(300):
        batch = torch.arange(64 * step, 64 * (step + 1)) % len(labels)
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert 2.2 < losses[0] < 2.5
    assert np.mean(losses[-28:]) < 0.15  # over all images once
