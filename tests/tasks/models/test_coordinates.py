"""Networks of coordinates."""

import jax
import jax.numpy as jnp

from celo.tasks._models.coordinates import Siren


def test_siren_keeps_its_activations_spread():
    """What its initialisation is for: sines of every layer go over their whole range."""
    module = Siren((64, 64, 64))
    points = jax.random.uniform(jax.random.key(1), (500, 2), minval=-1.0, maxval=1.0)
    variables = jax.jit(lambda key: module.init(key, points, train=False))(jax.random.key(0))
    x = points
    for layer in range(3):
        weights = variables["params"][f"Dense_{layer}"]
        x = jnp.sin(30 * (x @ weights["kernel"] + weights["bias"]))
        assert 0.6 < float(x.std()) < 0.8
