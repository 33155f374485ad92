"""Labels by path and shape, on the names that models have; the plan; and what optax makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.optimizers import celo
from celo.transforms import label_params, plan


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


MODEL = {
    "Embed_0": {"embedding": shape(100, 8)},
    "wpe": shape(32, 8),
    "blocks": {
        "attn": {"heads": {"kernel": shape(8, 2, 4), "bias": shape(2, 4)}},
        "ln_1": {"scale": shape(3, 8)},  # a stack of three norms
        "mlp_norm": {"weight": shape(3, 8)},
        "LayerNorm_0": {"scale": shape(8)},
        "conv": {"kernel": shape(3, 3, 8, 8)},
        "gate": shape(),
    },
    "lm_head": {"kernel": shape(8, 100), "bias": shape(100)},
    "unembed": shape(8, 100),
}
LABELS = {
    "Embed_0": {"embedding": "embedding"},
    "wpe": "embedding",
    "blocks": {
        "attn": {"heads": {"kernel": "matrix", "bias": "vector"}},
        "ln_1": {"scale": "vector"},
        "mlp_norm": {"weight": "vector"},
        "LayerNorm_0": {"scale": "vector"},
        "conv": {"kernel": "matrix"},
        "gate": "vector",
    },
    "lm_head": {"kernel": "head", "bias": "vector"},
    "unembed": "head",
}


def test_labels_of_usual_names():
    assert label_params(MODEL) == LABELS


def test_names_of_ones_own():
    params = {
        "words": jnp.ones((5, 2)),
        "out": jnp.ones((2, 5)),
        "beta": jnp.ones((3, 2)),
        "w": jnp.ones((2, 2)),
    }
    labels = label_params(params, embedding="words", head="^out$", vector="beta")
    assert labels == {"words": "embedding", "out": "head", "beta": "vector", "w": "matrix"}
    with pytest.raises(CeloError, match=r"head='\(' is no regular expression"):
        label_params(params, head="(")


def test_plan():
    params = {"embed": shape(50, 8), "dense": {"kernel": shape(8, 8), "bias": shape(8)}, "last": shape(8, 2)}
    assert plan(params, label_params(params)) == "\n".join(
        [
            "vector: 1 tensors, 8 parameters",
            "  dense/bias [8]",
            "matrix: 2 tensors, 80 parameters",
            "  dense/kernel [8, 8]",
            "  last [8, 2]",
            "embedding: 1 tensors, 400 parameters",
            "  embed [50, 8]",
        ]
    )


def test_each_group_goes_to_its_rule(theta):
    params = {"embed": jnp.ones((3, 2)), "dense": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)}}
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    rules = {"matrix": celo(20, weights=theta), "vector": optax.sgd(0.1), "embedding": optax.set_to_zero()}
    tx = optax.partition(rules, label_params(params))
    updates, _ = tx.update(grads, tx.init(params), params, value=1.0)
    alone = celo(20, weights=theta)
    only = params["dense"]["kernel"]
    expected, _ = alone.update(0.5 * only, alone.init(only), only, value=1.0)
    np.testing.assert_allclose(updates["dense"]["kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(updates["dense"]["bias"], -0.05 * np.ones(2), rtol=1e-6)
    np.testing.assert_array_equal(updates["embed"], np.zeros((3, 2)))
