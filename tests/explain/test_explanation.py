"""What is seen of a training run is what happened in it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo
from celo._errors import CeloError
from celo._kernels.statistics import rms

STEPS = 9


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["layer"]["w"] + params["layer"]["b"] - y) ** 2)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params = {
        "empty": jnp.zeros((0, 2)),
        "layer": {"b": jnp.zeros(2), "w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)},
    }
    arrays = [(rng.normal(size=(4, 3)), rng.normal(size=(4, 2))) for _ in range(STEPS)]
    return loss, params, [tuple(jnp.asarray(a, jnp.float32) for a in pair) for pair in arrays]


@pytest.fixture(scope="module")
def seen(problem, theta):
    loss, params, batches = problem
    loader = itertools.cycle(batches)
    found = celo.explain(loss, params, loader, num_steps=STEPS, weights=theta)
    assert next(loader) is batches[0], "a loader is read no further than needed"
    return found


def test_it_is_the_optimizer_that_is_seen(problem, theta, seen):
    loss, params, batches = problem
    for horizon in (1, 3, 9):
        tx = celo.celo(horizon, weights=theta)
        schedule = celo.scale_by_celo_schedule(horizon, theta)
        state, schedule_state = tx.init(params), schedule.init(params)
        losses, sizes, relative, now = [], [], [], params
        for batch in batches[:horizon]:
            value, grads = jax.value_and_grad(loss)(now, batch)
            size, schedule_state = schedule.update(jnp.ones(()), schedule_state, value=value)
            updates, state = tx.update(grads, state, now, value=value)
            pairs = [(updates["layer"][name], now["layer"][name]) for name in ("b", "w")]
            relative.append([rms(update, 0.0) / rms(param, 1e-9) for update, param in pairs])
            now = optax.apply_updates(now, updates)
            losses.append(value)
            sizes.append(size)
        np.testing.assert_allclose(seen.losses[horizon], losses, rtol=1e-4)
        np.testing.assert_allclose(seen.step_sizes[horizon], sizes, rtol=1e-4)
    np.testing.assert_allclose(seen.relative_steps, relative, rtol=1e-3)
    assert list(seen.step_sizes) == [1, 3, 9]
    assert seen.tensors == ("layer/b", "layer/w")
    assert seen.rule.tensor == "layer/w"
    assert seen.weights == "θ"


def test_of_matrices_that_step_along_their_momentum_there_is_no_map(theta, tmp_path):
    """The map is of the largest tensor that the rule steps."""
    rule = {**theta["update_rule"], "log_matrix_step": jnp.zeros(())}
    batch = jnp.linspace(-1.0, 1.0, 20).reshape(4, 5)

    def error(params, batch):
        return jnp.mean(jnp.square(batch @ params["w"] + params.get("b", 0.0) - 1.0))

    def seen(params):
        return celo.explain(error, params, [batch] * 9, num_steps=9, weights={**theta, "update_rule": rule})

    params = {"w": jnp.ones((5, 4)), "b": jnp.zeros(4)}
    assert seen(params).rule.tensor == "b"
    alone = seen({"w": params["w"]})
    assert alone.rule is None
    assert alone.tensors == ("w",)
    pytest.importorskip("matplotlib", reason="figures need Matplotlib")
    assert celo.draw_explanation(alone, tmp_path / "seen.png").stat().st_size > 1000


@pytest.mark.parametrize("given", [(loss,), (loss, {"w": jnp.ones(3)}), (None, None, [])])
def test_part_of_a_problem_is_refused(theta, given):
    with pytest.raises(CeloError, match="loss, params and batches together"):
        celo.explain(*given, weights=theta)


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_batches_are_counted(problem, theta, count):
    loss, params, batches = problem
    with pytest.raises(CeloError, match=rf"ended after {count} of num_steps=9 .*itertools\.cycle"):
        celo.explain(loss, params, batches[:count], num_steps=STEPS, weights=theta)


def test_wrong_num_steps_and_weights(theta):
    with pytest.raises(CeloError, match="num_steps"):
        celo.explain(num_steps=0, weights=theta)
    with pytest.raises(CeloError, match="missing: scheduler/"):
        celo.explain(weights={"update_rule": theta["update_rule"]})


@pytest.mark.parametrize("params", [{}, [], {"w": jnp.zeros((0, 3))}])
def test_parameters_without_elements_are_refused(params):
    with pytest.raises(CeloError, match="params have no elements"):
        celo.explain(lambda params, batch: 0.0, params, [None] * 3, num_steps=3)


def test_what_is_no_array_is_named():
    with pytest.raises(CeloError, match="is no array, got <built-in function len>"):
        celo.explain(lambda params, batch: 0.0, {"w": jnp.ones(2), "act": len}, [None] * 3, num_steps=3)
