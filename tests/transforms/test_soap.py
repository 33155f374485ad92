"""SOAP against a float64 reading of the published update, and what optax's users expect of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.transforms import guard_nonfinite, scale_by_soap, soap
from celo.transforms._soap import PerAxis, SoapState

OPTAX = jax.numpy_dtype_promotion("standard")  # some of its own do not pass the strict one

B1, B2, BETA, EPS = 0.9, 0.8, 0.7, 1e-8
EVERY, LONGEST = 4, 6
STEPS = 27  # six refreshes and a bit
SHAPES = {
    "square": (6, 6),
    "wide": (3, 5),  # one gradient spans three of five directions: eigenvectors of the others are arbitrary
    "cube": (3, 4, 5),
    "kernel": (2, 3, 1, 4),
    "embedding": (9, 4),  # the first axis is longer than LONGEST
    "long": (7, 8),  # both are
    "vector": (5,),
    "scalar": (),
}
TX = scale_by_soap(B1, B2, BETA, EPS, precondition_frequency=EVERY, max_precond_dim=LONGEST)


def normal(shapes, count, seed=0):
    """[count, ...] gradients of each shape, float64, of very different sizes along the axes."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        drawn = rng.standard_normal((count, *shape))
        for axis, size in enumerate(shape):
            scales = np.geomspace(0.3, 3, size) if size > 1 else np.ones(1)
            drawn = drawn * scales.reshape([-1 if axis == other else 1 for other in range(len(shape))])
        return drawn

    return {name: draw(shape) for name, shape in shapes.items()}


GRADS = normal(SHAPES, STEPS)
SMALL = {"w": (4, 3), "b": (3,)}


@jax.jit
def trained(params, grads):
    """Every update of a scan over the first axis of `grads`, the state after the first, and the last one."""

    def step(state, grad):
        updates, state = TX.update(grad, state, params)
        return state, updates

    first, update = step(TX.init(params), jax.tree.map(lambda g: g[0], grads))
    last, updates = jax.lax.scan(step, first, jax.tree.map(lambda g: g[1:], grads))
    return jax.tree.map(lambda u, us: jnp.concatenate([u[None], us]), update, updates), first, last


@functools.cache
def in_float64(zeros):
    """`trained` in float64, the first `zeros` gradients zero; and what it was given."""
    grads = {name: np.array(g) for name, g in GRADS.items()}
    for g in grads.values():
        g[:zeros] = 0
    with jax.enable_x64(True):
        given = jax.tree.map(jnp.asarray, grads)
        found = trained(jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), given), given)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float64", "int32"}
        return grads, jax.tree.map(np.asarray, found)


def published(grads, bases):
    """Updates and last state of one tensor, by the published algorithm: as a vector and a Kronecker product.

    `bases` has the eigenvectors of the first gradient's products, whose choice is free; None: no rotation.
    """
    shape = grads.shape[1:]
    axes = [axis for axis, basis in enumerate(bases) if basis is not None]
    q = [np.eye(size) if basis is None else basis for size, basis in zip(shape, bases, strict=True)]
    products = [np.zeros((size, size)) for size in shape]
    m, v, updates = np.zeros(shape), np.zeros(shape), []
    for t, g in enumerate(grads):
        if t == 0:
            updates.append(np.zeros(shape))
        else:
            rotation = functools.reduce(np.kron, q, np.eye(1))
            m = B1 * m + (1 - B1) * g
            v = B2 * v + (1 - B2) * (rotation.T @ g.ravel()).reshape(shape) ** 2
            scaled = (rotation.T @ m.ravel()) / (1 - B1**t)
            updates.append((rotation @ (scaled / (np.sqrt(v.ravel() / (1 - B2**t)) + EPS))).reshape(shape))
        for axis in axes:
            unfolded = np.moveaxis(g, axis, 0).reshape(shape[axis], -1)
            products[axis] = BETA * products[axis] + (1 - BETA) * unfolded @ unfolded.T
            if t and t % EVERY == 0:
                order = np.argsort(-np.diag(q[axis].T @ products[axis] @ q[axis]), kind="stable")
                v = np.take(v, order, axis)
                q[axis] = np.linalg.qr(products[axis] @ q[axis][:, order])[0]
    return np.array(updates), m, v, products, q


