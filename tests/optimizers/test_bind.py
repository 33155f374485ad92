"""Weights for a transformation: the groups it reads, checked."""

import jax
import numpy as np
import pytest

from celo._errors import CeloError
from celo.optimizers import Celo, UpdateRule
from celo.optimizers._bind import bind, expected_shapes


def test_groups_that_are_not_read_are_left_out(theta):
    assert set(bind(theta, UpdateRule()).theta) == {"update_rule"}
    assert set(bind(theta, Celo()).theta) == {"update_rule", "scheduler"}


def test_numpy_arrays_become_jax_arrays(theta):
    for leaf in jax.tree.leaves(bind(jax.tree.map(np.asarray, theta), Celo()).theta):
        assert isinstance(leaf, jax.Array)


def test_what_does_not_fit_is_named(theta):
    with pytest.raises(CeloError, match="missing: update_rule/b0"):
        bind({"scheduler": theta["scheduler"]}, Celo())
    with pytest.raises(CeloError, match="weights must be a bundled name, a path or θ itself, got 3"):
        bind(3, Celo())


def test_optional_weights_are_read_where_they_are(theta):
    rule = {**theta["update_rule"], "log_matrix_step": np.float32(0.5)}
    assert bind({"update_rule": rule}, UpdateRule()).theta["update_rule"]["log_matrix_step"] == 0.5
    assert "update_rule/log_matrix_step" not in expected_shapes(UpdateRule())


def test_traced_weights_pass(theta):
    traced = jax.jit(lambda t: bind(t, UpdateRule()).theta)(theta)
    np.testing.assert_array_equal(traced["update_rule"]["w0"], theta["update_rule"]["w0"])
