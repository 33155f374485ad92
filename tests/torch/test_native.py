"""The native kernels against PyTorch's own operations, and what happens where they cannot be had."""

import pytest
import torch

import celo.torch
from celo import _compile
from celo._definitions import CELO, CELO2, MUON
from celo._errors import CeloError
from celo.torch import _native, _rule
from celo.torch._orthogonal import factor, polar_factor
from celo.torch._weights import CELO_RULE, RULE, bind

needs_compiler = pytest.mark.skipif(_compile.find_compiler() is None, reason="there is no C++ compiler here")

SHAPES = [(1,), (7,), (4, 9), (8, 8), (9, 4), (3, 5, 4), (2, 3, 5, 7), (1, 1), (300, 70)]


def zero_statistics(shape, count):
    """Of as many tensors of one shape."""
    statistics = {name: torch.zeros(sizes) for name, sizes in _rule.statistics_shapes(tuple(shape)).items()}
    return _rule.Statistics(
        *(
            x.unsqueeze(0 if name == "second_moment" else 1)
            .repeat_interleave(count, 0 if name == "second_moment" else 1)
            .contiguous()
            for name, x in statistics.items()
        )
    )


@needs_compiler
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_kernels_take_the_same_steps(shape, count):
    network = _rule.pack(bind("celo", (CELO_RULE,)).theta[RULE], 0.01)
    draw = torch.Generator().manual_seed(0)
    params = torch.randn(count, *shape, generator=draw)
    eager, native = (zero_statistics(shape, count) for _ in range(2))
    for _ in range(3):
        grads = torch.randn(count, *shape, generator=draw)
        grads[0].view(-1)[0] = torch.nan
        expected = _rule.steps(CELO, network, eager, grads, params)
        found = _native.rule_steps(CELO, network, native, grads, params)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    for one, other in zip(native, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("rule", [CELO, CELO2], ids=lambda rule: rule.name)
@pytest.mark.parametrize("shape", [(7,), (9, 4), (8, 8)], ids=str)
def test_each_tensor_may_have_its_own_network(rule, shape):
    draw = torch.Generator().manual_seed(0)
    params, grads = (torch.randn(3, *shape, generator=draw) for _ in range(2))
    theta = [
        {name: torch.randn(sizes, generator=draw) for name, sizes in rule.shapes.items()} for _ in range(3)
    ]
    networks = torch.stack([_rule.pack(one, 0.01) for one in theta])
    eager, native = (zero_statistics(shape, 3) for _ in range(2))
    expected = _rule.steps(rule, networks, eager, grads, params)
    found = _native.rule_steps(rule, networks, native, grads, params)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    for i in range(3):
        alone = _rule.steps(rule, networks[i], zero_statistics(shape, 1), grads[i : i + 1], params[i : i + 1])
        torch.testing.assert_close(
            expected[i : i + 1], alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max())
        )


def test_which_tensors_have_a_native_form():
    assert all(_native.has_form(CELO, shape) for shape in ((), (3,), (3, 4), (2, 3, 4), (2, 3, 5, 7)))
    assert all(_native.has_form(CELO2, shape) for shape in ((), (3,), (3, 4), (4, 5, 3), (8, 8, 3, 3)))
    assert not any(_native.has_form(CELO2, shape) for shape in ((3, 4, 5), (64, 3, 7, 7), (2, 3, 5, 7)))


@needs_compiler
def test_muons_factors_are_left_as_long_as_they_are():
    matrices = [torch.randn(3, 40, 60), torch.zeros(2, 5, 5)]
    expected = [factor(x, MUON) for x in matrices]
    _native.orthogonalize(matrices, None, MUON)
    for found, one in zip(matrices, expected, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-3)


@needs_compiler
def test_matrices_of_many_shapes_become_their_polar_factors_in_one_call():
    matrices = [torch.randn(3, 40, 60), torch.randn(1, 100, 8), torch.zeros(2, 5, 5)]
    expected = [polar_factor(x) for x in matrices]
    _native.orthogonalize(matrices, torch.tensor(2.0))
    for found, one in zip(matrices, expected, strict=True):
        torch.testing.assert_close(found, 2 * one, rtol=1e-3, atol=1e-3)


@needs_compiler
def test_threads_change_the_steps_by_rounding_alone():
    network = _rule.pack(bind("celo", (CELO_RULE,)).theta[RULE])
    draw = torch.Generator().manual_seed(0)
    grads, params = (torch.randn(1, 700, 600, generator=draw) for _ in range(2))
    threads, steps = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            steps.append(_native.rule_steps(CELO, network, zero_statistics((700, 600), 1), grads, params))
    finally:
        torch.set_num_threads(threads)
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0], rtol=0, atol=1e-5 * float(steps[0].abs().max()))


@needs_compiler
def test_a_state_whose_memory_is_not_in_order_is_put_in_order():
    steps = []
    for in_order in (True, False):
        p = torch.nn.Parameter(torch.ones(6, 5))
        optimizer = celo.torch.CeloRule([p], weights="celo-1", kernel="native")
        if not in_order:
            state = optimizer.state[p]
            state["momenta"] = state["momenta"].mT.contiguous().mT
        p.grad = torch.arange(30.0).view(6, 5)
        optimizer.step()
        steps.append(p.detach().clone())
    torch.testing.assert_close(*steps, rtol=0, atol=0)


@needs_compiler
def test_guarded_steps_leave_statistics_as_they_were():
    p = torch.nn.Parameter(torch.ones(4, 5))
    optimizer = celo.torch.CeloRule([p], kernel="native", nonfinite="skip")
    p.grad = torch.ones(4, 5)
    optimizer.step()
    before = {name: x.clone() for name, x in optimizer.state[p].items()}
    value = p.detach().clone()
    p.grad = torch.full((4, 5), torch.inf)
    optimizer.step()
    torch.testing.assert_close(p.detach(), value, rtol=0, atol=0)
    for name, x in optimizer.state[p].items():
        torch.testing.assert_close(x, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("kernel", ["auto", "eager"])
@pytest.mark.parametrize("grown", [(128, 16), (10, 160), (16, 100), (50, 32)], ids=str)
def test_a_parameter_that_changed_its_shape_is_refused(grown, kernel):
    """As many elements or not: a kernel would read past the ends of statistics along its axes."""
    p = torch.nn.Parameter(torch.ones(100, 16))
    optimizer = celo.torch.CeloRule([p], kernel=kernel)
    p.data, p.grad = torch.ones(grown), None
    p.grad = torch.ones(grown)
    with pytest.raises(CeloError, match=r"the state of a parameter \[.*expected.*begin with a fresh state"):
        optimizer.step()
