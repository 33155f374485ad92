"""A run begun in one framework goes on in the other as if it had stayed."""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from side_by_side import problem, with_orthogonal_steps

import celo
from celo import weights
from celo._errors import CeloError
from celo.optimizers import CeloAdam as CeloAdamInJax
from celo.optimizers import Velo
from celo.torch import (
    Celo,
    Celo2,
    Celo2Base,
    CeloAdam,
    CeloRule,
    VeLO,
    as_jax_state,
    load_jax_state,
)

HORIZON, HALF, STEPS, RATE = 40, 10, 20, 0.01
TOLERANCE = 1e-4  # of a tensor's movement, as between whole runs
BUNDLED = {
    group: {name: np.asarray(array) for name, array in arrays.items()}
    for group, arrays in weights.load("celo-1").theta.items()
}
THETA = with_orthogonal_steps(BUNDLED)
CELO2_THETA = golden_data.to_celo2_theta(
    golden_data.below(golden_data.load(golden_data.CELO2), "theta/celo2__noisy")
)
VELO_THETA = golden_data.to_velo_theta(
    golden_data.below(golden_data.load(golden_data.VELO), "theta/velo_s__noisy")
)
# In JAX's layout, with the permutations that make them PyTorch's. The kernel's largest axes are its last two
# in JAX and its first two here. No square is transposed: the rule tells its axes apart by their order, so
# that the frameworks take other steps (their states are compared below).
SHAPES = {
    "bias": (7,),
    "dense": (5, 9),
    "kernel": (2, 3, 5, 7),
    "line": (3, 5, 4),
    "scalar": (),
    "square": (6, 6),
    "zeros": (4, 5),
}
AXES = dict.fromkeys(SHAPES) | {
    "dense": (1, 0),
    "kernel": (3, 2, 0, 1),
    "zeros": (1, 0),
}
# Celo2 has its matrices in the last two axes in JAX and in the first two here.
AXES_OF_CELO2 = AXES | {"line": (2, 1, 0)}
STACKS = {"biases": (3, 5), "heads": (2, 4, 7), "squares": (3, 6, 6)}
STACK_AXES = {"biases": None, "heads": (0, 2, 1), "squares": None}


def to_torch(x, axes):
    return np.array(x if axes is None else np.transpose(x, axes), order="C")


def to_jax(x, axes):
    return x if axes is None else np.transpose(x, np.argsort(axes))


@functools.cache
def training(stacked=False):
    return problem(STACKS if stacked else SHAPES, steps=STEPS)


@functools.cache
def stepper(tx):
    return jax.jit(lambda grads, state, params, loss: tx.update(grads, state, params, value=loss))


def go_on_in_jax(tx, params, state, steps, stacked=False):
    _, grads, losses = training(stacked)
    params = {name: jnp.asarray(p) for name, p in params.items()}
    for step in steps:
        now = {name: grads[name][step] for name in params}
        updates, state = stepper(tx)(now, state, params, losses[step])
        params = optax.apply_updates(params, updates)
    return {name: np.asarray(p) for name, p in params.items()}, state


def go_on_in_torch(optimizer, tensors, axes, steps, stacked=False):
    _, grads, losses = training(stacked)
    for step in steps:
        for name, x in tensors.items():
            x.grad = torch.from_numpy(to_torch(grads[name][step], axes[name]))
        optimizer.step(loss=float(losses[step]))
    return {name: to_jax(x.detach().numpy(), axes[name]) for name, x in tensors.items()}


def tensors_like(params, axes):
    return {name: torch.tensor(to_torch(p, axes[name]), requires_grad=True) for name, p in params.items()}


def assert_alike(ours, theirs, first):
    for name, p in theirs.items():
        moved = np.abs(p - first[name]).max()
        assert moved > 0, name
        assert np.abs(ours[name] - p).max() <= TOLERANCE * moved, name


def adams_theta():
    theta = CeloAdamInJax().init_theta(jax.random.key(3))
    return jax.tree.map(np.asarray, theta)


def velo_theta():
    return Velo().init_theta(jax.random.key(4))


def vectors(params):
    return {name: jnp.ndim(p) < 2 for name, p in params.items()}


