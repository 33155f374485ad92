"""The rule as a map, against rules that are known and against a step of the rule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._definitions import CELO, FIRST_ROW
from celo._explain.rule_map import AXIS, rule_map
from celo._kernels.rule_network import tensor_update
from celo._kernels.statistics import init_stats, rms


@pytest.fixture(params=[(7, 5), (6,), ()], ids=str)
def tensor(request):
    """(statistics with a past, gradient, parameter) of one tensor."""
    keys = iter(jax.random.split(jax.random.key(0), 20))
    param, grad = (jax.random.normal(next(keys), request.param) for _ in range(2))
    stats = jax.tree.map(
        lambda x: jnp.exp(jax.random.normal(next(keys), x.shape)),
        init_stats(param, num_momenta=3, num_factored=3),
    )
    return stats, grad, param


@pytest.mark.parametrize("which", ["grad", "momentum"])
def test_the_map_of_a_rule_that_is_known(theta, tensor, which):
    """A network whose direction is one of its inputs."""
    stats, grad, param = tensor
    known = jax.tree.map(jnp.zeros_like, theta["update_rule"])
    known["w0"] = known["w0"].at[FIRST_ROW[which], :2].set([1.0, -1.0])
    known["w1"] = jnp.eye(4)
    known["w2"] = known["w2"].at[:2, 0].set([1.0, -1.0])
    steps, adam = rule_map(known, stats, grad, param, jnp.asarray(0, jnp.int32))
    momentum = 0.9 * AXIS[:, None] * rms(stats.momenta[0], 0.0) + 0.1 * AXIS[None] * rms(grad, 0.0)
    if which == "grad":
        expected = np.broadcast_to(AXIS[None], steps.shape)
    else:
        expected = momentum / rms(0.9 * stats.momenta[0] + 0.1 * grad, 0.0)
    np.testing.assert_allclose(steps, -expected, rtol=1e-3, atol=1e-4)
    second = (
        jnp.mean(0.999 * stats.second_moment + 0.001 * grad**2) / 0.001
    )  # bias-corrected at the first step
    np.testing.assert_allclose(adam, -(momentum / 0.1) / jnp.sqrt(second), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("momentum", "gradient"), [(60, 60), (80, 60), (60, 20), (110, 100), (15, 90)])
def test_an_element_of_a_tensor_steps_as_the_maps_say(theta, momentum, gradient):
    """One of zero in a tensor of many, whose root mean squares it does not move; beside it optax's Adam."""
    count = 40_000
    keys = jax.random.split(jax.random.key(0), 12)
    grad, param, *momenta = (jax.random.normal(k, (count,)) for k in keys[:5])
    squares = [jnp.exp(jax.random.normal(k, (count,))) for k in keys[5:9]]
    blank = init_stats(param, num_momenta=3, num_factored=3)
    stats = blank._replace(momenta=tuple(momenta), second_moment=squares[0], row=tuple(squares[1:]))
    step = jnp.asarray(3, jnp.int32)
    celo, adam = rule_map(theta["update_rule"], stats, grad, param, step)

    now = AXIS[gradient] * rms(grad, 0.0)

    def before(average, decay):
        """What makes the element's average the tensor's mean once the gradient is in."""
        mean = decay * jnp.mean(average) + (1 - decay) * jnp.mean(grad**2)
        return average.at[7].set((mean - (1 - decay) * now**2) / decay)

    stats = stats._replace(
        momenta=tuple(m.at[7].set(AXIS[momentum] * rms(m, 0.0)) for m in momenta),
        second_moment=before(squares[0], 0.999),
        row=tuple(before(r, decay) for r, decay in zip(squares[1:], (0.9, 0.99, 0.999), strict=True)),
    )
    grad, param = grad.at[7].set(now), param.at[7].set(0.0)
    update, _ = tensor_update(CELO, theta["update_rule"], stats, grad, param, 0.0)
    found = update[7] / (0.001 * rms(param, 0.0))
    np.testing.assert_allclose(celo[momentum, gradient], found, atol=2e-3 * float(jnp.ptp(celo)))
    state = optax.ScaleByAdamState(step, stats.momenta[0], stats.second_moment)
    with jax.numpy_dtype_promotion("standard"):
        direction, _ = optax.scale_by_adam(eps=0.0).update(grad, state)
    np.testing.assert_allclose(adam[momentum, gradient], -direction[7], atol=2e-3 * float(jnp.ptp(adam)))


SHAPES = {"w0": (30, 4), "b0": (4,), "w1": (4, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)}


def test_a_rule_that_says_nothing_makes_a_map_of_zeros(tensor):
    stats, grad, param = tensor
    theta = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    celo, adam = rule_map(theta, stats, grad, param, jnp.asarray(5, jnp.int32))
    assert celo.shape == adam.shape == (len(AXIS), len(AXIS))
    assert not celo.any()
    np.testing.assert_allclose(adam[::-1, ::-1], -adam, rtol=1e-4, atol=1e-6)  # Adam is odd
