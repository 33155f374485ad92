"""Weights for an optimizer: names, paths and θ itself, as float32 tensors, or a clear refusal."""

import numpy as np
import pytest
import torch

from celo import weights
from celo._errors import CeloError
from celo.torch._weights import CELO_RULE, CELO_SCHEDULE, RULE, SCHEDULE, bind

BOTH = (CELO_RULE, CELO_SCHEDULE)


def changed(theta, group, name, array):
    return {**theta, group: {**theta[group], name: array}}


def test_a_bundled_name_gives_its_theta_and_what_it_was_trained_on():
    bound, loaded = bind("celo", BOTH), weights.load("celo")
    assert set(bound.theta) == set(loaded.theta)
    for group, arrays in loaded.theta.items():
        for name, array in arrays.items():
            tensor = bound.theta[group][name]
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor, array)
    assert bound.trained.horizon_max == loaded.facts["recipe"]["horizon_max"]
    assert "celo" in bound.trained.source


def test_a_path_and_theta_itself_give_the_same(theta, tmp_path):
    theta = {group: {n: np.asarray(a) for n, a in arrays.items()} for group, arrays in theta.items()}
    path = tmp_path / "mine.safetensors"
    weights.save(path, theta, metadata={"architecture": "celo"})
    for source in (path, str(path), theta):
        bound = bind(source, BOTH)
        for group, arrays in theta.items():
            for name, array in arrays.items():
                np.testing.assert_array_equal(bound.theta[group][name], array)


def test_theta_may_be_of_jax_or_pytorch_and_is_copied(theta):
    from_jax = bind(theta, BOTH).theta
    tensors = {group: {n: x.clone() for n, x in arrays.items()} for group, arrays in from_jax.items()}
    bound = bind(tensors, BOTH).theta
    tensors[RULE]["b0"] += 1.0
    assert torch.equal(bound[RULE]["b0"], from_jax[RULE]["b0"])


def test_only_the_groups_asked_for_are_read(theta):
    assert set(bind({RULE: theta[RULE]}, (CELO_RULE,)).theta) == {RULE}
    assert set(bind("celo", (CELO_SCHEDULE,)).theta) == {SCHEDULE}


@pytest.mark.parametrize(
    ("group", "name"), [(RULE, "log_min_rms"), (RULE, "log_matrix_step"), (SCHEDULE, "horizon_w")]
)
def test_weights_that_published_ones_lack_may_be_there(theta, group, name):
    bound = bind(changed(theta, group, name, np.float32(0.5)), BOTH).theta
    assert bound[group][name] == 0.5
    with pytest.raises(CeloError, match=name):
        bind(changed(theta, group, name, np.zeros(2, np.float32)), BOTH)


def test_theta_that_does_not_fit_is_refused(theta):
    with pytest.raises(CeloError, match=r"scheduler.*Use weights trained for it"):
        bind({RULE: theta[RULE]}, BOTH)
    with pytest.raises(CeloError, match="update_rule/w1"):
        bind(changed(theta, RULE, "w1", np.zeros((4, 5), np.float32)), BOTH)
    with pytest.raises(CeloError, match="update_rule/w9"):
        bind(changed(theta, RULE, "w9", np.zeros(4, np.float32)), BOTH)
    with pytest.raises(CeloError, match="b0"):
        bind(changed(theta, RULE, "b0", np.full(4, np.nan, np.float32)), BOTH)


def test_what_is_no_weights_is_refused_by_name(tmp_path):
    with pytest.raises(CeloError, match="weights must be a bundled name, a path or θ itself, got 3"):
        bind(3, BOTH)
    with pytest.raises(CeloError, match="nothing"):
        bind(tmp_path / "nothing.safetensors", BOTH)
    with pytest.raises(CeloError, match="unknown"):
        bind("celoo", BOTH)
