"""What meta-training lowers."""

import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta._objective import SCALES, Objective

LOSSES = jnp.array([0.0, 0.1, 1.0, 3.0])


def test_the_papers_objective_is_the_loss_itself():
    np.testing.assert_array_equal(Objective().cost(LOSSES, jnp.float32(0.3), 3.0), LOSSES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("lateness", [0.0, 1.0, 2.5])
def test_the_weights_of_a_life_have_mean_one(scale, lateness):
    passed = (jnp.arange(2000) + 0.5) / 2000
    costs = Objective(scale, lateness).cost(jnp.full(2000, 0.7), passed, 3.0)
    alone = Objective(scale).cost(jnp.float32(0.7), jnp.float32(1.0), 3.0)
    assert float(jnp.mean(costs)) == pytest.approx(float(alone), rel=1e-4)
    if lateness:
        assert abs(float(costs[-1])) > abs(float(costs[0]))


def test_logarithms_make_equal_ratios_equal_and_end_at_the_floor():
    cost = Objective("log_loss").cost(jnp.array([1.0, 2.0, 0.5]) * 50, jnp.float32(1.0), 1.0)
    assert float(cost[1] - cost[0]) == pytest.approx(float(cost[0] - cost[2]), rel=1e-2)
    floor = Objective("log_loss").cost(jnp.array([0.0, 1e-9]), jnp.float32(1.0), 1.0)
    assert np.isfinite(floor).all()
    assert float(floor[1] - floor[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("settings", "words"), [(("los",), "loss"), (("loss", -1.0), "lateness.*-1")])
def test_bad_settings(settings, words):
    with pytest.raises(CeloError, match=words):
        Objective(*settings)
