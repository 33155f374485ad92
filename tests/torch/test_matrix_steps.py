"""Matrices along their momentum in PyTorch; that they step as in JAX is in test_celo and test_jax_state."""

import pytest
import torch

from celo.torch import CeloRule


@pytest.mark.parametrize("kernel", ["eager", "auto"])
def test_matrices_of_several_shapes_step_as_each_alone(kernel):
    """Also two of one shape, which the eager form computes together."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(5, 8), (5, 8), (4, 3, 3, 3), (9, 6)]
    values, grads = ([torch.randn(s, generator=draw) for s in shapes] for _ in range(2))

    def stepped(which):
        params = [torch.nn.Parameter(values[i].clone()) for i in which]
        for p, i in zip(params, which, strict=True):
            p.grad = grads[i].clone()
        CeloRule(params, kernel=kernel).step()
        return [p.detach() for p in params]

    for i, together in enumerate(stepped(range(len(shapes)))):
        [alone] = stepped([i])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
