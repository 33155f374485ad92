"""VeLO as users call it: against its float64 reading, stacked layers, sizes, horizons, settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import velo_reading
from marks import slow_but

from celo import _compile
from celo import weights as weights_files
from celo._errors import CeloError
from celo.optimizers import OPTIMIZERS, Velo, as_optax, cool_down, velo, with_horizon

KERNELS = ["xla", "native"] if _compile.find_compiler() else ["xla"]
SOME = slow_but(KERNELS[-1:], KERNELS)
SMALL = Velo("xla", units=8, banks=4)
SHAPES = {
    "scalar": (),
    "one": (1,),
    "line": (6,),
    "matrix": (3, 5),
    "square": (4, 4),
    "thin": (1, 7),
    "kernel": (3, 3, 2, 4),
    "deep": (2, 2, 3, 2, 2),  # five axes have no place among the inputs
}
STEPS = 12


@pytest.fixture(scope="module")
def theta(noisy_theta):
    """Of a small VeLO, its weights far from zero, so that steps are."""
    return jax.tree.map(lambda x: 3.0 * x, noisy_theta(SMALL))


def draw(seed, shapes, size=1.0, lead=()):
    rng = np.random.default_rng(seed)
    return {n: (size * rng.normal(size=(*lead, *s))).astype("f4") for n, s in shapes.items()}


PARAMS = draw(0, {"w": (3, 2), "b": (2,), "s": ()})
GRADS = draw(1, {"w": (3, 2), "b": (2,), "s": ()})


def trained(tx, params=PARAMS, grads=None, losses=(2.0, 1.5, 1.7), state=None):
    """(updates of each step, final state); parameters move."""
    params = jax.tree.map(jnp.asarray, params)
    grads = jax.tree.map(lambda g: np.stack([g] * len(losses)), GRADS) if grads is None else grads

    def step(carry, now):
        params, state = carry
        updates, state = tx.update(now[0], state, params, value=now[1])
        return (optax.apply_updates(params, updates), state), updates

    first = tx.init(params) if state is None else state
    (_, state), updates = jax.lax.scan(step, (params, first), (grads, jnp.asarray(losses, jnp.float32)))
    return updates, state


def close(left, right, rtol=1e-5, atol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


# The mathematics


def grads_of(case):
    grads = draw(3, SHAPES, lead=(STEPS,))
    if case == "quiet start":
        return {
            n: np.where(np.arange(STEPS).reshape(-1, *[1] * (g.ndim - 1)) < 5, 0, g) for n, g in grads.items()
        }
    if case == "silence":
        return {n: np.zeros_like(g) for n, g in grads.items()}
    if case == "huge":
        return {n: np.float32(1e5) * g**3 for n, g in grads.items()}
    if case == "tiny":
        return {n: np.float32(1e-12) * g for n, g in grads.items()}
    return grads


LOSSES = {
    "falling": np.linspace(3.0, 1.0, STEPS),
    "spikes": np.where(np.arange(STEPS) % 4 == 2, 1e4, np.linspace(3.0, 1.0, STEPS)),
    "negative": np.linspace(1.0, -2.0, STEPS),
}


@functools.cache
def compiled(kernel):
    def updates(theta, params, grads, losses):
        return trained(velo(STEPS, weights=theta, kernel=kernel, mixture_scale=0.5), params, grads, losses)[0]

    return jax.jit(updates)


@pytest.mark.parametrize("kernel", SOME)
@pytest.mark.parametrize(
    ("grads", "losses", "size"),
    [
        ("plain", "falling", 1.0),
        ("plain", "spikes", 1e-3),
        ("quiet start", "negative", 1.0),
        ("silence", "falling", 1.0),
        ("huge", "falling", 30.0),
        ("tiny", "spikes", 1.0),
        ("plain", "falling", 0.0),  # a mean square below its floor
    ],
)
def test_against_the_reading(theta, kernel, grads, losses, size):
    params, grads, losses = draw(2, SHAPES, size), grads_of(grads), LOSSES[losses]
    updates = compiled(kernel)(theta, params, grads, losses)
    path = velo_reading.run(theta, params, grads, losses, STEPS, mixture_scale=0.5)
    for name, points in path.items():
        steps = np.diff(points, axis=0)
        moved = np.abs(steps).max()
        assert moved > 0
        np.testing.assert_allclose(updates[name], steps, rtol=0, atol=1e-3 * moved, err_msg=name)


def test_each_tensor_has_its_own_network_and_hears_the_loudest(theta):
    """A tensor's steps depend on which others there are, and not on their order or names."""
    alone, _ = trained(velo(20, weights=theta), {"w": PARAMS["w"]}, {"w": np.stack([GRADS["w"]] * 3)})
    together, _ = trained(velo(20, weights=theta))
    assert np.any(alone["w"] != together["w"])
    names = {"w": "a", "b": "z", "s": "m"}
    renamed = {names[n]: x for n, x in PARAMS.items()}
    grads = {names[n]: np.stack([g] * 3) for n, g in GRADS.items()}
    others, _ = trained(velo(20, weights=theta), renamed, grads)
    close({names[n]: x for n, x in together.items()}, others)


