import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.evaluate._run.training import CurveProgram, curve_at, seconds_per_step, train_curve
from celo.optimizers import celo
from celo.tasks import Quadratics, Task, TaskFamily, make_task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Task):
    """The mean of the numbers in a batch, from 0."""

    def init(self, key):
        return {"x": jnp.zeros(())}, ()

    def loss(self, params, model_state, key, batch):
        return jnp.mean(jnp.square(params["x"] - batch)), (model_state, {})


class Means(TaskFamily):
    members, loss_cap = ("mean",), 1e6

    def sample(self, key, member):
        return Mean()

    def draw(self, key, count):
        return jax.random.normal(key, (count, 2))

    def batch(self, task, split, draw):
        return draw


@pytest.mark.parametrize(
    ("num_steps", "eval_every", "steps"),
    [(6, 3, [0, 3, 6]), (7, 3, [0, 3, 6, 7]), (2, 3, [0, 2]), (1, 1, [0, 1])],
)
def test_sgd_on_a_parabola_follows_the_closed_form(num_steps, eval_every, steps):
    # loss_t = 1/2 h (p_0 - c)² (1 - h rate)^2t, with h = 1
    family = Quadratics(dim=1, condition=1.0)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        curve = train_curve(
            family, 0, optax.sgd(0.25), num_steps=num_steps, seeds=(3, 4), eval_every=eval_every
        )
    assert curve.steps.tolist() == steps
    expected = curve.train_loss[:, :1] * (1 - 0.25) ** (2 * curve.steps)
    np.testing.assert_allclose(curve.train_loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(curve.valid_loss, curve.train_loss)
    assert curve.metrics == {}


def test_runs_of_one_seed_begin_alike_whatever_the_optimizer(theta):
    curves = [
        train_curve(Quadratics(), 0, tx, num_steps=10, seeds=(1, 2))
        for tx in (optax.adam(1e-2), optax.sgd(0.1), celo(10, weights=theta))
    ]
    for curve in curves[1:]:
        np.testing.assert_array_equal(curve.train_loss[:, 0], curves[0].train_loss[:, 0])
        assert not np.allclose(curve.train_loss[:, -1], curves[0].train_loss[:, -1])
    assert curves[0].train_loss[0, 0] != curves[0].train_loss[1, 0]


def test_batches_do_not_depend_on_the_optimizer_and_are_fresh():
    # Neither takes a step, so that the losses show the batches of the evaluations.
    still = [
        train_curve(Means(), 0, tx, num_steps=20, seeds=(1,)) for tx in (optax.adam(0.0), optax.sgd(0.0))
    ]
    np.testing.assert_array_equal(still[0].train_loss, still[1].train_loss)
    assert len(np.unique(still[0].train_loss)) == 3


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_grid_equals_a_run_alone(side_by_side):
    digits = make_task("digits_8x8_mlp32")
    rates, seeds = (1e-3, 1e-1), (5, 6)
    program = CurveProgram(digits, 0, optax.adam, num_steps=20, side_by_side=side_by_side)
    grid = program.curves(rates, seeds)
    assert grid.train_loss.shape == (2, 2, 3)
    alone = train_curve(digits, 0, optax.adam(rates[1]), num_steps=20, seeds=seeds[:1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6),
        curve_at(grid, (1, 0)),
        curve_at(alone, 0),
    )


@pytest.mark.parametrize(
    ("stop", "side_by_side"),
    [
        pytest.param(stop, beside, marks=[pytest.mark.slow] * (beside != (stop == 15)))
        for stop in (1, 10, 15)
        for beside in (False, True)
    ],
)
def test_a_run_that_stops_early_is_the_beginning_of_the_whole_one(stop, side_by_side):
    program = CurveProgram(Means(), 0, optax.sgd, num_steps=30, eval_every=10, side_by_side=side_by_side)
    whole, early = program.curves((0.1,), (1, 2)), program.curves((0.1,), (1, 2), stop)
    assert early.steps.tolist() == [t for t in (0, 10) if t < stop] + [stop]
    before = early.steps < stop
    np.testing.assert_array_equal(early.train_loss[..., before], whole.train_loss[..., : before.sum()])
    again = train_curve(Means(), 0, optax.sgd(0.1), num_steps=stop, seeds=(1, 2))
    np.testing.assert_array_equal(again.steps, early.steps)
    np.testing.assert_allclose(again.train_loss, early.train_loss[0], rtol=1e-6)
    with pytest.raises(CeloError, match="stop must be from 1 to num_steps, 30, got 31"):
        program.curves((0.1,), (1,), 31)


def test_step_time_is_that_of_one_step():
    family = Quadratics()
    seconds = seconds_per_step(family, 0, optax.adam(1e-3), num_steps=50, repeats=3)
    assert 0 < seconds < 1e-3
