"""The scheduler's first lesson: it says the decay it was shown, at horizons it was not shown too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.meta import _checkpoint as checkpoint
from celo.meta import _imitation as imitation
from celo.meta import _run
from celo.meta._phases import first_theta
from celo.meta._recipes import Recipe
from celo.optimizers import Celo
from celo.optimizers import _schedule as scheduler
from celo.optimizers._decayed_rule import HORIZON_POWER, linear_decay
from celo.tasks import Quadratics

TINY = {
    "tasks": ("quadratic",),
    "estimator": "nres",
    "rule_schedule": "linear",
    "rule_steps": 10,
    "imitation_steps": 20,
    "scheduler_steps": 10,
    "pairs_per_task": 2,
    "truncation_length": 5,
    "horizon_min": 10,
    "horizon_max": 30,
}


@pytest.fixture(scope="module")
def theta():
    return Celo().init_theta(jax.random.key(0))


def recording(horizons, rows_length=60):
    """Trainings of given horizons with falling losses, again and again in each row."""
    steps = np.stack([np.arange(rows_length) % horizon for horizon in horizons]).astype(np.int32)
    num_steps = np.broadcast_to(np.array(horizons, np.int32)[:, None], steps.shape)
    return imitation.Recording(
        jnp.asarray(np.exp(-3.0 * steps / num_steps), jnp.float32), jnp.asarray(steps), jnp.asarray(num_steps)
    )


@pytest.mark.slow
def test_the_scheduler_learns_the_decay_and_carries_it_to_another_horizon(theta):
    told = []
    fitted = imitation.imitate(
        {**theta["scheduler"], "horizon_w": jnp.float32(HORIZON_POWER)},
        recording([20, 30, 60]),
        jax.random.key(1),
        steps=150,
        progress=lambda what, done, total, note: told.append((what, done, total, note)),
    )
    assert [words[:3] for words in told] == [("imitation", done, 150) for done in range(10, 151, 10)]
    errors = [float(words[3].removeprefix("error ")) for words in told]
    assert errors[-1] < 0.1 < 0.5 < errors[0], errors
    state = scheduler.init(fitted, jnp.int32(45))
    advance = jax.jit(scheduler.advance)
    for step in range(40):
        eta, state = advance(fitted, state, jnp.exp(-3.0 * step / 45.0))
        wanted = linear_decay(jnp.int32(step), jnp.int32(45)) * (45 / 1000) ** -0.4
        assert abs(float(jnp.log(eta / wanted))) < 0.5, step


def test_a_recording_is_whole_trainings_in_their_order(theta):
    seen = imitation.record(
        theta,
        [Quadratics(dim=3)],
        jax.random.key(0),
        rows=3,
        horizon_min=10,
        horizon_max=30,
        horizon_power=1.0,
        truncation_length=5,
    )
    assert {x.shape for x in seen} == {(3, 30)}
    assert np.isfinite(seen.losses).all()
    assert (np.asarray(seen.num_steps) >= 10).all()
    assert (np.asarray(seen.num_steps) <= 30).all()
    for steps, horizons in zip(np.asarray(seen.steps), np.asarray(seen.num_steps), strict=True):
        starts = np.flatnonzero(steps == 0)
        assert starts[0] == 0
        for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
            np.testing.assert_array_equal(steps[start:end], np.arange(end - start))
            assert end == len(steps) or end - start == horizons[start]


def test_phase_2_begins_with_the_lesson_and_only_its_beginning_does(tmp_path, monkeypatch):
    begun = []

    def train_phase(self, number, theta, restored):
        begun.append((number, theta))
        return theta

    monkeypatch.setattr(_run._Run, "_train_phase", train_phase)
    monkeypatch.setattr(_run._Run, "_restore", lambda *arguments: "state")
    monkeypatch.setattr(_run.hosts, "on_first", lambda act: None)

    def run(recipe, phase=None):
        begun.clear()
        saved = None if phase is None else checkpoint.pack({}, {"phase": phase, "seconds": 0.0, "rows": 0})
        _run._Run(tmp_path, Recipe(**recipe), "xla", (), 1.0, None, None, None).finish(saved)
        return dict(begun)

    whole = run(TINY)
    resumed = run(TINY, phase=0)
    monkeypatch.setattr(imitation, "imitate", None)  # not to be called any more
    without = run({**TINY, "imitation_steps": 0})
    later = run(TINY, phase=1)
    first = first_theta(Recipe(**TINY), jax.random.split(jax.random.key(0), 3)[0])
    assert first["scheduler"]["horizon_w"] == np.float32(HORIZON_POWER)
    jax.tree.map(np.testing.assert_array_equal, without[1], first)
    jax.tree.map(np.testing.assert_array_equal, later, {1: first})
    jax.tree.map(np.testing.assert_array_equal, whole[1]["update_rule"], first["update_rule"])
    assert (whole[1]["scheduler"]["out_w"] != first["scheduler"]["out_w"]).all()
    jax.tree.map(np.testing.assert_array_equal, resumed[1], whole[1])