def test_tensors_without_elements_have_no_say(theta):
    empty = {"none": np.zeros((0,), "f4"), "flat": np.zeros((2, 0), "f4")}
    grads = {n: np.stack([g] * 3) for n, g in {**GRADS, **empty}.items()}
    with_empty, _ = trained(velo(20, weights=theta), {**PARAMS, **empty}, grads)
    without, _ = trained(velo(20, weights=theta))
    close({n: with_empty[n] for n in PARAMS}, without)


@pytest.mark.parametrize("kernel", SOME)
def test_stacked_layers_count_one_by_one(theta, kernel):
    """As that many tensors in the rule, in the LSTM's state, and among those that the others hear."""
    stacked = draw(5, {"blocks": (2, 3, 4, 5), "biases": (3, 4), "head": (4, 2), "none": (0, 3)})
    grads = draw(6, {n: p.shape for n, p in stacked.items()}, lead=(3,))
    per_layer = {"blocks": 2, "biases": 1, "head": 0, "none": 1}
    tx = velo(20, weights=theta, kernel=kernel, per_layer=per_layer)
    found, state = trained(tx, stacked, grads)
    assert state[0].controller.hidden.shape == (6 + 3 + 1, 8)

    def taken_apart(tree, lead):
        parts = {f"blocks{i}{j}": tree["blocks"][(*lead, i, j)] for i in range(2) for j in range(3)}
        parts |= {f"biases{i}": tree["biases"][(*lead, i)] for i in range(3)}
        return {**parts, "head": tree["head"]}

    every = (slice(None),)
    alone, _ = trained(
        velo(20, weights=theta, kernel=kernel), taken_apart(stacked, ()), taken_apart(grads, every)
    )
    close(taken_apart(found, every), alone, rtol=1e-4, atol=1e-8)


def test_fresh_weights_hardly_move(key):
    fresh = Velo().init_theta(key)
    assert sum(leaf.size for leaf in jax.tree.leaves(fresh)) == 44_193
    np.testing.assert_allclose(np.std(fresh["rule_bank"]["w0"]), 0.88 / np.sqrt(30), rtol=0.05)
    updates, _ = trained(velo(20, weights=fresh))
    assert 0 < np.abs(updates["w"]).max() < 1e-7


# Weights


@pytest.mark.parametrize(
    "architecture", slow_but(["velo_s", "velo_4000"], ["velo_s", "velo", "velo_4000", "mine"])
)
def test_the_size_is_that_of_the_weights_and_the_scale_that_of_the_architecture(
    theta, tmp_path, architecture
):
    path = tmp_path / "theta.safetensors"
    arrays = jax.tree.map(np.asarray, theta)
    weights_files.save(path, arrays, metadata={"architecture": architecture})
    steps = trained(velo(20, weights=path))[0]
    if architecture != "velo_4000":
        close(steps, trained(as_optax(SMALL, theta, 20))[0])
    else:
        close(steps, trained(velo(20, weights=theta, mixture_scale=100.0))[0])
        plain = trained(velo(20, weights=theta))[0]
        assert np.abs(steps["w"]).max() > 100 * np.abs(plain["w"]).max()


@pytest.mark.parametrize(
    ("name", "units", "banks", "scale"),
    [("velo_s", 64, 32, 1.0), ("velo", 512, 256, 1.0), ("velo_4000", 512, 256, 100.0)],
)
def test_published_sizes(name, units, banks, scale):
    entry = OPTIMIZERS[name]
    assert entry.optimizer(kernel="xla") == Velo("xla", units, banks, scale)
    assert entry.transform.keywords == {"mixture_scale": scale}


def test_weights_of_another_optimizer_are_refused_by_name(theta, noisy_theta):
    celos = noisy_theta(OPTIMIZERS["celo"].optimizer())
    with pytest.raises(CeloError, match="missing: rule_bank/"):
        velo(20, weights=celos)
    controller = {**theta["controller"], "control_w": jnp.ones((7, 4))}
    with pytest.raises(CeloError, match=r"wrong shape: controller/control_w is \(7, 4\), expected \(8, 4\)"):
        velo(20, weights={**theta, "controller": controller})
    for bad in ({}, {"controller": None}, {"controller": {"h0": 1.0}}):
        with pytest.raises(CeloError, match="does not fit this optimizer"):
            velo(20, weights=bad)
    with pytest.raises(TypeError, match="weights"):
        velo(20)


# Settings


