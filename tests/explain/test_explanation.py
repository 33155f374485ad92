import dataclasses
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo
from celo._errors import CeloError
from celo._explain.rule_map import AXIS, rule_map
from celo._kernels.rule_network import FIRST_ROW
from celo._kernels.statistics import init_stats, rms
from celo.cli import main

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="figures need Matplotlib"
)
pytestmark = pytest.mark.usefixtures("quick_compilation")

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


@pytest.fixture(params=[(7, 5), (6,), ()], ids=str)
def tensor(request):
    """(statistics with a past, gradient, parameter) of one tensor."""
    keys = iter(jax.random.split(jax.random.key(0), 20))
    param, grad = (jax.random.normal(next(keys), request.param) for _ in range(2))
    stats = jax.tree.map(
        lambda x: jnp.exp(jax.random.normal(next(keys), x.shape)),
        init_stats(param, num_momenta=3, num_factored=3),
    )
    return stats, grad, param


@pytest.mark.parametrize("which", ["grad", "momentum"])
def test_the_map_of_a_rule_that_is_known(theta, tensor, which):
    """A network whose direction is one of its inputs."""
    stats, grad, param = tensor
    known = jax.tree.map(jnp.zeros_like, theta["update_rule"])
    known["w0"] = known["w0"].at[FIRST_ROW[which], :2].set([1.0, -1.0])
    known["w1"] = jnp.eye(4)
    known["w2"] = known["w2"].at[:2, 0].set([1.0, -1.0])
    steps, adam = rule_map(known, stats, grad, param, jnp.asarray(0, jnp.int32))
    momentum = 0.9 * AXIS[:, None] * rms(stats.momenta[0], 0.0) + 0.1 * AXIS[None] * rms(grad, 0.0)
    if which == "grad":
        expected = np.broadcast_to(AXIS[None], steps.shape)
    else:
        expected = momentum / rms(0.9 * stats.momenta[0] + 0.1 * grad, 0.0)
    np.testing.assert_allclose(steps, -expected, rtol=1e-3, atol=1e-4)
    second = (
        jnp.mean(0.999 * stats.second_moment + 0.001 * grad**2) / 0.001
    )  # bias-corrected at the first step
    np.testing.assert_allclose(adam, -(momentum / 0.1) / jnp.sqrt(second), rtol=1e-3, atol=1e-5)


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


@needs_matplotlib
def test_a_picture_is_drawn(seen, tmp_path):
    path = celo.draw_explanation(seen, tmp_path / "seen.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path == tmp_path / "seen.png"
    with pytest.raises(CeloError, match="does not exist"):
        celo.draw_explanation(seen, tmp_path / "nowhere" / "seen.png")


@needs_matplotlib
def test_many_tensors_and_ones_that_stand_still_are_drawn(seen, tmp_path):
    still = dataclasses.replace(
        seen,
        tensors=tuple(f"encoder/block_{i}/attention/query/kernel" for i in range(60)),
        relative_steps=np.zeros((STEPS, 60), np.float32),
        rule=seen.rule._replace(celo=np.zeros_like(seen.rule.celo)),
    )
    celo.draw_explanation(still, tmp_path / "still.png")


def test_without_matplotlib_it_says_what_to_install(seen, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CeloError, match=r"celo\[plots\]"):
        celo.draw_explanation(seen, tmp_path / "seen.png")
    assert main(["info", "celo", "--explain", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@needs_matplotlib
def test_the_command_draws_the_task_of_ours(tmp_path, monkeypatch, capsys):
    explain = celo.explain
    monkeypatch.setattr(
        "celo._explain.explanation.explain", lambda weights: explain(num_steps=2, weights=weights)
    )
    assert main(["info", "celo", "--explain", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert "explain.png" in capsys.readouterr().out
    assert (tmp_path / "new" / "folder" / "explain.png").is_file()
