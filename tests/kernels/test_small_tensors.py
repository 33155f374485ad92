"""Small tensors computed together take the steps that each takes alone, in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._definitions import CELO, CELO2
from celo._kernels import rule_network, small_tensors
from celo._kernels.stacking import over_slices
from celo._kernels.statistics import init_stats
from celo.optimizers import UpdateRule
from celo.optimizers._rule_steps import init_weights

pytestmark = pytest.mark.usefixtures("users_compilation")
# (shape, leading axes that count tensors)
LEAVES = [((32, 64), 0), ((64,), 0), ((), 0), ((2, 5, 7), 1), ((200, 3), 0), ((3, 130), 1), ((32, 64), 0)]
HIGHER = [((3, 3, 8, 16), 0), ((20, 30, 2), 0), ((2, 20, 3, 30), 1)]
SHAPES = [(32, 64), (64,), (64, 128), (128,), (128, 10), (10,), (3, 3, 8, 16), (16,), (48, 48), (20, 30, 2)]


def tensors(leaves):
    made = []
    for n, (shape, layers) in enumerate(leaves):
        keys = jax.random.split(jax.random.key(n), 3)
        param = jax.random.normal(keys[0], shape)
        grad = 0.01 * jax.random.normal(keys[1], shape) if n % 4 else jnp.zeros(shape)
        stats = init_stats(param, 3, 3, layers)
        begun = 0.01 * (n % 3)
        stats = jax.tree.map(lambda x, by=begun: x + by, stats)
        if len(shape) - layers < 2:  # the column of a vector is unused
            stats = stats._replace(col=tuple(jnp.zeros_like(x) for x in stats.col))
        made.append((stats, grad, param))
    return made


@pytest.mark.parametrize(("rule", "leaves"), [(CELO, LEAVES + HIGHER), (CELO2, LEAVES)])
def test_they_take_the_steps_that_each_takes_alone(rule, leaves):
    theta = init_weights(rule, jax.random.key(1))
    axes = [layers for _, layers in leaves]

    @jax.jit
    def together(tensors):
        return small_tensors.tensor_updates(rule, theta, tensors, axes, 0.01)

    @jax.jit
    def alone(tensors):
        def one(stats, grad, param):
            return rule_network.tensor_update(rule, theta, stats, grad, param, 0.01)

        return [over_slices(one, n)(*tensor) for n, tensor in zip(axes, tensors, strict=True)]

    given = tensors(leaves)
    for ours, theirs in zip(together(given), alone(given), strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * float(jnp.max(jnp.abs(b)) + 1e-30))


def test_derivatives_are_finite_and_those_of_each_alone():
    theta = init_weights(CELO, jax.random.key(1))
    leaves = LEAVES[:4]
    axes = [layers for _, layers in leaves]
    given = tensors(leaves)

    def total(results):
        return sum(jnp.sum(jnp.square(1e3 * step)) for step, _ in results)

    def together(theta):
        return total(small_tensors.tensor_updates(CELO, theta, given, axes, 0.01))

    def alone(theta):
        def one(stats, grad, param):
            return rule_network.tensor_update(CELO, theta, stats, grad, param, 0.01)

        return total(over_slices(one, n)(*tensor) for n, tensor in zip(axes, given, strict=True))

    ours, theirs = jax.jit(jax.grad(together))(theta), jax.jit(jax.grad(alone))(theta)
    for name in theta:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-3)


def test_few_shapes_large_tensors_and_several_devices_are_left_alone(monkeypatch):
    params = [jnp.zeros(shape) for shape in SHAPES]
    axes = [0] * len(params)
    assert small_tensors.chosen(CELO, params, axes) == list(range(len(params)))
    assert small_tensors.chosen(CELO2, params, axes) == [0, 1, 2, 3, 4, 5, 7, 8]
    assert small_tensors.chosen(CELO, params[:3], axes[:3]) == []
    large = [*params, jnp.zeros((129, 128)), jnp.zeros((0, 3))]
    assert small_tensors.chosen(CELO, large, [*axes, 0, 0]) == list(range(len(params)))
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert small_tensors.chosen(CELO, params, axes) == []


def test_a_program_of_many_shapes_is_not_one_for_each():
    """Inverse roots stand for the rule's inputs: there are no more of them with more shapes."""
    rule = UpdateRule("xla")
    theta = rule.init_theta(jax.random.key(1))

    def operations(shapes):
        params = [jnp.ones(shape) for shape in shapes]
        state = rule.init(theta, params, jnp.int32(10))
        lowered = jax.jit(lambda s, p: rule.update(theta, p, s, p, value=jnp.float32(0))).lower(state, params)
        return lowered.as_text().count("stablehlo.rsqrt")

    assert operations(SHAPES) == operations(SHAPES[:5])
