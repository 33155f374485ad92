"""What users pass to optimizers, checked: horizon, parameters, loss, state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._arguments import (
    check_floating,
    check_num_steps,
    check_shapes,
    check_state,
    require_params,
    require_value,
)
from celo._errors import CeloError


@pytest.mark.parametrize(
    ("num_steps", "shown"),
    [
        (0, "0"),
        (-1, "-1"),
        (2.5, "2.5"),
        (10.0, "10.0"),
        ("10", "'10'"),
        (True, "True"),
        (None, "None"),
        (np.int64(0), "0"),
        (np.array([5]), "array"),
        (jnp.int32(0), "0"),
        (jnp.int32(-3), "-3"),
    ],
    ids=repr,
)
def test_a_horizon_that_is_no_positive_whole_number_is_refused(num_steps, shown):
    with pytest.raises(CeloError, match=rf"positive whole number, got .*{shown}.*; pass the number of steps"):
        check_num_steps(num_steps)


@pytest.mark.parametrize(
    ("num_steps", "shown"),
    [(jnp.float32(5), r"float32\[\]"), (jnp.ones(2, jnp.int32), r"int32\[2\]"), (jnp.ones((), bool), "bool")],
    ids=repr,
)
def test_an_array_of_another_type_or_shape_is_refused_traced_or_not(num_steps, shown):
    for check in (check_num_steps, jax.jit(check_num_steps)):
        with pytest.raises(CeloError, match=f"must be a scalar integer, got {shown}.*pass the number"):
            check(num_steps)


@pytest.mark.parametrize(
    "num_steps", [20, np.int32(20), np.int64(20), jnp.int32(20), jnp.uint8(20)], ids=repr
)
def test_a_whole_number_of_any_kind_comes_back_as_an_int(num_steps):
    checked = check_num_steps(num_steps)
    assert (type(checked), checked) == (int, 20)


def test_a_traced_horizon_comes_back_as_it_is():
    """Its value is not known, so that it is taken on trust."""
    checked = jax.jit(check_num_steps)(jnp.int32(-3))
    assert (checked.dtype, int(checked)) == (jnp.int32, -3)


def test_parameters_come_back_as_they_are_and_must_be_there():
    params = {"w": jnp.ones(3)}
    assert require_params(params) is params
    assert require_params({}) == {}  # nothing to train is no mistake
    with pytest.raises(CeloError, match=r"params=None; call update\(grads, state, params, value=loss\)"):
        require_params(None)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float64(2), np.array(2), jnp.bfloat16(2), jnp.int32(2)], ids=repr
)
def test_a_loss_of_any_number_type_is_a_float32(value):
    for require in (require_value, jax.jit(require_value)):
        loss = require(value)
        assert (loss.dtype, loss.shape, float(loss)) == (jnp.float32, (), 2.0)


def test_a_loss_that_is_not_finite_is_no_mistake_of_the_user():
    """Training may diverge; what to do then is for the optimizer to say."""
    assert np.isnan(require_value(float("nan")))
    assert np.isinf(require_value(jnp.inf))


def test_a_loss_must_be_there_and_be_a_scalar():
    with pytest.raises(CeloError, match=r"got value=None; call update.*celo\.accumulate.*celo\.celo_rule"):
        require_value(None)
    for shape in ((1,), (2, 3), (0,)):
        with pytest.raises(CeloError, match=rf"got shape \({str(shape)[1:-1]}\); pass its mean"):
            require_value(jnp.ones(shape))


def test_arrays_of_other_shapes_are_named():
    params = {"a": jnp.ones(3), "b": {"w": jnp.ones((4, 8))}}
    check_shapes(params, params, "its gradient")
    others = {"a": jnp.ones(3), "b": {"w": jnp.ones((1, 8))}}  # which would broadcast
    with pytest.raises(
        CeloError, match=r"params\['b'\]\['w'\] has shape \(4, 8\), and its gradient \(1, 8\)"
    ):
        check_shapes(params, others, "its gradient")


class State(NamedTuple):
    step: int


def test_a_state_of_another_type_is_named_with_the_remedy():
    check_state(State(1), State)
    for other in ({"step": 1}, (1,), "0", None):
        with pytest.raises(
            CeloError, match=rf"must be State, got {type(other).__name__}: .*tx.init\(params\)"
        ):
            check_state(other, State)


@pytest.mark.parametrize("leaf", [3.0, "w", len])
def test_a_parameter_that_is_no_array_is_named(leaf):
    with pytest.raises(CeloError, match=f"got {type(leaf).__name__}; leave others out with optax.masked"):
        check_floating({"w": leaf})
