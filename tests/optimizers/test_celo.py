"""Celo as users call it: settings, their errors, weights from anywhere, robustness, descent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo import weights as weights_files
from celo._errors import CeloError
from celo.convert import convert
from celo.optimizers import Celo, UpdateRule, as_optax, celo, scale_by_celo_rule, scale_by_celo_schedule

PARAMS = {"w": jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]]), "b": jnp.asarray([0.1, 0.2, -0.4])}
GRADS = {"w": jnp.asarray([[0.5, 0.1, -0.2], [-1.0, 2.0, 0.01]]), "b": jnp.asarray([-0.3, 0.02, 0.7])}


def updates_of(tx, steps=2):
    """The last updates of a few steps with fixed gradients and parameters."""
    state, updates = tx.init(PARAMS), None
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, PARAMS, value=1.0)
    return updates


def step_size(theta, steps=2):
    """What the learned schedule multiplies the last of a few steps by."""
    tx, one = scale_by_celo_schedule(20, theta), jnp.ones(())
    state, eta = tx.init(one), one
    for _ in range(steps):
        eta, state = tx.update(one, state, one, value=1.0)
    return float(eta)


def close(left, right, rtol=1e-5, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


# Settings


def test_celo_is_the_rule_times_the_schedule(theta):
    whole = updates_of(celo(20, weights=theta))
    rule = updates_of(scale_by_celo_rule(theta))
    ones = jax.tree.map(jnp.ones_like, GRADS)
    schedule, state = scale_by_celo_schedule(20, theta), None
    state = schedule.init(PARAMS)
    for _ in range(2):
        eta, state = schedule.update(ones, state, value=1.0)
    close(whole, jax.tree.map(jnp.multiply, rule, eta))
    close(whole, updates_of(as_optax(Celo(), theta, 20)))
    close(rule, updates_of(as_optax(UpdateRule(), theta, 20)))


def test_horizon_matters(theta):
    short, long = updates_of(celo(20, weights=theta)), updates_of(celo(2000, weights=theta))
    assert np.all(short["w"] != long["w"])


def test_learning_rate_multiplies(theta):
    plain = updates_of(celo(20, weights=theta))
    close(updates_of(celo(20, weights=theta, learning_rate=0.25)), jax.tree.map(lambda u: 0.25 * u, plain))
    second = updates_of(celo(20, weights=theta, learning_rate=lambda count: 3.0 * count.astype(jnp.float32)))
    close(second, jax.tree.map(lambda u: 3.0 * u, plain))


@pytest.mark.parametrize(
    ("learning_rate", "factor"),
    [(1.0, 1.0), (0.5, 0.5), (optax.linear_schedule(0.0, 1.0, 10), 0.1)],
    ids=["default", "float", "schedule"],
)
@pytest.mark.parametrize("mask", [None, {"w": True, "b": False}, lambda p: {"w": True, "b": False}])
def test_weight_decay_is_decoupled(theta, learning_rate, factor, mask):
    """What decay adds is -0.01 * learned step size * learning_rate * weight_decay * parameter."""
    plain = updates_of(celo(20, weights=theta, learning_rate=learning_rate))
    decayed = updates_of(celo(20, weights=theta, learning_rate=learning_rate, weight_decay=10.0, mask=mask))
    added = jax.tree.map(jnp.subtract, decayed, plain)
    share = -1e-2 * 10.0 * factor * step_size(theta)
    close(added["w"], share * PARAMS["w"], rtol=1e-3, atol=1e-8)
    close(added["b"], (0.0 if mask else share) * PARAMS["b"], rtol=1e-3, atol=1e-8)


def test_weight_decay_can_be_a_schedule(theta):
    plain = updates_of(celo(20, weights=theta))
    decayed = updates_of(
        celo(20, weights=theta, weight_decay=lambda count: 10.0 * (count.astype(jnp.float32) + 1))
    )
    added = jax.tree.map(jnp.subtract, decayed, plain)
    close(added["w"], -1e-2 * 20.0 * step_size(theta) * PARAMS["w"], rtol=1e-3, atol=1e-8)


def test_injected_learning_rate_can_be_changed_in_the_state(theta):
    injected = optax.inject_hyperparams(celo)(num_steps=20, weights=theta, learning_rate=1.0)
    state = injected.init(PARAMS)
    before, _ = injected.update(GRADS, state, PARAMS, value=1.0)
    state.hyperparams["learning_rate"] = jnp.float32(0.5)
    after, _ = injected.update(GRADS, state, PARAMS, value=1.0)
    close(after, jax.tree.map(lambda u: 0.5 * u, before))
    # A traced decay of zero cannot be seen to be zero; it must change nothing all the same.
    close(
        before,
        celo(20, weights=theta).update(GRADS, celo(20, weights=theta).init(PARAMS), PARAMS, value=1.0)[0],
    )


def test_a_bad_horizon_is_refused_by_all_that_take_one(theta):
    for build in (
        lambda n: celo(n, weights=theta),
        lambda n: scale_by_celo_schedule(n, theta),
        lambda n: as_optax(Celo(), theta, n),
    ):
        for bad in (0, 2.5, jnp.int32(0)):
            with pytest.raises(CeloError, match=f"num_steps must be a positive whole number, got {bad}"):
                build(bad)


@pytest.mark.parametrize("num_steps", [20, np.int32(20), np.int64(20), jnp.int32(20)], ids=repr)
def test_good_num_steps(theta, num_steps):
    state = celo(num_steps, weights=theta).init(PARAMS)
    assert int(state[1].num_steps) == 20
    assert state[1].num_steps.dtype == jnp.int32


def test_state_takes_no_memory_from_theta_or_the_horizon(theta):
    """`Celo.init` as meta-training calls it; a donated state must not take them with it."""
    num_steps = jnp.int32(20)
    mine = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(Celo().init(theta, PARAMS, num_steps))}
    assert not mine & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((theta, num_steps))}


def test_half_precision_under_strict_promotion(theta):
    """The session's promotion is strict: nothing may rest on a silent promotion of what users pass."""
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    params, grads = (jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree) for tree in (PARAMS, GRADS))
    tx = celo(20, weights=theta, learning_rate=0.5, weight_decay=0.01)
    updates, _ = tx.update(grads, tx.init(params), params, value=jnp.float16(1.0))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}


