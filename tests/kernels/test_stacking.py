"""Tensors of one shape share one computation: same numbers, a program that does not grow with them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from celo._kernels.stacking import over_stack, stackable
from celo.optimizers import UpdateRule


def layers(count, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2 * count)
    return {
        f"layer{i}": {
            "w": jax.random.normal(keys[2 * i], (6, 4)).astype(dtype),
            "b": jax.random.normal(keys[2 * i + 1], (4,)).astype(dtype),
        }
        for i in range(count)
    }


def test_tensors_of_one_shape_are_one_group_whatever_their_names():
    params = {"layer0": {"query": jnp.ones((4, 4))}, "layer12": {"output": jnp.zeros((4, 4))}}
    assert stackable(params, [0, 0]) == [[0, 1]]
    assert stackable([jnp.ones(3), jnp.ones(3)], [0, 0]) == [[0, 1]]


@pytest.mark.parametrize(
    ("first", "second", "others"),
    [
        ({"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 5))}, [0, 0]),
        ({"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 4), jnp.bfloat16)}, [0, 0]),
        ({"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 4))}, [0, 1]),
    ],
    ids=["another shape", "another dtype", "another number of layers"],
)
def test_what_differs_is_kept_apart(first, second, others):
    assert stackable([first, second], others) == [[0], [1]]


def test_on_several_devices_only_what_is_seen_to_lie_alike_is_stacked(monkeypatch):
    params = [jnp.ones((4, 4)), jnp.ones((4, 4)), jnp.zeros((4, 4))]
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert stackable(params, [0, 0, 0]) == [[0], [1], [2]]
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,))
    split = [
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        for x, spec in zip(params, [("x", None), (None, "x"), ("x", None)], strict=True)
    ]
    assert stackable(split, [0, 0, 0]) == [[0, 2], [1]]


def test_a_stack_gives_what_each_gives():
    tensors = [(jnp.full((2, 3), i), {"x": jnp.arange(3.0) + i}) for i in range(4)]
    each = [over_stack(lambda a, b: (a.sum(), b["x"] * a), [tensor])[0] for tensor in tensors]
    stacked = over_stack(lambda a, b: (a.sum(), b["x"] * a), tensors)
    jax.tree.map(np.testing.assert_array_equal, stacked, each)


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_the_rule_steps_a_stack_as_it_steps_each_tensor(dtype):
    rule = UpdateRule("xla")
    theta = rule.init_theta(jax.random.key(1))
    params = layers(3, dtype)
    grads = jax.tree.map(lambda p: 0.1 * jnp.sin(p), params)

    def steps(params, grads):
        state = rule.init(theta, params, jnp.int32(10))
        for _ in range(3):
            updates, state = rule.update(theta, grads, state, params, value=jnp.float32(0))
        return updates

    together = steps(params, grads)
    for name in params:
        alone = steps({name: params[name]}, {name: grads[name]})
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), together[name], alone[name])


def program_size(count):
    rule = UpdateRule("xla")
    theta = rule.init_theta(jax.random.key(1))
    params = layers(count)
    state = rule.init(theta, params, jnp.int32(10))
    text = (
        jax.jit(lambda g, s, p: rule.update(theta, g, s, p, value=0.0)).lower(params, state, params).as_text()
    )
    return len(re.findall(r"stablehlo\.(multiply|rsqrt|exponential)", text))


def test_the_program_does_not_grow_with_the_number_of_layers():
    assert program_size(12) == program_size(2)
