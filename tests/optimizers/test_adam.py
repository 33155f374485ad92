"""Adam's moments: what they become, and what is taken for gradients that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo._kernels.statistics import unclipped_gradient
from celo.optimizers._adam import init_moments, update_moments

PARAMS = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(())}
GRADS = {"w": jnp.full((2, 3), 2.0, jnp.bfloat16), "b": jnp.float32(-1e6)}


def test_moments_are_averages_in_float32():
    state = init_moments(PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.first, state.second))} == {jnp.dtype("float32")}
    for _ in range(2):
        state = update_moments(state, GRADS, PARAMS, (0.9, 0.95))
    assert int(state.step) == 2
    np.testing.assert_allclose(state.first["w"], np.full((2, 3), 2 * (1 - 0.9**2)), rtol=1e-6)
    np.testing.assert_allclose(state.second["w"], np.full((2, 3), 4 * (1 - 0.95**2)), rtol=1e-6)
    np.testing.assert_allclose(state.first["b"], -1000 * (1 - 0.9**2), rtol=1e-6)  # clipped


def test_gradients_are_clipped_unless_that_is_not_wanted():
    state = update_moments(init_moments(PARAMS), GRADS, PARAMS, (0.9, 0.95), unclipped_gradient)
    np.testing.assert_allclose(state.first["b"], -1e5, rtol=1e-5)
    bad = {**GRADS, "b": jnp.float32(np.nan)}
    state = update_moments(init_moments(PARAMS), bad, PARAMS, (0.9, 0.95), unclipped_gradient)
    assert not state.first["b"]


def test_other_shapes_are_refused():
    with pytest.raises(CeloError, match=r"params\['w'\] has shape \(2, 3\), and its gradient \(3,\)"):
        update_moments(init_moments(PARAMS), {**GRADS, "w": jnp.ones(3)}, PARAMS, (0.9, 0.95))
    with pytest.raises(CeloError, match=r"params\['w'\] has shape \(2, 3\), and its state \(3,\)"):
        update_moments(init_moments({**PARAMS, "w": jnp.ones(3)}), GRADS, PARAMS, (0.9, 0.95))