# Weights


def broken(theta, change):
    copy = {group: dict(arrays) for group, arrays in theta.items()}
    change(copy)
    return copy


BROKEN = {
    "missing group": (lambda t: t.pop("scheduler"), "missing: scheduler/"),
    "missing weight": (lambda t: t["update_rule"].pop("b1"), "missing: update_rule/b1"),
    "unknown weight": (lambda t: t["update_rule"].update(b9=jnp.ones(2)), "unexpected: update_rule/b9"),
    "shape": (
        lambda t: t["update_rule"].update(w0=jnp.ones((4, 30))),
        r"update_rule/w0 is \(4, 30\), expected \(30, 4\)",
    ),
    "NaN": (lambda t: t["scheduler"].update(out_b=jnp.float32(np.nan)), "not finite: scheduler/out_b"),
    "dtype": (lambda t: t["scheduler"].update(out_b=jnp.int32(1)), "not float32: scheduler/out_b"),
    "array for a group": (lambda t: t.update(update_rule=jnp.ones(3)), "missing: update_rule/"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_weights_that_do_not_fit(theta, how):
    change, message = BROKEN[how]
    with pytest.raises(CeloError, match=message):
        celo(20, weights=broken(theta, change))


def test_halves_need_their_own_group_only(theta):
    scale_by_celo_rule({"update_rule": theta["update_rule"]})
    scale_by_celo_schedule(20, {"scheduler": theta["scheduler"]})
    with pytest.raises(CeloError, match="missing: update_rule/"):
        scale_by_celo_rule({"scheduler": theta["scheduler"]})
    with pytest.raises(CeloError, match="missing: scheduler/"):
        scale_by_celo_schedule(20, {"update_rule": theta["update_rule"]})


def test_weights_from_a_file_and_from_numpy(theta, tmp_path):
    in_numpy = jax.tree.map(np.asarray, theta)
    path = tmp_path / "theta.safetensors"
    weights_files.save(path, in_numpy, metadata={"architecture": "celo"})
    expected = updates_of(celo(20, weights=theta))
    for weights in (path, str(path), in_numpy):
        close(updates_of(celo(20, weights=weights)), expected, rtol=0)


def test_the_weight_of_the_horizon_may_be_there_and_is_checked(theta, tmp_path):
    schedule = {**theta["scheduler"], "horizon_w": jnp.float32(-0.4)}
    path = tmp_path / "theta.safetensors"
    in_numpy = jax.tree.map(np.asarray, {**theta, "scheduler": schedule})
    weights_files.save(path, in_numpy, metadata={"architecture": "celo"})
    plain, knowing = updates_of(celo(20, weights=theta)), updates_of(celo(20, weights=path))
    close(knowing, jax.tree.map(lambda x: x * 50**0.4, plain), rtol=1e-5)
    with pytest.raises(CeloError, match=r"horizon_w is \(1,\), expected \(\)"):
        celo(20, weights={**theta, "scheduler": {**schedule, "horizon_w": jnp.zeros(1)}})
    with pytest.raises(CeloError, match="no place for: scheduler/horizon_w"):
        convert(path, tmp_path / "theta.state")


def test_wrong_file_names_itself(tmp_path):
    path = tmp_path / "other.safetensors"
    weights_files.save(path, {"mlp": {"w": np.ones(2, np.float32)}}, metadata={"architecture": "mlp"})
    with pytest.raises(CeloError, match=r"other\.safetensors does not fit this optimizer: missing"):
        celo(20, weights=path)


# Robustness


@pytest.fixture(scope="module")
def train(theta):
    """A function: gradients [steps, …] and losses [steps] -> (every update, last state); jitted."""
    tx = celo(20, weights=theta)

    @jax.jit
    def run(params, grads, losses):
        def step(state, now):
            grad, loss = now
            updates, state = tx.update(grad, state, params, value=loss)
            return state, updates

        return jax.lax.scan(step, tx.init(params), (grads, losses))

    def train(grads, losses, params=PARAMS):
        state, updates = run(params, grads, jnp.asarray(losses, jnp.float32))
        return updates, state

    return train


STEPS = 100


def gradients():
    return jax.tree.map(lambda g: jnp.stack([g * (1 + 0.1 * t) for t in range(STEPS)]), GRADS)


LOSSES = np.linspace(2.0, 1.0, STEPS)


def assert_finite(tree):
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("at", [0, 3])
def test_a_bad_gradient_element_does_not_poison(train, bad, at):
    grads = gradients()
    grads = {name: g.at[at, -1].set(bad) for name, g in grads.items()}
    updates, state = train(grads, LOSSES)
    assert_finite(updates)
    assert_finite(state)
    limits = {"w": 0.0 if np.isnan(bad) else np.copysign(1000.0, bad)}
    replaced = {name: gradients()[name].at[at, -1].set(limits["w"]) for name in grads}
    close(updates, train(replaced, LOSSES)[0], rtol=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_bad_loss_does_not_poison(train, bad, at):
    losses = LOSSES.copy()
    losses[at] = bad
    updates, state = train(gradients(), losses)
    assert_finite(updates)
    assert_finite(state)
    rising = losses.copy()
    rising[at + 5 :] = 3.0  # the schedule still listens
    other, _ = train(gradients(), rising)
    before, after = slice(None, at + 5), slice(at + 10, None)
    for name in PARAMS:
        np.testing.assert_array_equal(other[name][before], updates[name][before])
        assert np.all(
            np.any(other[name][after] != updates[name][after], axis=tuple(range(1, other[name].ndim)))
        )


@pytest.mark.parametrize("size", [1e-38, 1e30, 3e38, -3e38])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_tiny_and_huge_losses(train, size, at):
    """A huge first loss stays in the averages, as it must: it was one. Nothing overflows, though."""
    losses = LOSSES.copy()
    losses[at] = size
    losses[at + 3] = -size
    updates, state = train(gradients(), losses)
    assert_finite(updates)
    assert_finite(state)


def test_only_bad_losses(train):
    updates, state = train(gradients(), np.full(STEPS, np.nan))
    assert_finite(updates)
    assert_finite(state[0])
    assert int(state[1].losses.step) == 0
    assert_finite((state[1].hidden, state[1].cell, state[1].losses.means))


def test_a_hundred_zero_gradients(train):
    updates, state = train(jax.tree.map(jnp.zeros_like, gradients()), LOSSES)
    assert_finite(updates)
    assert_finite(state)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-15, 1e15])
def test_huge_and_tiny_parameters(train, size):
    params = jax.tree.map(lambda p: size * p, PARAMS)
    updates, state = train(gradients(), LOSSES, params)
    assert_finite(updates)
    assert_finite(state)
    for name, p in params.items():
        rms = np.sqrt(np.mean(np.square(np.asarray(p, np.float64))) + 1e-9)
        assert np.all(np.abs(updates[name]) < rms)


# Descent


def test_bundled_weights_halve_the_loss_of_softmax_regression_on_digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = jnp.asarray(data.data / 16.0, jnp.float32), jnp.asarray(data.target, jnp.int32)
    num_steps = 200
    tx = celo(num_steps)
    params = {"w": 0.1 * jax.random.normal(jax.random.key(0), (64, 10)), "b": jnp.zeros(10)}

    def loss(params):
        logits = x @ params["w"] + jnp.expand_dims(params["b"], 0)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=num_steps)[1]

    losses = train(params)
    assert losses[-1] < 0.5 * losses[0]
