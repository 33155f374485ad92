"""The update rule on tensors of one shape: as in JAX, in slices, in stacks, and without a gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo._definitions import CELO
from celo._kernels import rule_network
from celo._kernels.statistics import init_stats
from celo.torch import _rule

SHAPES = [(1,), (37,), (1, 1), (6, 6), (3, 40), (40, 3), (4, 5, 6), (2, 3, 3, 5)]


@pytest.fixture(scope="module")
def as_tensors(theta):
    return {name: torch.from_numpy(np.array(array)) for name, array in theta["update_rule"].items()}


def zero_statistics(shape, count):
    one = {name: torch.zeros(sizes) for name, sizes in _rule.statistics_shapes(tuple(shape)).items()}
    return _rule.Statistics(
        **{name: torch.stack([x] * count, dim=0 if name == "second_moment" else 1) for name, x in one.items()}
    )


def tensors(shape, count=1, steps=4, seed=0):
    draw = np.random.default_rng(seed)
    params = draw.normal(size=(count, *shape)).astype(np.float32)
    return params, (0.3 * draw.normal(size=(steps, count, *shape))).astype(np.float32)


def run(theta, params, grads, min_rms=0.0):
    """(the steps, the statistics) over all gradients."""
    stats = zero_statistics(params.shape[1:], len(params))
    value = torch.from_numpy(params)
    return [
        _rule.steps(CELO, _rule.pack(theta, min_rms), stats, torch.from_numpy(grad), value) for grad in grads
    ], stats


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_tensor_steps_as_in_jax(theta, as_tensors, shape):
    min_rms = 5.0 if len(shape) == 2 else 0.0
    params, grads = tensors(shape)
    steps, stats = run(as_tensors, params, grads, min_rms)
    theirs = init_stats(jnp.asarray(params[0]), 3, 3)
    update = jax.jit(partial(rule_network.tensor_update, CELO))
    for grad, step in zip(grads, steps, strict=True):
        expected, theirs = update(theta["update_rule"], theirs, grad[0], params[0], min_rms)
        np.testing.assert_allclose(step[0], expected, rtol=2e-4, atol=1e-4 * np.abs(expected).max())
    for k in range(3):
        np.testing.assert_allclose(stats.momenta[k, 0], theirs.momenta[k], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(stats.row[k, 0], theirs.row[k], rtol=1e-5)
        if len(shape) > 1:
            np.testing.assert_allclose(stats.col[k, 0], theirs.col[k], rtol=1e-5)
    np.testing.assert_allclose(stats.second_moment[0], theirs.second_moment, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stack_is_each_tensor_by_itself(as_tensors, shape):
    params, grads = tensors(shape, count=3)
    params *= np.float32([1.0, 100.0, 0.01]).reshape(3, *[1] * len(shape))
    steps, stats = run(as_tensors, params, grads)
    for i in range(3):
        alone, own = run(as_tensors, params[i : i + 1], grads[:, i : i + 1])
        for step, expected in zip(steps, alone, strict=True):
            torch.testing.assert_close(step[i : i + 1], expected, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(stats.second_moment[i : i + 1], own.second_moment)
        torch.testing.assert_close(stats.row[:, i : i + 1], own.row)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("most", [1, 10, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slices_change_nothing(monkeypatch, as_tensors, shape, most, count):
    params, grads = tensors(shape, count)
    whole, stats = run(as_tensors, params, grads)
    monkeypatch.setattr(_rule, "CPU_SLICE", most)
    sliced, own = run(as_tensors, params, grads)
    for step, expected in zip(sliced, whole, strict=True):
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    for left, right in zip(own, stats, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("most", [1, 7, 50, 10_000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slices_cover_each_element_once(shape, most):
    seen = torch.zeros(shape)
    slices = _rule._slices(shape, most)
    for part in slices:
        part.of(seen).add_(1)
        # Along the largest axis alone: a slice is one line across it at least.
        assert part.of(seen).numel() <= max(most, seen.numel() // max(shape))
    assert (seen == 1).all()
    assert len(slices) == 1 or seen.numel() > most


def test_a_gradient_that_is_not_taken_in_leaves_statistics_as_they_were(as_tensors):
    params, grads = tensors((4, 6), count=2)
    _, stats = run(as_tensors, params, grads)
    before = [x.clone() for x in stats]
    network, value = _rule.pack(as_tensors), torch.from_numpy(params)
    _rule.steps(CELO, network, stats, torch.ones(2, 4, 6), value, taken=torch.tensor(0.0))
    for now, then in zip(stats, before, strict=True):
        assert torch.equal(now, then)


def test_gradients_are_clipped_and_nan_is_zero():
    grad = torch.tensor([np.nan, np.inf, -np.inf, 2e3, -5.0], dtype=torch.bfloat16)
    finite = _rule.finite_gradient(grad)
    assert finite.dtype == torch.float32
    assert finite.tolist() == [0.0, 1000.0, -1000.0, 1000.0, -5.0]
    same = torch.full((3,), 1e4)
    _rule.finite_gradient(same)
    assert (same == 1e4).all(), "the gradient itself is not changed"


def test_shapes_of_statistics():
    assert _rule.statistics_shapes((2, 5, 4)) == {
        "momenta": (3, 2, 5, 4),
        "second_moment": (2, 5, 4),
        "row": (3, 2, 1, 4),
        "col": (3, 2, 5, 1),
    }
    apart = _rule.statistics_shapes((9, 5, 4), layers=1)
    assert (apart["row"], apart["col"]) == ((3, 9, 1, 4), (3, 9, 5, 1))
    vector = _rule.statistics_shapes((7,))
    assert (vector["row"], vector["col"]) == ((3, 7), (3, 0))


def test_a_cpu_works_on_less_at_once_than_a_gpu():
    assert _rule.slice_size(torch.device("cpu")) < _rule.slice_size(torch.device("cuda"))
