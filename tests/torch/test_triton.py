"""Triton's kernels against PyTorch's own operations: on a GPU if there is one, else in its interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import celo.torch
from celo._definitions import CELO, CELO2
from celo._errors import CeloError
from celo.torch import _kernel, _rule
from celo.torch._weights import CELO_RULE, RULE, bind

pytest.importorskip("triton", reason="Triton is not installed")
kernels = pytest.importorskip("celo.torch._triton")

DEVICE = "cpu" if kernels.INTERPRETED else "cuda"
# Without and with factors; of one block each but for the last three, of which one divides I.
SHAPES = [(1,), (7,), (9, 4), (4, 9), (8, 8), (3, 5, 4), (1500,), (20, 70), (2, 3, 5, 7)]


@pytest.fixture(scope="module")
def network():
    return _rule.pack(bind("celo", (CELO_RULE,)).theta[RULE], 0.01).to(DEVICE)


def statistics(shape, count):
    """Of as many tensors of one shape, zero."""
    sizes = _rule.statistics_shapes(shape)
    shapes = {n: (count, *s) if n == "second_moment" else (3, count, *s[1:]) for n, s in sizes.items()}
    zeros = {n: torch.zeros(s, device=DEVICE) for n, s in shapes.items()}
    return _rule.Statistics(**zeros)


def by_triton(network, stats, grads, params, taken=1.0):
    return kernels.steps(
        network, [stats.momenta], [stats.second_moment], stats.row, stats.col, [grads], [params], taken
    )


def assert_same_steps(network, shape, count, taken):
    """Over as many steps as `taken` has numbers."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    params = torch.randn(count, *shape, generator=draw, device=DEVICE)
    eager, found = statistics(shape, count), statistics(shape, count)
    for share in taken:
        grads = torch.randn(count, *shape, generator=draw, device=DEVICE)
        grads[0].view(-1)[-1] = torch.nan
        expected = _rule.steps(CELO, network, eager, grads, params, share)
        step = by_triton(network, found, grads, params, share)
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max()))
    for one, other in zip(found, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_takes_the_steps_of_pytorchs_operations(network, shape):
    assert_same_steps(network, shape, count=1, taken=[1.0, 1.0])


def test_several_tensors_each_with_its_own_network(network):
    networks = torch.stack([network, 1.1 * network])
    assert_same_steps(networks, (5, 6), count=2, taken=[1.0])


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6,), (4, 3)], ids=str)
def test_gradients_that_are_not_taken_in_leave_statistics(network, shape):
    assert_same_steps(
        network, shape, count=1, taken=[torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)]
    )


@pytest.mark.slow
def test_strides_of_statistics_do_not_matter(network):
    draw = torch.Generator(DEVICE).manual_seed(0)
    grads, params = (
        torch.randn(1, 4, 6, generator=draw, device=DEVICE),
        torch.randn(1, 6, 4, generator=draw, device=DEVICE).mT,
    )
    in_order, other = statistics((4, 6), 1), statistics((4, 6), 1)
    other = other._replace(momenta=other.momenta.mT.contiguous().mT)
    expected = by_triton(network, in_order, grads, params.contiguous())
    assert torch.equal(by_triton(network, other, grads, params), expected)
    assert torch.equal(other.momenta, in_order.momenta)


def test_tensors_that_lie_apart_or_at_odd_places(network):
    """As side by side: two stacks, of two tensors and of one, whose addresses are no multiples of 16."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    grads, params = (torch.randn(3, 5, 3, generator=draw, device=DEVICE) for _ in range(2))
    stats = statistics((5, 3), 3)
    expected = by_triton(network, stats, grads, params)
    apart = statistics((5, 3), 3)
    momenta, second_moments = apart.momenta.split([2, 1], dim=1), list(apart.second_moment.split([2, 1]))
    found = kernels.steps(
        *(network, list(momenta), second_moments, apart.row, apart.col),
        *(list(grads.split([2, 1])), list(params.split([2, 1]))),
    )
    assert torch.equal(found, expected)
    assert torch.equal(apart.momenta, stats.momenta)
    assert torch.equal(torch.cat(second_moments), stats.second_moment)


def trained(kernel, make):
    params = [
        torch.linspace(-1, 1, n, device=DEVICE).view(shape).requires_grad_()
        for n, shape in ((12, (4, 3)), (5, (5,)))
    ]
    optimizer = make(params, kernel=kernel)
    for p in params:
        p.grad = torch.linspace(1, -2, p.numel(), device=DEVICE).view(p.shape)
    optimizer.step(loss=1.0)
    return params


def test_an_optimizer_that_is_asked_to_uses_them(monkeypatch):
    calls = []
    steps = kernels.steps
    monkeypatch.setattr(kernels, "steps", lambda *args: calls.append(args) or steps(*args))

    def make(params, kernel):
        return celo.torch.Celo(params, 100, weights="celo-1", nonfinite="skip", kernel=kernel)

    for one, other in zip(trained("triton", make), trained("eager", make), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert len(calls) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_calls_them(network):
    torch._dynamo.reset()
    grads, params = torch.ones(1, 3, 2, device=DEVICE), torch.ones(1, 3, 2, device=DEVICE)
    plain, compiled = statistics((3, 2), 1), statistics((3, 2), 1)
    expected = by_triton(network, plain, grads, params)
    found = torch.compile(by_triton, fullgraph=True, backend="aot_eager")(network, compiled, grads, params)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(compiled.momenta, plain.momenta)
    torch._dynamo.reset()


def test_which_tensors_have_a_form():
    assert all(kernels.has_form(CELO, shape) for shape in ((), (3,), (3, 4), (2, 3, 4), (2, 3, 5, 7)))
    assert not kernels.has_form(CELO2, (3, 4))
    assert not kernels.has_form(CELO, (1 << 16, 1 << 15))  # places there take more than 32 bits


@pytest.mark.parametrize("shape", [(7,), (3000,), (9, 4), (768, 3072), (64, 3, 3, 3), (2, 3, 5, 7)], ids=str)
def test_blocks_cover_a_tensor(shape):
    g = kernels._geometry(2, shape)
    covered = (g.tiles[0] * g.A, g.tiles[1] * g.B, g.tiles[2] * g.INNER)
    assert all(c >= n for c, n in zip(covered, (g.a, g.b, g.inner), strict=True))
    assert g.outer * g.a * g.middle * g.b * g.inner == g.size == torch.Size(shape).numel()
    assert g.A * g.B * g.INNER <= 1024
    assert all(n & (n - 1) == 0 for n in (g.A, g.B, g.INNER))


def test_by_name_they_run_on_gpus_or_in_the_interpreter(monkeypatch):
    monkeypatch.setattr(kernels, "INTERPRETED", True)
    assert _kernel.chosen("triton", torch.device("cpu")) == "triton"
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(CeloError, match="the Triton kernel runs on GPUs, and parameters are on cpu"):
        _kernel.chosen("triton", torch.device("cpu"))


@pytest.mark.slow
def test_they_compile_for_a_gpu():
    """Without one: to the code that its driver would be given."""
    script = Path(__file__).with_name("compiled_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["observe", "normalise", "step"] * 2 + ["observe", "step"]
