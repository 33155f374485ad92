"""Parameters split over devices: the same step, nothing moved but sums, and a state that goes anywhere.

On other devices sums are taken in another order, and nothing else differs.
"""

import json
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from marks import slow_are_run, slow_but

from celo._errors import CeloError
from celo.optimizers import celo, celo_rule
from celo.optimizers._matrix_steps import MatrixState
from celo.optimizers._rule_steps import RuleState
from celo.transforms import accumulate, soap, state_sharding

# After 20 steps: 6e-6 of the distance that parameters have moved and 1.0e-5 of a statistic's norm were met.
TOLERANCE = 1e-4

MESH = jax.make_mesh((1, 1), ("data", "model"))


def written(folder, *parts):
    """The folder of what these parts of layouts.py write."""
    subprocess.run([sys.executable, Path(__file__).with_name("layouts.py"), folder, *parts], check=True)
    return folder


@pytest.fixture(scope="module")
def layouts(request, tmp_path_factory):
    """Of the rule: two of them, whose programs take the time, if no slow test is to be run."""
    parts = ("plain", "wrapped") if slow_are_run(request) else ("first",)
    return written(tmp_path_factory.mktemp("layouts"), "bad", *parts)


@pytest.fixture(scope="module")
def others_layouts(tmp_path_factory):
    """Of VeLO and SOAP."""
    return written(tmp_path_factory.mktemp("others_layouts"), "velos", "rotated")


def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("layout", slow_but(["data", "fsdp"], ["data", "fsdp", "tensor", "wrapped"]))
def test_the_step_is_the_one_of_whole_parameters(layouts, layout):
    """And the state stays where it is: the compiled step would refuse it in other shardings."""
    assert max(report(layouts)[layout].values()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["velo", "velo, stacked"])
def test_velos_step_is_the_one_of_whole_parameters(others_layouts, layout):
    assert max(report(others_layouts)[layout].values()) < TOLERANCE


@pytest.mark.slow
def test_soap_with_split_eigenbases_is_soap(others_layouts):
    """Which is less exact: Adam makes what is small along an eigenvector as large as the rest."""
    assert max(report(others_layouts)["rotated"].values()) < 1e-3  # 7e-5 was met


@pytest.mark.parametrize("layout", slow_but(["one"], ["one", "tensor"]))
def test_an_orbax_checkpoint_goes_on_elsewhere(layouts, layout):
    """Saved half way on eight devices, every tensor in eight parts."""
    pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    assert max(report(layouts)[f"fsdp, {layout}"].values()) < TOLERANCE


def test_an_orbax_checkpoint_goes_on_to_the_bit_where_it_was(layouts):
    pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    assert max(report(layouts)["fsdp, fsdp"].values()) == 0


def collectives(program):
    """(operation, elements of what it brings) of every collective in a compiled program."""
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    found = []
    for kind, name in re.findall(rf"= (.*?) ({names})(?:-start)?\(", program):
        sizes = [math.prod(map(int, filter(None, s.split(",")))) for s in re.findall(r"\w\[([\d,]*)\]", kind)]
        # One all-reduce may add up many tensors' sums; what else has many results has one tensor in parts.
        found.append((name, max(sizes) if name == "all-reduce" else sum(sizes)))
    return found


def larger(program, limit):
    return [(name, size) for name, size in collectives(program) if size > limit]


@pytest.mark.parametrize(
    ("layout", "longest"),
    [  # of the rows and columns, of two layers in stacks
        ("fsdp", 64),
        pytest.param("tensor", 64, marks=pytest.mark.slow),
        pytest.param("wrapped", 2 * 64, marks=pytest.mark.slow),
    ],
)
def test_only_scalars_and_vectors_cross_devices(layouts, layout, longest):
    program = (layouts / f"{layout}.hlo").read_text()
    assert collectives(program)
    assert not larger(program, longest)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "longest"), [("velo", 64), ("velo, stacked", 2 * 64)])
def test_only_scalars_and_vectors_of_velo_cross_devices(others_layouts, layout, longest):
    program = (others_layouts / f"{layout}.hlo").read_text()
    assert collectives(program)
    assert not larger(program, longest)