@functools.cache
def pair(kind):
    """(transformation, what makes its counterpart, axes, whether tensors are stacks)."""
    if kind == "adam":
        theta = adams_theta()
        rate = {"learning_rate": 1.0}
        return (
            celo.celo_adam(HORIZON, weights=theta, **rate),
            lambda params: CeloAdam(params, HORIZON, weights=theta),
            AXES,
            False,
        )
    if kind == "celo2":
        theta = CELO2_THETA
        tx = celo.celo2(RATE, weights=theta, adam_mask=vectors, nonfinite="skip")
        return tx, lambda p: Celo2(p, RATE, weights=theta, nonfinite="skip"), AXES_OF_CELO2, False
    if kind == "celo2_base":
        options = {"weights": CELO2_THETA, "per_layer": 1}
        tx = celo.celo2_base(RATE, **options)
        return tx, lambda p: Celo2Base(p, RATE, **options), STACK_AXES, True
    if kind in ("velo", "velo_layers"):
        options = {"weights": VELO_THETA, "per_layer": int(kind == "velo_layers"), "plateau": 0.3}
        tx = celo.velo(HORIZON, **options)
        axes = STACK_AXES if options["per_layer"] else AXES
        return tx, lambda p: VeLO(p, HORIZON, **options), axes, axes is STACK_AXES
    if kind == "rule":
        return celo.celo_rule(0.7, weights=THETA), lambda p: CeloRule(p, 0.7, weights=THETA), AXES, False
    if kind == "per_layer":
        options = {"weights": THETA, "per_layer": 1}
        return celo.celo(HORIZON, **options), lambda p: Celo(p, HORIZON, **options), STACK_AXES, True
    options = {
        "orthogonal": {"weights": THETA},
        "published": {"weights": BUNDLED},
        "plateau": {"weights": BUNDLED, "plateau": 0.3},  # reached after the transfer
        "guarded": {"weights": BUNDLED, "nonfinite": "shrink"},
        "chain": {"weights": BUNDLED},
    }[kind]
    tx = celo.celo(HORIZON, **options)
    if kind == "chain":
        tx = optax.chain(optax.identity(), optax.chain(tx))
    return tx, lambda p: Celo(p, HORIZON, **options), AXES, False


KINDS = (
    *("orthogonal", "published", "per_layer", "rule", "adam", "plateau", "guarded", "chain"),
    *("celo2", "celo2_base", "velo", "velo_layers"),
)


@functools.cache
def in_jax(kind):
    """(first parameters, parameters and state after half of the steps, parameters after all)."""
    tx, _, _, stacked = pair(kind)
    first = training(stacked)[0]
    half, state = go_on_in_jax(tx, first, tx.init(first), range(HALF), stacked)
    last, _ = go_on_in_jax(tx, half, state, range(HALF, STEPS), stacked)
    return first, half, state, last


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_begun_in_jax_goes_on_in_pytorch(kind):
    _, make, axes, stacked = pair(kind)
    _, half, state, last = in_jax(kind)
    tensors = tensors_like(half, axes)
    optimizer = make(tensors.values())
    load_jax_state(optimizer, state, axes)
    ours = go_on_in_torch(optimizer, tensors, axes, range(HALF, STEPS), stacked)
    assert_alike(ours, last, half)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_begun_in_pytorch_goes_on_in_jax(kind):
    tx, make, axes, stacked = pair(kind)
    first, _, _, last = in_jax(kind)
    tensors = tensors_like(first, axes)
    optimizer = make(tensors.values())
    half = go_on_in_torch(optimizer, tensors, axes, range(HALF), stacked)
    state = as_jax_state(optimizer, jax.eval_shape(tx.init, first), axes)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), jax.eval_shape(tx.init, first)
    )
    ours, _ = go_on_in_jax(tx, half, state, range(HALF, STEPS), stacked)
    assert_alike(ours, last, half)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_gives_the_same_numbers(kind):
    tx, make, axes, _ = pair(kind)
    first, half, state, _ = in_jax(kind)
    optimizer = make(tensors_like(half, axes).values())
    load_jax_state(optimizer, state, axes)
    jax.tree.map(np.testing.assert_array_equal, as_jax_state(optimizer, state, axes), state)
    # Nothing that the optimizer writes afterwards is seen in JAX.
    given = as_jax_state(optimizer, tx.init(first), axes)
    for of_one in optimizer.state.values():
        for x in of_one.values():
            x.fill_(7.0)
    schedule_moved = kind in (
        "rule",
        "chain",
        "celo2",
        "celo2_base",
    )  # of these the state holds numbers that are not Celo's
    if not schedule_moved:
        jax.tree.map(np.testing.assert_array_equal, given, state)


