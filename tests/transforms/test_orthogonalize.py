"""`celo.transforms.orthogonalize`, and the setting by which Celo's rule does the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo
from celo import CeloError
from celo.transforms import orthogonalize

PARAMS = {
    "embedding": jnp.asarray(np.random.default_rng(0).standard_normal((12, 6)), jnp.float32),
    "blocks": {
        "kernel": jnp.asarray(np.random.default_rng(1).standard_normal((3, 3, 4, 8)), jnp.bfloat16),
        "bias": jnp.ones(8),
    },
}


def spread(x):
    """The largest singular value over the smallest, of a matrix whose columns are the last axis."""
    values = np.linalg.svd(np.asarray(x, np.float64).reshape(-1, x.shape[-1]), compute_uv=False)
    return values[0] / values[-1]


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)))))


def updated(tx, params=PARAMS):
    return tx.update(params, tx.init(params), params)[0]


def test_matrices_have_equal_singular_values_and_their_length():
    updates = updated(orthogonalize())
    assert spread(PARAMS["embedding"]) > 1.5
    assert spread(updates["embedding"]) < 1.2
    assert rms(updates["embedding"]) == pytest.approx(rms(PARAMS["embedding"]), rel=1e-4)
    assert updates["blocks"]["kernel"].dtype == jnp.bfloat16
    assert spread(updates["blocks"]["kernel"]) < 1.2
    np.testing.assert_array_equal(updates["blocks"]["bias"], PARAMS["blocks"]["bias"])


@pytest.mark.parametrize(
    "matrices", [{"embedding": False, "blocks": True}, lambda p: {"embedding": False, "blocks": True}]
)
def test_the_caller_says_which(matrices):
    updates = updated(orthogonalize(matrices))
    np.testing.assert_array_equal(updates["embedding"], PARAMS["embedding"])
    assert spread(updates["blocks"]["kernel"]) < 1.2


def test_layers_are_orthogonalised_apart():
    stack = jnp.asarray(np.random.default_rng(2).standard_normal((3, 9, 5)), jnp.float32)
    together = updated(orthogonalize(per_layer=1), {"w": stack})["w"]
    for layer, one in zip(stack, together, strict=True):
        np.testing.assert_allclose(one, updated(orthogonalize(), {"w": layer})["w"], rtol=1e-3, atol=1e-4)


def test_it_goes_into_a_chain_and_trains():
    target = PARAMS["embedding"]
    tx = optax.chain(optax.trace(0.9), orthogonalize(), optax.scale_by_learning_rate(0.03))

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p - target) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return (params + updates, state), loss

    start = jnp.zeros_like(target)
    losses = jax.lax.scan(step, (start, tx.init(start)), length=200)[1]
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("matrices", [{"embedding": True}, 1, {"embedding": "yes", "blocks": True}])
def test_what_does_not_fit_is_refused(matrices):
    with pytest.raises(CeloError, match="matrices must be a bool"):
        updated(orthogonalize(matrices))
    with pytest.raises(CeloError, match="unknown kernel"):
        orthogonalize(kernel="cuda")


@pytest.mark.parametrize("kernel", ["xla", "auto"])
def test_celo_orthogonalises_the_steps_of_matrices(kernel):
    """Its steps are those of the weights as they are, put through the transformation."""
    plain = celo.scale_by_celo_rule("celo-1", kernel=kernel)
    together = celo.scale_by_celo_rule(
        "celo-1", kernel=kernel, orthogonalize={"embedding": True, "blocks": False}
    )
    expected = updated(orthogonalize({"embedding": True, "blocks": False}), updated(plain))
    found = updated(together)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)