@pytest.mark.parametrize("zeros", [0, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_updates_and_state_are_the_published_ones(name, zeros):
    grads, (updates, first, last) = in_float64(zeros)
    bases = first.eigenbases[name].matrices
    expected, m, v, products, q = published(grads[name], bases)
    np.testing.assert_allclose(updates[name], expected, rtol=1e-6, atol=1e-9)
    assert np.abs(expected[zeros + 1 :]).max() > 0.5
    np.testing.assert_allclose(last.mu[name], m, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(last.nu[name], v, rtol=1e-6, atol=1e-9)
    for axis, (product, basis) in enumerate(zip(products, q, strict=True)):
        if bases[axis] is not None:
            np.testing.assert_allclose(last.covariances[name].matrices[axis], product, atol=1e-9)
            np.testing.assert_allclose(last.eigenbases[name].matrices[axis], basis, atol=1e-6)
    assert last.step == STEPS


def test_axes_with_a_basis():
    """Of tensors with two axes and more those of lengths 2 to LONGEST."""
    _, (_, first, _) = in_float64(0)
    having = {name: [m is not None for m in first.eigenbases[name].matrices] for name in SHAPES}
    assert having == {
        "square": [True, True],
        "wide": [True, True],
        "cube": [True, True, True],
        "kernel": [True, True, False, True],
        "embedding": [False, True],
        "long": [False, False],
        "vector": [False],
        "scalar": [],
    }


def test_the_first_gradient_gives_eigenvectors_and_no_step():
    grads, (updates, first, _) = in_float64(0)
    for name, shape in SHAPES.items():
        assert not np.any(updates[name][0])
        assert not np.any(first.mu[name])
        assert not np.any(first.nu[name])
        for axis, basis in enumerate(first.eigenbases[name].matrices):
            if basis is not None:
                unfolded = np.moveaxis(grads[name][0], axis, 0).reshape(shape[axis], -1)
                values = np.linalg.eigvalsh(unfolded @ unfolded.T)[::-1]
                np.testing.assert_allclose(
                    basis.T @ unfolded @ unfolded.T @ basis, np.diag(values), atol=1e-9
                )
                np.testing.assert_allclose(basis.T @ basis, np.eye(shape[axis]), atol=1e-9)


@pytest.mark.parametrize("name", ["vector", "scalar", "long"])
def test_what_is_not_rotated_gets_adam_one_gradient_late(name):
    grads, (updates, *_) = in_float64(0)
    with jax.enable_x64(True), OPTAX:
        adam = optax.scale_by_adam(B1, B2, EPS)
        state = adam.init(jnp.asarray(grads[name][0]))
        for t in range(1, 8):
            update, state = adam.update(jnp.asarray(grads[name][t]), state)
            np.testing.assert_allclose(updates[name][t], update, rtol=1e-9)


# The same in float32, one step at a time

TINY = {name: g.astype(np.float32) for name, g in normal(SMALL, 12, seed=1).items()}
PARAMS = {name: jnp.asarray(g[0]) for name, g in TINY.items()}


def history(tx, count, state=None, grads=TINY, params=PARAMS, start=0, jit=True):
    """Updates of `count` steps from gradient `start` on, and the last state."""
    state = tx.init(params) if state is None else state
    update = jax.jit(tx.update) if jit else tx.update
    found = []
    for t in range(start, start + count):
        updates, state = update({name: jnp.asarray(g[t]) for name, g in grads.items()}, state, params)
        found.append(updates)
    return found, state


def close(left, right, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


@pytest.fixture(scope="module")
def third():
    """The state after three gradients."""
    return history(TX, 3)[1]


def test_signs_of_eigenvectors_do_not_matter(third):
    def flipped(matrix):
        return matrix * (-1.0) ** jnp.arange(len(matrix), dtype=jnp.float32)

    other = third._replace(eigenbases=jax.tree.map(flipped, third.eigenbases))
    assert np.any(other.eigenbases["w"].matrices[0] != third.eigenbases["w"].matrices[0])
    found, last = history(TX, 6, other, start=3)  # two refreshes
    expected, expected_last = history(TX, 6, third, start=3)
    close(found, expected, rtol=1e-3, atol=1e-4)
    close(last.nu, expected_last.nu, rtol=1e-3, atol=1e-4)


def test_bases_change_in_every_fourth_step_and_turn_to_the_eigenvectors(third):
    before = third
    for t in range(3, 9):
        _, after = history(TX, 1, before, start=t)
        moved = np.any(after.eigenbases["w"].matrices[0] != before.eigenbases["w"].matrices[0])
        assert moved == (t % EVERY == 0)
        before = after
    # Of one matrix, again and again, power iteration finds the eigenvectors.
    tx = scale_by_soap(precondition_frequency=1)
    w, other = np.diag([4.0, 2.0, 1.0, 0.5])[:, :3], np.roll(np.eye(4), 1, axis=0)[:, :3]
    same = {"w": np.stack([other * [1, 2, 3], *[w] * 40]).astype(np.float32)}
    _, last = history(tx, 41, grads=same, params={"w": jnp.ones((4, 3))})
    np.testing.assert_allclose(np.abs(last.eigenbases["w"].matrices[1]), np.eye(3), atol=0.05)


def test_jit_equals_no_jit():
    # Both sides of both branches.
    close(history(TX, 6), history(TX, 6, jit=False), rtol=1e-4, atol=1e-5)


def test_a_step_is_traced_once():
    traces = []

    @jax.jit
    def step(grads, state):
        traces.append(None)
        return TX.update(grads, state)[1]

    state = TX.init(PARAMS)
    for _ in range(6):
        state = step(PARAMS, state)
    step(PARAMS, jax.jit(TX.init)(PARAMS))
    assert len(traces) == 1


def test_state_is_float32_and_shares_no_memory():
    state = TX.init(jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS))
    assert isinstance(state, SoapState)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(places)) == len(places)
    assert jax.tree.structure(jax.eval_shape(TX.init, PARAMS)) == jax.tree.structure(state)


def test_bfloat16_gradients_are_computed_with_in_float32():
    half = {name: jnp.asarray(g, jnp.bfloat16) for name, g in TINY.items()}
    params = jax.tree.map(lambda g: g[0], half)
    found, state = history(TX, 6, grads=half, params=params)
    full = {name: np.asarray(g, np.float32) for name, g in half.items()}
    expected, expected_state = history(TX, 6, grads=full)
    close(state, expected_state, rtol=1e-4, atol=1e-5)
    for updates, wanted in zip(found, expected, strict=True):
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
        close(jax.tree.map(lambda u: u.astype(jnp.float32), updates), wanted, rtol=0.01, atol=1e-3)


def test_empty_tensors_and_trees():
    params = {"a": jnp.zeros((0,)), "b": jnp.zeros((0, 3)), "c": {}, "d": jnp.zeros((2, 0))}
    state = TX.init(params)
    for _ in range(EVERY + 1):
        updates, state = jax.jit(TX.update)(params, state)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert TX.update({}, TX.init({}))[0] == {}


def test_rows_without_gradients_stand_still():
    """Of an embedding, say; and a tensor that never has one, through refreshes."""
    # Rounding leaves 1e-7 of a gradient in the others' directions: that has to be small beside eps.
    w = 1e-3 * TINY["w"] * np.array([1, 0, 1, 0], np.float32)[:, None]
    found, _ = history(TX, 10, grads={"w": w, "b": np.zeros((12, 3), np.float32)})
    for updates in found:
        assert np.abs(updates["w"][jnp.array([1, 3])]).max() < 0.03
        assert not np.any(updates["b"])
    assert np.abs(found[-1]["w"][0]).max() > 0.1


# With learning rate, decay, and optax around it


def same_but(**settings):
    return soap(**{"learning_rate": 0.1, "weight_decay": 0.0, "precondition_frequency": EVERY, **settings})


PLAIN = same_but()


def test_soap_is_the_scaled_step_downhill():
    tx = same_but(b1=B1, b2=B2, shampoo_beta=BETA, max_precond_dim=LONGEST)
    close(history(tx, 6)[0], [jax.tree.map(lambda u: -0.1 * u, one) for one in history(TX, 6)[0]])


def test_shampoo_beta_is_b2_unless_it_is_given():
    own, other = (history(same_but(b2=0.8, shampoo_beta=beta), 6)[0] for beta in (None, 0.8))
    close(own, other, rtol=0, atol=0)
    different = history(same_but(b2=0.8, shampoo_beta=0.5), 6)[0]
    assert np.abs(different[-1]["w"] - own[-1]["w"]).max() > 1e-4


@pytest.mark.parametrize("mask", [None, {"w": True, "b": False}, lambda params: {"w": False, "b": True}])
def test_weight_decay_is_decoupled_and_masked(mask):
    found, _ = history(same_but(weight_decay=0.3, mask=mask), 3)
    expected, _ = history(PLAIN, 3)
    chosen = mask(PARAMS) if callable(mask) else mask or {"w": True, "b": True}
    for one, other in zip(found, expected, strict=True):
        for name, decays in chosen.items():
            np.testing.assert_allclose(
                one[name], other[name] - 0.1 * 0.3 * decays * PARAMS[name], rtol=1e-4, atol=1e-6
            )


def test_the_default_decay_is_the_published_one():
    first = history(soap(0.1), 1)[0][0]  # in which nothing else moves
    close(first, jax.tree.map(lambda p: -0.1 * 0.01 * p, PARAMS))


def test_a_schedule():
    schedule = optax.linear_schedule(1.0, 0.0, 8)
    found, _ = history(same_but(learning_rate=schedule), 6)
    expected, _ = history(same_but(learning_rate=1.0), 6)
    for t, (one, other) in enumerate(zip(found, expected, strict=True)):
        close(one, jax.tree.map(lambda u, t=t: (1 - t / 8) * u, other))


def fitted(scale, rate, steps=200):
    """The share of the loss that is left, at a rate that falls to zero: long valleys, none along an axis."""
    rng = np.random.default_rng(5)

    def stretched(size):
        turns = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2)]
        return jnp.asarray(turns[0] @ np.diag(np.geomspace(1, 0.03, size)) @ turns[1], jnp.float32)

    left, right, target = stretched(8), stretched(6), jnp.asarray(rng.standard_normal((8, 6)), jnp.float32)

    def loss(w):
        return jnp.mean(jnp.square(left @ (w - target) @ right))

    falling = optax.linear_schedule(1.0, 0.0, steps)
    tx = optax.chain(scale, optax.scale_by_learning_rate(rate), optax.scale_by_schedule(falling))

    def step(run, _):
        w, state = run
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    start = jnp.zeros((8, 6))
    (end, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    return loss(end) / loss(start)


def test_it_takes_valleys_that_adam_does_not():
    """With traced rates, side by side. Measured: 1e-9 of the loss is left, and after Adam 1.4e-4."""
    rates = np.float32([0.03, 0.1, 0.3])

    def best(scale):
        return jax.jit(jax.vmap(lambda rate: fitted(scale, rate)))(rates).min()

    with OPTAX:
        adam = best(optax.scale_by_adam(0.9, 0.95))
    assert best(scale_by_soap(0.9, 0.95)) < 1e-3 * adam


def test_vmapped_rates_equal_one_after_another():
    def trained(rate):
        tx = same_but(learning_rate=rate)
        state, found = tx.init(PARAMS), []
        for t in range(3):
            updates, state = tx.update({name: jnp.asarray(g[t]) for name, g in TINY.items()}, state, PARAMS)
            found.append(updates)
        return found

    together = jax.jit(jax.vmap(trained))(jnp.float32([0.1, 0.5]))
    for i, rate in enumerate((0.1, 0.5)):
        close(jax.tree.map(lambda u, i=i: u[i], together), history(same_but(learning_rate=rate), 3)[0], 1e-4)


def test_states_may_be_vmapped_too(third):
    """Two of different age: one begins, the other refreshes."""
    older = history(TX, 1, third, start=3)[1]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), TX.init(PARAMS), older)
    grads = {name: jnp.asarray(np.stack([g[0], g[4]])) for name, g in TINY.items()}
    found = jax.jit(jax.vmap(TX.update))(grads, states)
    expected = [history(TX, 1), history(TX, 1, older, start=4)]
    for i, ([updates], state) in enumerate(expected):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), (updates, state), rtol=1e-3, atol=1e-4)


