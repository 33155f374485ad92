"""How steps are added to parameters."""

import pytest
import torch

from celo.torch import _rule, _updates
from celo.torch._sharded import Work


def work(values):
    return [Work(v, v, torch.zeros_like(v), {}) for v in values]


def numbers(count, seed, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=draw).to(dtype) for size in range(1, count + 1)]


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("scale", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_they_are_scaled_and_decayed(monkeypatch, foreach, scale, dtype):
    monkeypatch.setattr(_rule, "CPU_SLICE", 4)  # several chunks of several tensors
    values, steps = numbers(6, 0, dtype), numbers(6, 1)
    expected = [v + (0.5 * s - 0.1 * v.float()).to(dtype) for v, s in zip(values, steps, strict=True)]
    given = zip(work(values), steps, strict=True)
    _updates.add({"foreach": foreach, "weight_decay": 0.2}, given, 1.0, scale, 0.1)
    for value, right in zip(values, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


def test_a_step_that_is_taken_back_adds_nothing_even_of_nan():
    values = numbers(3, 0)
    before = [v.clone() for v in values]
    steps = [torch.full_like(v, torch.nan) for v in values]
    taken = torch.tensor(0.0)
    _updates.add({"weight_decay": 0.0}, zip(work(values), steps, strict=True), taken, taken, 0.0)
    assert all(map(torch.equal, values, before))