def test_nothing_crosses_where_parameters_are_whole(layouts):
    assert not collectives((layouts / "data.hlo").read_text())


@pytest.mark.parametrize("name", ["gathered", "transposed", "added"])
def test_larger_collectives_are_found(layouts, name):
    assert larger((layouts / f"{name}.hlo").read_text(), 2 * 64)


def shaped(**tensors):
    """Shapes with shardings: name -> (shape, spec)."""
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(MESH, spec))
        for name, (shape, spec) in tensors.items()
    }


def specs(shardings):
    """Partition specs without the Nones at their ends."""

    def short(sharding):
        axes = list(sharding.spec)
        while axes and axes[-1] is None:
            axes.pop()
        return P(*axes)

    return jax.tree.map(short, shardings)


PARAMS = shaped(
    wide=((8, 32), P("data", "model")),
    tall=((32, 8), P("data", "model")),
    rows=((8, 8), P("data")),
    kernel=((3, 3, 8, 16), P(None, None, "data", "model")),
    bias=((16,), P("model")),
    scale=((), P()),
)
WHOLE = specs(jax.tree.map(lambda x: x.sharding, PARAMS))
ROW = {  # without the largest axis
    "wide": P("data"),
    "tall": P(None, "model"),
    "rows": P("data"),
    "kernel": P(None, None, "data"),
    "bias": P("model"),
    "scale": P(),
}
COL = {  # without the second largest
    "wide": P(None, "model"),
    "tall": P("data"),
    "rows": P(),
    "kernel": P(None, None, None, "model"),
    "bias": P(),
    "scale": P(),
}
RULE = RuleState(momenta=(WHOLE,) * 3, second_moment=WHOLE, row=(ROW,) * 3, col=(COL,) * 3)


by_rule = partial(celo, weights="celo-1")  # the network steps all tensors


def is_rule(node):
    return isinstance(node, RuleState)


def test_momenta_of_matrices_are_split_as_those():
    found = state_sharding(celo(100, weights="celo"), PARAMS)[0]
    matrices = ("wide", "tall", "rows", "kernel")
    assert specs(found.matrices) == MatrixState(
        momentum={name: WHOLE[name] if name in matrices else optax.MaskedNode() for name in PARAMS},
        first_size={name: P() if name in matrices else optax.MaskedNode() for name in PARAMS},
    )
    assert jax.tree.leaves(specs(found.rule.second_moment)) == [WHOLE["bias"], WHOLE["scale"]]