def test_the_state_is_the_one_that_the_same_gradients_leave_here():
    """Also where row and col change places: in a transposed square, of single tensors and of stacks."""
    shapes = {"kernel": (3, 5, 8, 8), "square": (8, 8), "stack": (3, 4, 4), "wide": (4, 9)}
    axes = {"kernel": (3, 2, 0, 1), "square": (1, 0), "stack": (0, 2, 1), "wide": (1, 0)}
    params, grads, losses = problem(shapes, steps=3)
    tx = celo.celo(HORIZON, weights=THETA)
    state = tx.init(params)
    optimizer = Celo(tensors_like(params, axes).values(), HORIZON, weights=THETA)
    other = Celo(tensors_like(params, axes).values(), HORIZON, weights=THETA)
    for step, loss in enumerate(losses):
        now = {name: grads[name][step] for name in params}
        _, state = stepper(tx)(now, state, params, loss)
        for name, x in zip(axes, other.param_groups[0]["params"], strict=True):
            x.grad = torch.from_numpy(to_torch(now[name], axes[name]))
        other.step(loss=float(loss))
    load_jax_state(optimizer, state, axes)
    for name, x, y in zip(axes, *(o.param_groups[0]["params"] for o in (optimizer, other)), strict=True):
        assert optimizer.state[x].keys() == other.state[y].keys()
        for part, found in optimizer.state[x].items():
            expected = other.state[y][part]
            rounding = 1e-6 * float(expected.abs().max()) if expected.numel() else 0.0
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=rounding, msg=f"{part} of {name}")
    for part, found in optimizer._schedule_state().items():
        torch.testing.assert_close(found, other._schedule_state()[part], rtol=1e-4, atol=1e-6, msg=part)


def flax_like():
    """A state of {"dense": {"bias", "kernel"}} in JAX, and a layer whose parameters come in another order."""
    params = {"dense": {"bias": jnp.ones(8), "kernel": jnp.ones((8, 8))}}
    tx = celo.celo(HORIZON, weights=BUNDLED)
    grads = jax.tree.map(lambda p: jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape), params)
    _, state = tx.update(grads, tx.init(params), params, value=1.0)
    return state, torch.nn.Linear(8, 8), grads


def by_path(path, shape):
    assert shape == {"dense/bias": (8,), "dense/kernel": (8, 8)}[path]
    return (1, 0) if path == "dense/kernel" else None


