"""Celo2: which tensors go where, how long steps are, and what its options do; numbers are in tests/golden."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import celo
from celo import weights as weights_file
from celo._errors import CeloError
from celo.optimizers import Celo2, celo2, celo2_base, scale_by_celo2

RATE = 1e-3
PARAMS = {
    "embed": jnp.full((6, 4), 0.5),
    "dense": {"kernel": jnp.linspace(-1.0, 1.0, 20).reshape(4, 5), "bias": jnp.full((5,), 0.1)},
}
GRADS = jax.tree.map(lambda p: jnp.cos(7.0 * jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), PARAMS)


@pytest.fixture(scope="module")
def theta(noisy_theta):
    return noisy_theta(Celo2("xla"))


def first_step(tx, params=PARAMS, grads=GRADS):
    updates, state = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(grads, params)
    return updates, state


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def close(left, right, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-9), left, right)


def test_fresh_weights(key):
    fresh = Celo2().init_theta(key)
    assert sum(array.size for array in weights_file.flatten(fresh).values()) == 329
    assert fresh["update_rule"]["w2"].shape == (8, 1)


def test_vectors_and_embeddings_go_to_adam_the_rest_to_the_rule(theta):
    updates, state = first_step(celo2(RATE, weights=theta, kernel="xla"))
    for name, grad, update in (
        ("embed", GRADS["embed"], updates["embed"]),
        ("bias", GRADS["dense"]["bias"], updates["dense"]["bias"]),
    ):
        expected = -RATE * 20 * 0.1 * grad / np.sqrt(0.05 * np.square(grad) + 1e-8)
        np.testing.assert_allclose(update, expected, rtol=1e-4, err_msg=name)
    assert rms(updates["dense"]["kernel"]) == pytest.approx(RATE, rel=1e-4)
    rule, adam = state[0].rule, state[0].adam  # each keeps what it needs
    assert [leaf.shape for leaf in jax.tree.leaves(rule.second_moment)] == [(4, 5)]
    assert [leaf.shape for leaf in jax.tree.leaves(adam.second)] == [(5,), (6, 4)]


def test_a_mask_says_who_takes_what(theta):
    for mask in ({"embed": False, "dense": True}, lambda p: {"embed": False, "dense": True}):
        updates, _ = first_step(celo2(RATE, weights=theta, adam_mask=mask, adam_multiplier=3.0, kernel="xla"))
        assert rms(updates["embed"]) == pytest.approx(RATE, rel=1e-4)
        kernel = GRADS["dense"]["kernel"]
        expected = -RATE * 3 * 0.1 * kernel / np.sqrt(0.05 * np.square(kernel) + 1e-8)
        np.testing.assert_allclose(updates["dense"]["kernel"], expected, rtol=1e-4)


@pytest.mark.slow
def test_base_is_the_rule_for_all_tensors(theta):
    base, _ = first_step(celo2_base(RATE, weights=theta, kernel="xla"))
    for leaf in jax.tree.leaves(base):
        assert rms(leaf) == pytest.approx(RATE, rel=1e-4)
    alone, _ = first_step(scale_by_celo2(theta, orthogonalize=False, kernel="xla"))
    close(base, jax.tree.map(lambda u: RATE * u, alone))


def test_steps_point_downhill(key):
    """The rule of a network that hands the first momentum through, as published weights do on the whole."""
    fresh = jax.tree.map(jnp.zeros_like, Celo2().init_theta(key))
    fresh["update_rule"] |= {
        "w0": jnp.zeros((30, 8)).at[3, :2].set(jnp.array([1.0, -1.0])),
        "w1": jnp.eye(8),
        "w2": jnp.zeros((8, 1)).at[:2, 0].set(jnp.array([1.0, -1.0])),
    }
    updates, _ = first_step(scale_by_celo2(fresh, orthogonalize=False, kernel="xla"))
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -g / rms(g), rtol=1e-3, atol=1e-5), updates, GRADS
    )


@pytest.mark.slow
def test_the_size_of_gradients_hardly_matters(theta):
    small, _ = first_step(celo2_base(RATE, weights=theta, kernel="xla"))
    large, _ = first_step(
        celo2_base(RATE, weights=theta, kernel="xla"), grads=jax.tree.map(lambda g: 50.0 * g, GRADS)
    )
    for a, b in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
        assert rms(a) == pytest.approx(rms(b), rel=1e-3)
        assert float(np.sum(a * b)) > 0.5 * a.size * RATE**2


def test_weight_decay_is_adamws_in_all_tensors(theta):
    plain, _ = first_step(celo2(RATE, weights=theta, kernel="xla"))
    decayed, _ = first_step(
        celo2(RATE, weights=theta, weight_decay=0.5, mask={"embed": False, "dense": True}, kernel="xla")
    )
    close(decayed["embed"], plain["embed"])
    expected = jax.tree.map(lambda u, p: u - RATE * 0.5 * p, plain["dense"], PARAMS["dense"])
    close(decayed["dense"], expected, rtol=1e-4)


def test_a_schedule_is_a_learning_rate(theta):
    tx = celo2(lambda count: RATE * (count.astype(jnp.float32) + 1.0), weights=theta, kernel="xla")
    fixed = celo2(RATE, weights=theta, kernel="xla")

    @jax.jit
    def second(params, grads):
        found = []
        for one in (tx, fixed):
            _, state = one.update(grads, one.init(params), params)
            found.append(one.update(grads, state, params)[0])
        return found

    scheduled, plain = second(PARAMS, GRADS)
    close(scheduled, jax.tree.map(lambda u: 2 * u, plain))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 5)], ids=str)
def test_stacked_layers_are_treated_apart(theta, shape):
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    together, _ = first_step(scale_by_celo2(theta, per_layer=1, kernel="xla"), params, grads)
    alone = [
        first_step(scale_by_celo2(theta, kernel="xla"), p, g)[0] for p, g in zip(params, grads, strict=True)
    ]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("policy", ["hold", "skip"])
def test_a_bad_step_leaves_statistics_of_rule_and_adam_as_they_were(theta, policy):
    tx = celo2(RATE, weights=theta, nonfinite=policy, kernel="xla")

    @jax.jit
    def run(params, grads, bad):
        _, good = tx.update(grads, tx.init(params), params)
        return good, *tx.update(bad, good, params)

    bad = {**GRADS, "embed": GRADS["embed"].at[0, 0].set(jnp.nan)}
    good, updates, after = run(PARAMS, GRADS, bad)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(after.bad_gradients) == 1
    jax.tree.map(np.testing.assert_array_equal, good.inner_state[0], after.inner_state[0])


def test_infinite_and_huge_gradients_leave_no_nan(theta):
    for bad in (np.nan, np.inf, -np.inf, 3e38):
        grads = jax.tree.map(lambda g, x=bad: jnp.full_like(g, x), GRADS)
        updates, state = first_step(celo2(RATE, weights=theta, kernel="xla"), grads=grads)
        for leaf in jax.tree.leaves((updates, state)):
            assert np.isfinite(leaf).all()


def test_the_state_in_bfloat16(theta):
    updates, state = first_step(celo2(RATE, weights=theta, state_dtype="bfloat16", kernel="xla"))
    plain, _ = first_step(celo2(RATE, weights=theta, kernel="xla"))
    close(updates, plain)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0].inner_state)} == {
        jnp.dtype("bfloat16"),
        jnp.dtype("int32"),
    }


def test_the_state_lies_beside_its_tensors(theta):
    mesh = jax.make_mesh((1,), ("x",))
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec("x")))
    tx = celo2(RATE, weights=theta, kernel="xla")
    found = celo.state_sharding(tx, params)
    assert jax.tree.structure(found) == jax.tree.structure(jax.eval_shape(tx.init, params))
    assert found[0].adam.first["embed"].spec == PartitionSpec("x", None)
    assert found[0].rule.second_moment["dense"]["kernel"].spec == PartitionSpec("x", None)


def test_learning_rates_are_adamws(theta, recwarn):
    for rate in (1e-5, 1e-2):
        celo2(rate, weights=theta, kernel="xla")
    assert not recwarn.list
    with pytest.raises(CeloError, match="learning_rate must be finite and at least 0, got"):
        celo2(-1e-3, weights=theta, kernel="xla")


def test_what_does_not_fit_is_named(theta):
    with pytest.raises(CeloError, match=r"wrong shape: .*update_rule/w0 is \(30, 4\), expected \(30, 8\)"):
        celo2(RATE, weights="celo", kernel="xla")
    with pytest.raises(CeloError, match="adam_multiplier must be finite and at least 0"):
        celo2(RATE, weights=theta, adam_multiplier=-1, kernel="xla")
    for name, value in (("adam_mask", {"embed": 1, "dense": False}), ("orthogonalize", "yes")):
        tx = celo2(RATE, weights=theta, kernel="xla", **{name: value})
        with pytest.raises(CeloError, match=f"{name} must be a bool for each tensor"):
            first_step(tx)
    with pytest.raises(CeloError, match=r"parameters must be real floating-point arrays, and .* is int32"):
        celo2(RATE, weights=theta, kernel="xla").init({"bias": jnp.ones(3, jnp.int32)})
    tx = celo2(RATE, weights=theta, kernel="xla")
    other = tx.init({**PARAMS, "embed": jnp.ones((3, 4))})
    with pytest.raises(CeloError, match=r"params\['embed'\] has shape \(6, 4\), and its state \(3, 4\)"):
        tx.update(GRADS, other, PARAMS)
    with pytest.raises(CeloError, match="params=None"):
        optax.with_extra_args_support(tx).update(GRADS, tx.init(PARAMS))
