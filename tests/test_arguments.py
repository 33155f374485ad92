"""What users pass to optimizers, checked: horizon, loss, state, parameters and gradients of odd leaves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo
from celo._arguments import (
    check_gradients,
    check_num_steps,
    check_parameters,
    check_shapes,
    check_state,
    filled,
    require_params,
    require_value,
    where_given,
)
from celo._errors import CeloError
from celo.optimizers import CeloAdam
from celo.transforms import accumulate, label_params, plan


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


# Leaves


def relu(x):
    return jnp.maximum(x, 0)


PAIR = {"w": jnp.ones(2)}
ARRAYS = {"w": jnp.ones((3, 2)), "layers": [{"b": jnp.ones(2)}]}
GRADS = {"w": 0.1 * jnp.ones((3, 2)), "layers": [{"b": -jnp.ones(2)}], "activation": None}
MODEL = {**ARRAYS, "activation": relu}  # as an Equinox model is: functions among the leaves
FILTERED = {**ARRAYS, "activation": None}


def adam(**options):
    return celo.celo_adam(100, weights=CeloAdam().init_theta(jax.random.key(0)), **options)


@pytest.mark.parametrize(
    "tx",
    [
        celo.celo(100),
        pytest.param(
            celo.celo(100, kernel="xla", nonfinite="shrink", weight_decay=0.1, state_dtype="bfloat16"),
            marks=pytest.mark.slow,
        ),
        celo.celo_rule(
            1.0,
            nonfinite="hold",
            weight_decay=lambda step: 0.1,
            mask=lambda params: jax.tree.map(lambda _: True, params),
        ),
        adam(nonfinite="skip", weight_decay=0.1),
        accumulate(celo.celo(100, weight_decay=0.1), 2),
        optax.chain(celo.scale_by_celo_rule(), celo.scale_by_celo_schedule(100, plateau=0.5)),
    ],
    ids=["celo", "celo, all", "rule", "adam", "accumulate", "chain"],
)
def test_a_whole_model_is_stepped_as_its_arrays_are(tx):
    """As `optax.adamw` takes it: functions among the parameters of `update`, None for their gradients."""
    whole, alone = tx.init(FILTERED), tx.init(ARRAYS)
    grads = {name: GRADS[name] for name in ARRAYS}
    for _ in range(2):
        steps, whole = tx.update(GRADS, whole, MODEL, value=1.0)
        expected, alone = tx.update(grads, alone, ARRAYS, value=1.0)
    assert steps.pop("activation") is None
    jax.tree.map(np.testing.assert_array_equal, steps, expected)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(whole), jax.tree.leaves(alone))


@pytest.mark.parametrize(
    "tx", [celo.celo(100), adam(), accumulate(celo.celo(100), 2)], ids=["celo", "adam", "accumulate"]
)
def test_what_has_no_gradient_stays_and_so_does_its_state(tx):
    """Frozen layers: no gradient for an array that has a state; the state's structure never changes."""
    before = tx.init(ARRAYS)
    frozen = {"w": GRADS["w"], "layers": None}
    after = before
    for _ in range(2):
        steps, after = tx.update(frozen, after, ARRAYS, value=1.0)
    assert steps["layers"] is None
    assert np.any(steps["w"] != 0)
    assert jax.tree.structure(after) == jax.tree.structure(before)