@pytest.mark.parametrize("axes", [[None, (1, 0)], {"dense": {"bias": None, "kernel": (1, 0)}}, by_path])
def test_parameters_in_another_order_are_named_by_a_pytree(axes):
    state, layer, grads = flax_like()
    optimizer = Celo(layer.parameters(), HORIZON, weights=BUNDLED)
    where = {"dense": {"bias": layer.bias, "kernel": layer.weight}}
    load_jax_state(optimizer, state, axes, params=where)
    found = optimizer.state[layer.weight]["momenta"][0].numpy()
    np.testing.assert_allclose(found, 0.1 * np.minimum(grads["dense"]["kernel"], 1000).T, rtol=1e-5)
    back = as_jax_state(optimizer, state, axes, params=where)
    jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": None}, r"bias \[8\] in JAX.* corresponds to a parameter \[8, 8\].*params_axes.*params"),
        ({"axes": [(1, 0)]}, "params_axes has 1 leaves, and there are 2 parameters"),
        ({"axes": [(1, 0), None]}, r"params_axes of dense/bias is \(1, 0\), no permutation"),
        ({"axes": [None, (0, 0)]}, r"dense/kernel is \(0, 0\), no permutation of the 2 axes"),
        ({"where": {"a": torch.ones(8), "b": torch.ones(8, 8)}}, "params must hold each"),
        ({"state": {"momenta": 1}}, "got a dict with 0 of RuleState.*restore it with tx.init"),
        ({"tx": lambda: celo.celo(90, state_dtype="bfloat16")}, "bfloat16.*use state_dtype='float32'"),
        ({"tx": lambda: celo.celo_rule(1.0, weights=BUNDLED)}, "Celo has 'schedule_cell' and JAX's"),
        ({"tx": lambda: celo.celo(90, weights=BUNDLED, nonfinite="skip")}, "has 'bad_gradients' and Celo"),
        ({"tx": lambda: celo.celo(90, weights=THETA)}, "dense/kernel steps along its momentum in JAX alone"),
        ({"tx": lambda: celo.celo(90, weights=BUNDLED, per_layer=1)}, "row of dense/kernel .* per_layer=0"),
        ({"tx": lambda: celo.celo_adam(90, weights=adams_theta())}, "0 of RuleState"),
        ({"tx": lambda: optax.adam(1.0)}, "corresponds to one state of celo.celo or celo.celo_rule"),
        ({"tx": lambda: celo.as_optax(Velo(), velo_theta(), 90)}, "with VeloState"),
        ({"model": torch.nn.Linear(8, 8, bias=False)}, "2 parameters, and the optimizer has 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("direction", [load_jax_state, as_jax_state])
def test_what_does_not_correspond_is_refused_and_nothing_changes(direction, change, message):
    state, layer, _ = flax_like()
    layer = change.get("model", layer)
    if "tx" in change:
        state = change["tx"]().init({"dense": {"bias": jnp.ones(8), "kernel": jnp.ones((8, 8))}})
    optimizer = Celo(layer.parameters(), HORIZON, weights=BUNDLED)
    where = change.get("where", {"dense": {"bias": layer.bias, "kernel": layer.weight}})
    axes = change.get("axes", by_path)
    if axes is None or "model" in change:
        where = None
    before = optimizer.state_dict()["state"][0]["momenta"].clone()
    with pytest.raises(CeloError, match=message):
        direction(optimizer, change.get("state", state), axes, params=where)
    assert torch.equal(optimizer.state_dict()["state"][0]["momenta"], before)


def test_what_adam_takes_must_be_the_same_in_both():
    params = [jnp.ones(3), jnp.ones((3, 4))]
    tensors = [torch.ones(3, requires_grad=True), torch.ones(3, 4, requires_grad=True)]
    theta = CELO2_THETA
    state = celo.celo2(RATE, weights=theta, adam_mask=False).init(params)
    with pytest.raises(CeloError, match=r"Adam takes 0 in PyTorch alone; make adam_mask there and adam="):
        load_jax_state(Celo2(tensors, RATE, weights=theta), state)
    state = celo.celo2(RATE, weights=theta, adam_mask=True).init(params)
    with pytest.raises(CeloError, match=r"Adam takes 1 in JAX alone"):
        load_jax_state(Celo2(tensors, RATE, weights=theta), state)


def test_matrices_of_celo2_must_be_in_corresponding_axes():
    tensors, theta = [torch.ones(3, 4, 5, requires_grad=True)], CELO2_THETA
    state = celo.celo2_base(RATE, weights=theta).init([jnp.ones((3, 4, 5))])
    optimizer = Celo2Base(tensors, RATE, weights=theta)
    with pytest.raises(CeloError, match=r"0 \[3, 4, 5\] has its matrices in its last two axes in JAX"):
        load_jax_state(optimizer, state)
    state = celo.celo2_base(RATE, weights=theta, per_layer=1).init([jnp.ones((3, 4, 5))])
    load_jax_state(Celo2Base(tensors, RATE, weights=theta, per_layer=1), state)


def test_velo_of_another_size_is_refused():
    theta = Velo(units=8, banks=4).init_theta(jax.random.key(0))
    state = celo.velo(HORIZON, weights=theta).init([jnp.ones((3, 4))])
    optimizer = VeLO([torch.ones(3, 4, requires_grad=True)], HORIZON, weights=VELO_THETA)
    with pytest.raises(CeloError, match=r"hidden .* has shape \(1, 8\), expected \(1, 64\)"):
        load_jax_state(optimizer, state)
    with pytest.raises(CeloError, match=r"VeLO corresponds to one state of celo.velo.*0 of ControllerState"):
        load_jax_state(optimizer, celo.celo(HORIZON, weights="celo-1").init([jnp.ones((3, 4))]))


def test_groups_of_adamw_have_no_counterpart():
    state = celo.celo(HORIZON).init([jnp.ones(3)])
    optimizer = Celo([{"params": [torch.ones(3, requires_grad=True)], "rule": "adamw"}], HORIZON)
    with pytest.raises(CeloError, match="rule='adamw'"):
        load_jax_state(optimizer, state)


def test_a_plateau_needs_a_place_in_jax():
    optimizer = Celo([torch.ones(3, requires_grad=True)], HORIZON, plateau=0.5)
    with pytest.raises(CeloError, match=r"plateau=0\.5, and JAX's state has no plateau"):
        as_jax_state(optimizer, celo.celo(HORIZON).init([jnp.ones(3)]))


def test_different_counts_of_gradients_have_no_place_in_jax():
    tensors = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = CeloAdam(tensors, HORIZON, weights=adams_theta())
    tensors[0].grad = torch.ones(3)
    optimizer.step(loss=1.0)
    state = celo.celo_adam(HORIZON, weights=adams_theta()).init([jnp.ones(3)] * 2)
    with pytest.raises(CeloError, match="from 0 to 1 gradients"):
        as_jax_state(optimizer, state)
