"""Optimizers on a GPU: the steps of the CPU, and none that waits for the device."""

import pytest
import torch
from side_by_side import SHAPES, problem
from usable_weights import celo2, celo_adam, velo

import celo.torch
from celo.torch._orthogonal import factor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")

STEPS = 20
OPTIMIZERS = {
    "celo": lambda params, **options: celo.torch.Celo(params, STEPS, **options),
    "celo element-wise": lambda params, **options: celo.torch.Celo(
        params, STEPS, weights="celo-1", nonfinite="skip", weight_decay=0.1, **options
    ),
    "celo rule": lambda params, **options: celo.torch.CeloRule(params, **options),
    "celo adam": lambda params, **options: celo.torch.CeloAdam(params, STEPS, weights=celo_adam()),
    "celo2": lambda params, **options: celo.torch.Celo2(params, weights=celo2(), **options),
    "velo": lambda params, **options: celo.torch.VeLO(params, STEPS, weights=velo(), **options),
}


def trained(make, device, **options):
    """(parameters before, after) on the CPU."""
    params, grads, losses = problem(SHAPES | {"big": (130, 70), "deep": (33, 5, 3, 3)}, steps=STEPS)
    mine = [torch.tensor(p, device=device).requires_grad_() for p in params.values()]
    optimizer = make(mine, **options)
    for i, loss in enumerate(torch.tensor(losses, device=device)):
        for p, g in zip(mine, grads.values(), strict=True):
            p.grad = torch.tensor(g[i], device=device)
        optimizer.step(loss=loss) if "Rule" not in type(optimizer).__name__ else optimizer.step()
    return [torch.tensor(p) for p in params.values()], [p.detach().cpu() for p in mine]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_steps_are_those_of_the_cpu(name, kernel):
    before, expected = trained(OPTIMIZERS[name], "cpu")
    _, found = trained(OPTIMIZERS[name], "cuda", kernel=kernel)
    for start, one, other in zip(before, found, expected, strict=True):
        movement = (other - start).norm()
        half = name in ("celo", "celo2", "celo rule") and start.dim() > 1  # orthogonalised in half precision
        assert (one - other).norm() <= (2e-2 if half else 1e-3) * movement + 1e-6, tuple(start.shape)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_no_step_waits_for_the_gpu(name, kernel):
    params = [torch.randn(shape, device="cuda").requires_grad_() for shape in ((40, 30), (30,), (8, 4, 3, 3))]
    optimizer = OPTIMIZERS[name](params, kernel=kernel)
    loss = torch.ones((), device="cuda")
    for step in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        torch.cuda.set_sync_debug_mode("default" if step == 0 else "error")  # the first one makes what stays
        try:
            optimizer.step(loss=loss) if "Rule" not in type(optimizer).__name__ else optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("shape", [(768, 768), (3, 1024, 300), (64, 5000)], ids=str)
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_polar_factors_whatever_the_precision_of_other_products(shape, precision):
    draw = torch.Generator("cuda").manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, device="cuda", generator=draw), full_matrices=False)
    values = torch.logspace(0, -2, left.shape[-1], device="cuda")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    found = factor(left * values @ right)
    torch.set_float32_matmul_precision(before)
    gains = left.double().mT @ found.double() @ right.double().mT
    assert (gains - torch.eye(gains.shape[-1], device="cuda")).abs().max() < 0.12


def test_matrices_that_have_no_factor():
    x = torch.zeros(2, 5, 7, device="cuda")
    assert torch.equal(factor(x), x)
    assert factor(torch.full((5, 7), 1e36, device="cuda")).isfinite().all()


def test_a_step_can_be_captured_in_a_graph():
    def steps(captured):
        draw = torch.Generator("cuda").manual_seed(0)
        params = [torch.randn(s, device="cuda", generator=draw).requires_grad_() for s in ((40, 30), (30,))]
        optimizer = celo.torch.Celo(params, STEPS)
        loss = torch.ones((), device="cuda")
        for p in params:
            p.grad = torch.randn(p.shape, device="cuda", generator=draw)
        for _ in range(3):
            optimizer.step(loss=loss)
        graph = torch.cuda.CUDAGraph()
        if captured:
            with torch.cuda.graph(graph):
                optimizer.step(loss=loss)
        for i in range(4):
            for p in params:
                p.grad.mul_(-0.5)
            loss.fill_(0.9**i)
            graph.replay() if captured else optimizer.step(loss=loss)
        return params

    for one, other in zip(steps(captured=True), steps(captured=False), strict=True):
        torch.testing.assert_close(one, other)