def test_an_equinox_model_trains():
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    tx = celo.celo(100, nonfinite="skip", weight_decay=0.01)
    state = tx.init(equinox.filter(model, equinox.is_inexact_array))

    @equinox.filter_value_and_grad
    def gradient(model, x):
        return jnp.mean(jnp.square(jax.vmap(model)(x) - 1))

    x, losses = jax.random.normal(jax.random.key(1), (8, 3)), []
    for _ in range(5):
        loss, grads = gradient(model, x)
        updates, state = tx.update(grads, state, model, value=loss)
        model = equinox.apply_updates(model, updates)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "tx", [celo.celo(100), adam(), accumulate(adam(nonfinite="skip"), 1)], ids=["celo", "adam", "accumulate"]
)
def test_numbers_and_arrays_of_numpy_are_leaves(tx):
    numbers = {"a": 0.5, "b": np.float64(2.0), "c": np.ones(3)}
    arrays = jax.tree.map(jnp.asarray, numbers)
    updates, state = tx.update({"a": 1, "b": 1.0, "c": np.ones(3)}, tx.init(numbers), numbers, value=1.0)
    ones = jax.tree.map(jnp.ones_like, arrays)
    expected, expected_state = tx.update(ones, tx.init(arrays), arrays, value=1.0)
    jax.tree.map(np.testing.assert_array_equal, (updates, state), (expected, expected_state))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype("float32")}
    assert plan(numbers, label_params(numbers)).startswith("vector: 3 tensors, 5 parameters")


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (relu, r"params\['x'\] is no array, got <function rel.*eqx.filter\(model, eqx.is_inexact_array\)"),
        ("text", r"params\['x'\] is no array, got 'text'.*optax.masked"),
        (jax.random.key(0), r"params\['x'\] is key<fry>\[\]; leave others out with optax.masked"),
        (3, r"params\['x'\] is int32\[\]; leave others out"),
        (np.ones(2, bool), r"params\['x'\] is bool\[2\]; leave others out"),
        (1j, r"must be real, and params\['x'\] is complex64\[\].*split_real_and_imaginary"),
    ],
    ids=["function", "text", "random key", "number", "bools", "complex"],
)
def test_a_leaf_that_cannot_be_trained_is_named_with_the_remedy(leaf, message):
    for init in (
        check_parameters,
        celo.celo(100).init,
        adam().init,
        celo.celo(100, state_dtype="bfloat16").init,
    ):
        with pytest.raises(CeloError, match=message):
            init({"w": jnp.ones(2), "x": leaf})


def test_the_remedy_for_what_is_not_trained_works():
    """Random keys and integers, whose gradients are float0, beside what is trained."""
    params = {"w": jnp.ones(2), "n": jnp.int32(3), "key": jax.random.key(0)}
    loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    assert grads["n"].dtype == jax.dtypes.float0
    trained = {"w": True, "n": False, "key": False}
    tx = optax.masked(celo.celo(100), trained)
    updates, _ = tx.update(grads, tx.init(params), params, value=loss)
    assert np.any(updates["w"] != 0)
    guarded = celo.guard_nonfinite(tx, "repair")
    _, state = guarded.update(grads, guarded.init(params), params, value=loss)
    assert int(state.bad_gradients) == 0


def test_gradients_of_integers_are_named_by_the_optimizer_too():
    for tx in (celo.celo(100), adam()):
        with pytest.raises(CeloError, match=r"gradient of params\['w'\] must be real numbers"):
            tx.update({"w": np.zeros(2, jax.dtypes.float0)}, tx.init(PAIR), PAIR, value=1.0)


def test_a_gradient_of_no_real_numbers_is_named():
    for grad in (np.zeros(2, jax.dtypes.float0), jnp.ones(2, jnp.complex64), jnp.ones(2, bool)):
        with pytest.raises(CeloError, match=r"gradient of params\['w'\] must be real numbers"):
            check_gradients({"w": jnp.ones(2)}, {"w": grad})


def test_the_remedy_for_complex_parameters_works():
    """It takes the steps that the two parts take as tensors of their own."""
    params = {"z": jnp.asarray([1.0 + 2.0j, -0.5 + 0.1j, 0.3 - 1.0j]), "w": jnp.ones((2, 2))}
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    tx = optax.chain(
        optax.contrib.split_real_and_imaginary(celo.scale_by_celo_rule()), celo.scale_by_celo_schedule(100)
    )
    whole = celo.celo(100)

    def parts(tree):
        return {"re": tree["z"].real, "im": tree["z"].imag, "w": tree["w"]}

    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(grads, tx.init(params), params, value=1.0)
    expected, _ = whole.update(parts(grads), whole.init(parts(params)), parts(params), value=1.0)
    assert updates["z"].dtype == jnp.complex64
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts(updates), expected)


@pytest.mark.filterwarnings("error")
def test_complex_gradients_are_accumulated_whole():
    tx, params = accumulate(optax.sgd(1.0), 2), jnp.asarray([1.0 + 1.0j])
    state = tx.init(params)
    for grad in (jnp.asarray([2.0j]), jnp.asarray([2.0 + 0.0j])):
        updates, state = tx.update(grad, state, params)
    np.testing.assert_array_equal(updates, jnp.asarray([-1.0 - 1.0j]))


def test_what_is_not_given_is_left_out_and_filled_in():
    grads, tree = {"a": 1, "b": None}, {"a": 2, "b": {"c": 3}}
    assert where_given(grads, tree) == {"a": 2, "b": None}
    assert filled(where_given(grads, tree), {"a": 5, "b": {"c": 3}}) == {"a": 2, "b": {"c": 3}}
