"""Steps by width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.optimizers import AdafacMLP, adafac_mlp
from celo.transforms import mup_scale

UPDATES = {
    "in": jnp.ones((3, 16)),
    "hidden": jnp.ones((16, 32), jnp.bfloat16),
    "conv": jnp.ones((3, 3, 4, 8)),
    "blocks": jnp.ones((5, 8, 8)),
    "bias": jnp.ones(16),
}
HIDDEN = {"in": False, "hidden": True, "conv": True, "blocks": True, "bias": False}
PER_LAYER = {"in": 0, "hidden": 0, "conv": 0, "blocks": 1, "bias": 0}


def test_hidden_layers_are_divided_by_their_fan_in_and_nothing_else():
    tx = mup_scale(HIDDEN, per_layer=PER_LAYER)
    updates, state = jax.jit(tx.update)(UPDATES, tx.init(UPDATES))
    assert state == optax.EmptyState()
    for name, fan_in in {"in": 1, "hidden": 16, "conv": 36, "blocks": 8, "bias": 1}.items():
        assert updates[name].dtype == UPDATES[name].dtype
        np.testing.assert_allclose(updates[name].astype(jnp.float32), 1 / fan_in, rtol=0.01)


def test_the_base_is_where_nothing_changes():
    updates, _ = mup_scale(HIDDEN, base_fan_in=16, per_layer=PER_LAYER).update(UPDATES, optax.EmptyState())
    np.testing.assert_array_equal(updates["hidden"], UPDATES["hidden"])
    np.testing.assert_allclose(updates["blocks"], 2.0)


def test_hidden_may_be_a_function_of_the_parameters():
    updates, _ = mup_scale(lambda u: jax.tree.map(lambda x: x.ndim == 2 and len(x) > 3, u)).update(
        UPDATES, optax.EmptyState()
    )
    np.testing.assert_array_equal(updates["in"], UPDATES["in"])
    np.testing.assert_allclose(updates["hidden"].astype(jnp.float32), 1 / 16)


@pytest.mark.parametrize("base", [0, -1.0, float("nan")])
def test_bases_that_are_not_positive(base):
    with pytest.raises(CeloError, match="base_fan_in must be positive"):
        mup_scale(HIDDEN, base_fan_in=base)


def test_vectors_are_no_hidden_layers():
    with pytest.raises(CeloError, match=r"updates\['bias'\] of shape \(16,\), which has no inputs"):
        mup_scale(HIDDEN | {"bias": True}).update(UPDATES, optax.EmptyState())
    with pytest.raises(CeloError, match="hidden must be a bool"):
        mup_scale({"in": True}).update(UPDATES, optax.EmptyState())


@pytest.mark.slow
def test_what_a_layer_says_changes_alike_at_all_widths(noisy_theta):
    """One step of AdaFac-MLP, whose elements do not depend on the width, seen through the layer."""
    tx, changes = adafac_mlp(weights=noisy_theta(AdafacMLP())), {}
    for width in (32, 512):
        grads = jax.random.normal(jax.random.key(0), (width, width))
        params = jax.random.normal(jax.random.key(1), (width, width)) / jnp.sqrt(width)
        update, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        scaled, _ = mup_scale(True).update(update, optax.EmptyState())
        for name, change in (("mup", scaled), ("none", update)):
            changes[name, width] = float(jnp.abs(jnp.mean(jnp.ones(width) @ change)))
    assert changes["none", 512] / changes["none", 32] == pytest.approx(16, rel=0.3)
    assert changes["mup", 512] / changes["mup", 32] == pytest.approx(1, rel=0.3)