def test_chain_and_mask_and_extra_arguments():
    tx = optax.chain(optax.scale(2.0), optax.masked(PLAIN, {"w": True, "b": False}))
    found, _ = history(tx, 3)
    only = {"w": TINY["w"] * 2}
    expected, _ = history(PLAIN, 3, grads=only, params={"w": PARAMS["w"]})
    for t, (one, other) in enumerate(zip(found, expected, strict=True)):
        close(one, {"w": other["w"], "b": 2 * TINY["b"][t]})
    PLAIN.update(PARAMS, PLAIN.init(PARAMS), PARAMS, value=1.0, anything=None)


def test_map_params_tells_what_belongs_to_tensors():
    state = TX.init(PARAMS)
    marked = optax.tree.map_params(TX, lambda _: "param", state, transform_non_params=lambda _: "other")
    assert marked.step == "other"
    assert set(jax.tree.leaves(marked[1:])) == {"param"}


def test_inject_hyperparams():
    static = ("precondition_frequency", "max_precond_dim")
    tx = optax.inject_hyperparams(soap, static_args=static)(0.1, b1=0.9)
    with OPTAX:
        found, state = history(tx, 4)
    assert {"learning_rate", "b1", "eps", "weight_decay"} <= set(state.hyperparams)
    close(found, history(soap(0.1, b1=0.9), 4)[0], rtol=0.01, atol=2e-4)
    with pytest.raises(CeloError, match=r"precondition_frequency must be a Python integer.*static_args="):
        optax.inject_hyperparams(soap)(0.1).init(PARAMS)