def test_learning_rate_multiplies_and_weight_decay_is_decoupled(theta):
    """What decay adds is -0.001 * learning_rate * weight_decay * parameter, where it is not masked."""
    losses = (2.0,)
    plain, _ = trained(velo(20, weights=theta), losses=losses)
    settings = {"learning_rate": 0.5, "weight_decay": 10.0, "mask": {"w": True, "b": False, "s": False}}
    changed, _ = trained(velo(20, weights=theta, **settings), losses=losses)
    for name, param in PARAMS.items():
        decayed = 0.5 * 1e-3 * 10.0 * param if name == "w" else 0.0
        np.testing.assert_allclose(changed[name][0], 0.5 * plain[name][0] - decayed, rtol=1e-5)


def test_statistics_in_bfloat16_and_the_controller_in_float32(theta):
    wide, narrow = (velo(20, weights=theta, state_dtype=d) for d in ("float32", "bfloat16"))
    state = narrow.init(PARAMS)[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.rule)} == {"bfloat16", "int32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.controller)} == {"float32", "int32"}
    found, expected = trained(narrow)[0], trained(wide)[0]
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], atol=0.1 * np.abs(expected[name]).max())
    with pytest.raises(CeloError, match="state_dtype must be float32 or bfloat16"):
        velo(20, weights=theta, state_dtype="float16")


def test_a_skipped_step_is_heard_by_the_controller_and_leaves_no_statistics(theta):
    tx = velo(20, weights=theta, nonfinite="skip")
    _, before = trained(tx, losses=(2.0,))
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), GRADS)
    updates, after = tx.update(bad, before, jax.tree.map(jnp.asarray, PARAMS), value=1.0)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    [old], [new] = before.inner_state[:1], after.inner_state[:1]
    jax.tree.map(np.testing.assert_array_equal, new.rule, old.rule)
    assert int(new.controller.step) == 2
    assert np.any(new.controller.hidden != old.controller.hidden)


def test_numbers_that_are_not_finite_do_not_stay(theta):
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = velo(20, weights=theta)
    bad = {**GRADS, "w": np.full((3, 2), np.nan, "f4"), "s": np.float32(np.inf)}
    updates, state = tx.update(bad, tx.init(params), params, value=jnp.nan)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))
    updates, state = tx.update(GRADS, state, params, value=1.0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))


def test_horizon_changes_in_mid_run(theta):
    tx = velo(20, weights=theta)
    _, state = trained(tx)
    longer = with_horizon(state, 2000)
    assert jax.tree.structure(longer) == jax.tree.structure(state)
    [before, after] = state[0].controller, longer[0].controller
    assert (int(after.num_steps), int(after.step)) == (2000, 3)
    np.testing.assert_array_equal(after.hidden, before.hidden)
    assert np.any(after.losses.means != before.losses.means)
    assert np.any(trained(tx, state=longer)[0]["w"] != trained(tx, state=state)[0]["w"])


def test_a_plateau_holds_the_clock_until_it_is_to_cool_down(theta):
    tx = velo(20, weights=theta, plateau=0.5, state_dtype="bfloat16", nonfinite="hold")
    losses = np.linspace(2.0, 1.0, 30)
    _, state = trained(tx, grads=jax.tree.map(lambda g: np.stack([g] * 30), GRADS), losses=losses)
    plateau = state.inner_state[0]
    assert int(plateau.schedule.controller.step) == 10
    state = cool_down(state, 6)
    clock = state.inner_state[0].schedule.controller
    assert int(clock.num_steps) - int(clock.step) == 6
    _, state = trained(tx, state=state)
    assert int(state.inner_state[0].schedule.controller.step) == int(clock.step) + 3


@pytest.mark.parametrize("num_steps", slow_but([1, 11, 2**31 - 1], [1, 9, 10, 11, 10**6, 2**31 - 1]))
def test_any_horizon(theta, num_steps):
    updates, state = trained(velo(num_steps, weights=theta))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))


# Errors


def test_states_of_other_models_or_weights_are_refused(theta, noisy_theta):
    params = jax.tree.map(jnp.asarray, PARAMS)
    tx = velo(20, weights=theta)
    larger = velo(20, weights=noisy_theta(Velo("xla", units=16, banks=4)))
    with pytest.raises(CeloError, match=r"LSTM's state has shape \(3, 16\), and \(3, 8\) belongs"):
        tx.update(GRADS, larger.init(params), params, value=1.0)
    with pytest.raises(CeloError, match=r"params\['w'\] has shape \(3, 2\), and its gradient \(2,\)"):
        tx.update({**GRADS, "w": GRADS["b"]}, tx.init(params), params, value=1.0)
    with pytest.raises(CeloError, match="params=None"):
        tx.update(GRADS, tx.init(params), value=1.0)
    with pytest.raises(CeloError, match="value=None"):
        tx.update(GRADS, tx.init(params), params)


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_none(theta, scale):
    with pytest.raises(CeloError, match="mixture_scale must be positive and finite"):
        velo(20, weights=theta, mixture_scale=scale)


@pytest.mark.parametrize("num_steps", [0, 2.5, None])
def test_horizons_that_are_none(theta, num_steps):
    with pytest.raises(CeloError, match="num_steps must be a positive whole number"):
        velo(num_steps, weights=theta)