@pytest.mark.parametrize(
    "tx",
    [
        by_rule(100),
        by_rule(100, nonfinite="skip", plateau=0.5, weight_decay=1e-4),
        by_rule(100, state_dtype="bfloat16", mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
        celo_rule(optax.cosine_decay_schedule(1.0, 100), weights="celo-1"),
        optax.chain(optax.clip_by_global_norm(1.0), by_rule(100)),
    ],
    ids=["celo", "guard", "bfloat16", "rule", "chain"],
)
def test_statistics_are_split_as_their_tensors_and_the_rest_is_copied(tx):
    found = state_sharding(tx, PARAMS)
    assert jax.tree.structure(found) == jax.tree.structure(jax.eval_shape(tx.init, PARAMS))
    [rule, *others] = sorted(jax.tree.leaves(found, is_leaf=is_rule), key=is_rule, reverse=True)
    assert specs(rule) == RULE
    assert others
    assert set(map(is_rule, others)) == {False}
    assert set(specs(others)) == {P()}
    assert {sharding.mesh for sharding in jax.tree.leaves(found)} == {MESH}


def test_sums_over_micro_batches_are_split_too():
    found = state_sharding(accumulate(by_rule(100), 4), PARAMS)
    assert specs(found.inner_state[0]) == RULE
    assert specs([found.grads, found.loss, found.mini_step]) == [WHOLE, P(), P()]


def test_groups():
    labels = {name: "matrix" if leaf.ndim > 1 else "vector" for name, leaf in PARAMS.items()}
    tx = optax.partition({"matrix": by_rule(100), "vector": optax.adam(1e-3)}, labels)
    found = state_sharding(tx, PARAMS)
    assert jax.tree.structure(found) == jax.tree.structure(jax.eval_shape(tx.init, PARAMS))
    row = specs(found.inner_states["matrix"].inner_state[0].row[0])
    assert {name: row[name] for name in ("wide", "tall")} == {"wide": P("data"), "tall": P(None, "model")}
    adam = found.inner_states["vector"].inner_state[0]
    assert specs([adam.mu["bias"], adam.count]) == [P("model"), P()]


@pytest.mark.parametrize("per_layer", [{"w": 1, "b": 1}, lambda params: jax.tree.map(lambda _: 1, params)])
def test_stacked_layers(per_layer):
    params = shaped(w=((4, 8, 32), P("data", None, "model")), b=((4, 32), P("data", "model")))
    rule = state_sharding(by_rule(100, per_layer=per_layer), params)[0]
    assert specs(rule.row[0]) == {"w": P("data"), "b": P("data", "model")}
    assert specs(rule.col[0]) == {"w": P("data", None, "model"), "b": P("data")}


def test_a_matrix_for_an_axis_has_its_rows_split_as_the_axis():
    tx = optax.chain(
        optax.masked(soap(1e-3, max_precond_dim=20), {**dict.fromkeys(PARAMS, True), "rows": False})
    )
    state = state_sharding(tx, PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(tx.init, PARAMS))
    state = state[0].inner_state[0]
    for matrices in (state.covariances, state.eigenbases):
        assert {name: specs(one.matrices) for name, one in matrices.items() if name != "rows"} == {
            "wide": (P("data"), None),  # the other axis is longer than 20
            "tall": (None, P("model")),
            "kernel": (P(), P(), P("data"), P("model")),
            "bias": (None,),
            "scale": (),
        }
    assert {name: specs(one) for name, one in state.nu.items() if name != "rows"} == {
        name: spec for name, spec in WHOLE.items() if name != "rows"
    }


def test_soap_on_a_mesh_with_explicit_axes():
    """Where JAX asks how each product is split: results are split as what was given."""
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    tx, whole = soap(0.1), {"w": jnp.arange(12.0).reshape(4, 3) ** 2}
    split = jax.device_put(whole, NamedSharding(mesh, P("data", "model")))
    state, expected_state = jax.jit(tx.init, out_shardings=state_sharding(tx, split))(split), tx.init(whole)
    places = specs(jax.tree.map(lambda x: x.sharding, state))
    for _ in range(2):
        updates, state = jax.jit(tx.update)(split, state, split)
        expected, expected_state = jax.jit(tx.update)(whole, expected_state, whole)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-4, atol=1e-5)
        assert updates["w"].sharding == split["w"].sharding
        assert specs(jax.tree.map(lambda x: x.sharding, state)) == places


def test_no_state_is_made(theta):
    state_sharding(celo(100, weights=theta), shaped(w=((1 << 20, 1 << 20), P("data", "model"))))


def test_a_state_is_made_where_it_belongs():
    params = jax.tree.map(lambda x: jax.device_put(jnp.ones(x.shape), x.sharding), PARAMS)
    tx = celo(100)
    shardings = state_sharding(tx, params)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    assert jax.tree.all(jax.tree.map(lambda x, sharding: x.sharding == sharding, state, shardings))


OTHER = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=NamedSharding(jax.make_mesh((1,), ("fsdp",)), P()))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"w": jnp.ones(3)}, r"NamedSharding, got SingleDeviceSharding.*params\['w'\].*device_put"),
        ({"w": jax.ShapeDtypeStruct((3,), jnp.float32)}, r"NamedSharding, got None for params\['w'\]"),
        (
            {"v": PARAMS["bias"], "w": OTHER},
            r"one mesh, got .*'data'.*params\['v'\], .*'fsdp'.*params\['w'\]",
        ),
        ({}, "one mesh, got no parameter"),
    ],
    ids=["device", "shape", "meshes", "empty"],
)
def test_parameters_that_are_not_on_a_mesh(params, said):
    with pytest.raises(CeloError, match=said):
        state_sharding(celo(100), params)
