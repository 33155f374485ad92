"""Runs far outside what the weights were meta-trained on: said once, with the numbers and a remedy."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import celo
from celo import _limits
from celo import weights as weights_files
from celo._limits import LARGER, LONGER, SHORTER
from celo.optimizers import Celo
from celo.optimizers._bind import bind

METADATA = {
    "architecture": "celo",
    "recipe": json.dumps({"horizon_min": 100, "horizon_max": 2000}),
    "largest_model": "50",
}


@pytest.fixture(autouse=True)
def nothing_said_yet():
    _limits._warn_once.cache_clear()


@pytest.fixture
def saved(theta, tmp_path):
    """A function: metadata -> path of weights that have it."""

    def save(**metadata):
        path = tmp_path / "own.safetensors"
        arrays = jax.tree.map(np.asarray, theta)
        weights_files.save(path, arrays, metadata={"architecture": "celo", **metadata})
        return str(path)

    return save


def shapes(size):
    """A model of that many parameters that takes no memory."""
    return {"w": jax.ShapeDtypeStruct((size - 1,), jnp.float32), "b": jax.ShapeDtypeStruct((1,), jnp.float32)}


def horizon_limits():
    return -(-100 // SHORTER), LONGER * 2000


def test_horizons_outside_are_named_with_the_range_and_a_remedy(saved):
    path = saved(**METADATA)
    low, high = horizon_limits()
    for num_steps in (low - 1, high + 1):
        with pytest.warns(celo.OutOfRangeWarning) as said:
            celo.celo(num_steps, weights=path)
        [warning] = said
        for words in (
            f"num_steps is {num_steps:,}",
            "100 to 2,000",
            path,
            "celo.celo_rule(",
            "OutOfRangeWarning",
        ):
            assert words in str(warning.message)
        assert warning.filename == __file__  # the line that asked for it
    with pytest.warns(celo.OutOfRangeWarning, match="num_steps is 10,000,000"):
        celo.scale_by_celo_schedule(10_000_000, path)


def test_models_outside_are_named_with_the_range(saved):
    path, too_large = saved(**METADATA), LARGER * 50 + 1
    for tx in (celo.celo(500, weights=path), celo.celo_rule(1.0, weights=path)):
        _limits._warn_once.cache_clear()
        with pytest.warns(celo.OutOfRangeWarning, match=rf"the model has {too_large:,} .*up to 50:"):
            jax.eval_shape(tx.init, shapes(too_large))


def test_nothing_is_said_up_to_the_limits(saved):
    """Warnings are errors here."""
    path = saved(**METADATA)
    for num_steps in horizon_limits():
        jax.eval_shape(celo.celo(num_steps, weights=path).init, shapes(LARGER * 50))


def test_it_is_said_once(saved):
    tx = celo.celo(500, weights=saved(**METADATA))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            jax.eval_shape(tx.init, shapes(LARGER * 50 + 1))
            jax.jit(tx.init).eval_shape(shapes(LARGER * 50 + 1))
    assert len(said) == 1


def test_who_asks_for_errors_gets_one_each_time(saved):
    path = saved(**METADATA)
    for _ in range(2):
        with pytest.raises(celo.OutOfRangeWarning):
            celo.celo(1, weights=path)


@pytest.mark.parametrize("metadata", [{}, {"recipe": "grandmother's"}, {"recipe": "[1]"}, {"recipe": "{}"}])
def test_weights_that_say_nothing_of_it_are_not_warned_of(saved, metadata):
    for num_steps in (1, 10**9):
        jax.eval_shape(celo.celo(num_steps, weights=saved(**metadata)).init, shapes(10**12))


def test_neither_are_theta_itself_and_traced_horizons(theta, saved):
    jax.eval_shape(celo.celo(10**9, weights=theta).init, shapes(10**12))
    path = saved(**METADATA)
    state = jax.jit(lambda n: celo.celo(n, weights=path).init({"w": jnp.ones(3)}))(
        jnp.asarray(10**9, jnp.int32)
    )
    assert int(state[1].num_steps) == 10**9


@pytest.mark.parametrize("name", weights_files.bundled())
def test_bundled_weights_say_what_they_were_trained_on(name):
    found = bind(name, Celo()).trained
    assert f"{name!r}" in found.source
    recipe = weights_files.card(name)["recipe"]
    assert (found.horizon_min, found.horizon_max) == (recipe["horizon_min"], recipe["horizon_max"])
    assert found.largest_model >= 2_410  # Celo's perceptron


@pytest.mark.parametrize("make", [celo.celo, lambda num_steps, weights: celo.celo_rule(1.0, weights=weights)])
def test_a_weights_file_is_read_once(make, saved, monkeypatch):
    path, reads = saved(**METADATA), []
    read_file = weights_files.read_file

    def counted(*arguments):
        reads.append(arguments)
        return read_file(*arguments)

    monkeypatch.setattr(weights_files, "read_file", counted)
    make(500, weights=path)
    assert len(reads) == 1


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_rates_that_make_no_sense_are_refused(rate):
    with pytest.raises(celo.CeloError, match=f"learning_rate must be finite and at least 0, got {rate!r}"):
        celo.celo(500, learning_rate=rate)


@pytest.mark.parametrize("rate", [1e-3, 0.01, 50.0])
def test_rates_far_from_one_are_warned_of(rate):
    with pytest.warns(celo.OutOfRangeWarning, match=f"learning_rate is {rate:g}, and multiplies learned"):
        celo.celo_rule(rate)


@pytest.mark.parametrize("rate", [0.0, 0.05, 1, 20.0])
def test_rates_near_one_are_taken_without_a_word(rate):
    celo.celo_rule(rate)


@pytest.mark.parametrize("steps", [2**31, 2**63, np.int64(2**40)])
def test_numbers_of_steps_that_cannot_be_counted_are_refused(steps):
    with pytest.raises(celo.CeloError, match=rf"num_steps must be at most 2,147,483,647 .*got {steps}"):
        celo.celo(steps)
    with pytest.raises(celo.CeloError, match="every must be at most"):
        celo.accumulate(celo.celo(500), steps)
