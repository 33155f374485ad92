"""States lie beside their parameters: split, placed and varying as they are, whatever begins them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from celo import _compile
from celo._layout import placed_with, result_types, spec_beside, varying_zero, zeros_beside


@pytest.mark.parametrize(
    "param",
    [jnp.ones((3, 4)), np.ones((3, 4)), jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)],
    ids=["array", "NumPy's", "shape"],
)
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1), (3,), ()], ids=str)
def test_zeros_have_the_statistics_shape(param, shape):
    zeros = zeros_beside(param, shape)
    assert (zeros.shape, zeros.dtype, zeros.weak_type) == (shape, jnp.float32, False)
    traced = jax.eval_shape(lambda p: zeros_beside(p, shape), jnp.asarray(np.ones((3, 4))))
    assert (traced.shape, traced.dtype) == (shape, jnp.float32)


def test_a_number_has_a_statistic():
    assert zeros_beside(2.0, ()).shape == ()


def test_an_axis_that_is_averaged_away_is_whole():
    spec = PartitionSpec("x", ("y", "z"))
    assert spec_beside(spec, (4, 6, 2), (4, 1, 2)) == PartitionSpec("x", None, None)
    assert spec_beside(spec, (4, 6, 2), (4,)) == PartitionSpec("x")


def test_what_has_no_place_goes_to_the_parameters():
    mesh = jax.make_mesh((1,), ("x",))
    params = {"w": jax.device_put(jnp.ones(3), NamedSharding(mesh, PartitionSpec("x")))}
    state = placed_with(params, (jnp.zeros(()), params["w"]))
    assert state[0].sharding == NamedSharding(mesh, PartitionSpec())
    assert state[1] is params["w"]
    for anywhere in ({}, {"w": jnp.ones(3)}, {"w": np.ones(3)}):
        assert not placed_with(anywhere, jnp.zeros(())).committed


def test_outside_of_meshes_nothing_varies():
    assert float(varying_zero([jnp.ones(3), 2.0])) == 0.0
    (found,) = result_types([(jnp.ones((4, 3)), (4,))], [])
    assert (found.shape, found.dtype) == ((4,), jnp.float32)


@pytest.fixture(
    scope="module",
    params=["celo accumulate orthogonalize", pytest.param("", id="all", marks=pytest.mark.slow)],
)
def outcomes(request):
    """Case -> what went wrong in it, of `on_two_devices.py`."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    script = [sys.executable, str(Path(__file__).with_name("on_two_devices.py")), *request.param.split()]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(_compile.find_compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.parametrize("kind", ["in shard_map", "on an explicit mesh", "refuses", "compiled once"])
def test_types_and_places_stay_what_they_were(kind, outcomes):
    of_this_kind = {case: wrong for case, wrong in outcomes.items() if kind in case}
    assert len(of_this_kind) >= 3
    assert {case: wrong for case, wrong in of_this_kind.items() if wrong} == {}