def test_numbers_that_are_not_finite_pass_as_in_optax():
    bad = {name: np.array(g) for name, g in TINY.items()}
    bad["w"][2, 0, 0] = np.nan
    found, _ = history(TX, 3, grads=bad)
    assert np.isnan(found[2]["w"]).any()
    assert np.isfinite(found[2]["b"]).all()


@pytest.mark.parametrize("bad_step", [0, 2])
@pytest.mark.parametrize(
    "guard", [lambda tx: optax.apply_if_finite(tx, 3), lambda tx: guard_nonfinite(tx, "skip")]
)
def test_guards_keep_them_out(guard, bad_step):
    bad = {name: np.array(g) for name, g in TINY.items()}
    bad["w"][bad_step] = np.nan
    found, state = history(guard(PLAIN), 6, grads=bad)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found[bad_step]))
    good = {name: np.delete(g, bad_step, axis=0) for name, g in TINY.items()}
    expected, expected_state = history(PLAIN, 5, grads=good)
    close(found[:bad_step] + found[bad_step + 1 :], expected, rtol=1e-4)
    close(state.inner_state[0], expected_state[0], rtol=1e-4, atol=1e-5)


# Errors


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"b1": 1.0}, r"b1 must be at least 0 and less than 1, got 1\.0; for example 0\.95"),
        ({"b2": -0.1}, r"b2 must .* got -0\.1"),
        ({"b2": float("nan")}, "b2 must .* got nan"),
        ({"shampoo_beta": -1}, "shampoo_beta must .* got -1"),
        ({"eps": 0.0}, r"eps must be positive, got 0\.0.*1e-8"),
        (
            {"precondition_frequency": 0},
            "precondition_frequency must be a positive whole number, got 0; pass",
        ),
        ({"precondition_frequency": 2.5}, r"precondition_frequency .* got 2\.5"),
        ({"max_precond_dim": 0}, "max_precond_dim must be a positive whole number, got 0; pass"),
        ({"max_precond_dim": jnp.int32(8)}, "max_precond_dim must be a Python integer, got 8.*static_args="),
        ({"weight_decay": -0.1}, r"weight_decay must not be negative, got -0\.1; 0 switches it off"),
    ],
    ids=str,
)
def test_wrong_arguments(settings, said):
    with pytest.raises(CeloError, match=said):
        soap(0.1, **settings)
    if "weight_decay" not in settings:
        with pytest.raises(CeloError, match=said):
            scale_by_soap(**settings)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_parameters_that_are_not_real(dtype):
    with pytest.raises(CeloError, match=rf"must be real.* is {jnp.dtype(dtype)}\[2\]"):
        soap(0.1).init({"w": jnp.ones(2, dtype)})


def test_a_basis_for_each_axis_is_one_node():
    """What `celo.state_sharding` finds it by."""
    bases = jax.tree.leaves(TX.init(PARAMS).eigenbases, is_leaf=lambda node: isinstance(node, PerAxis))
    assert [[m is not None for m in one.matrices] for one in bases] == [[False], [True, True]]
