"""The rule of tuning: rungs, the rate that is chosen, the record that comes of it."""

import dataclasses

import numpy as np
import pytest
from small import PROTOCOL, TASK, Here, job, run

from celo.evaluate._records import load_records, read_record
from celo.evaluate._run import runner
from celo.evaluate._run.training import Curve
from celo.evaluate._run.trial import Outcome, run_trial
from celo.evaluate._run.tuning import final_losses


def test_a_record_holds_what_led_to_it(whole):
    adam, celo = load_records(whole)
    assert (adam.contestant, celo.contestant) == ("adam", "celo")
    assert adam.train_loss.shape == (2, 9)
    assert adam.steps.tolist() == [*range(0, 40, 5), 40]
    assert adam.rung_steps.tolist() == [10, 40]
    first, second = adam.rung_losses
    assert np.isinf(first[-1])  # the trial that diverged is told, not dropped
    assert np.isfinite(second).sum() == 2
    assert np.isnan(second).sum() == 2
    assert adam.rate == adam.rates[np.nanargmin(second)]
    assert celo.rate is None
    assert celo.rung_losses.size == 0
    assert celo.settings.contestant.weights_sha256
    assert adam.seeds == (0, 1)
    assert adam.seconds_per_step > 0
    assert not (whole / runner.TRIALS).exists()


def test_the_second_rung_runs_the_best_of_the_first():
    found = run_trial(job().next_trial([]))
    second = job().next_trial([found])
    best = np.argsort(final_losses(found.curve))[:2]
    assert set(second.rates) == {PROTOCOL.rates[i] for i in best}
    assert second.seeds == PROTOCOL.tuning_seeds
    assert second.stop == 40


def test_a_record_tells_where_each_of_its_trials_ran(whole):
    record = read_record(whole / "quadratic" / "adam.npz")
    origin = record.provenance
    assert len(origin.commits_of_trials) == 3
    assert origin.commits_of_trials[-1] == origin.commit
    assert {"jax", "python", "machine"} <= set(origin.environment)
    assert record.settings.contestant.optimizer == "optax.adam"


def test_with_one_rung_the_whole_grid_runs_to_the_end(tmp_path):
    once = dataclasses.replace(PROTOCOL, first_share=1.0)
    pool = Here()
    assert run([dataclasses.replace(job(), protocol=once)], tmp_path, pool) == []
    assert [(trial.rates, trial.stop) for trial in pool.trials[:1]] == [(PROTOCOL.rates, 40)]
    assert len(pool.trials) == 2
    (record,) = load_records(tmp_path)
    assert record.rung_steps.tolist() == [40]
    assert record.rung_losses.shape == (1, 4)
    assert record.rate == record.rates[record.rung_losses[0].argmin()]


def test_one_learning_rate_goes_straight_to_the_reported_seeds(tmp_path):
    pool = Here()
    assert run([job("sgd@0.05")], tmp_path, pool) == []
    assert [(trial.rates, trial.seeds, trial.timed) for trial in pool.trials] == [((0.05,), (0, 1), True)]
    (record,) = load_records(tmp_path)
    assert (record.contestant, record.rate, record.rates.size) == ("sgd@0.05", 0.05, 0)
    assert record.settings.kernel is None


# In the time of Adam's


def timed(cost, evaluations=9):
    """What a timed trial of two seeds found, in which a step cost so many of Adam's."""
    losses = np.linspace(2, 1, 2 * evaluations, dtype=np.float32).reshape(1, 2, evaluations)
    curve = Curve(np.linspace(0, 40, evaluations).astype(int), losses, losses, {})
    return Outcome(curve, (cost * 1e-3, 1e-3), {"commit": "first"})


def in_time(name="celo"):
    return dataclasses.replace(job(name), equal_time=True)


@pytest.mark.parametrize(
    ("cost", "steps", "every"),
    [(1.0, 40, 5), (1.3, 30, 4), (2.0, 20, 2), (0.6, 66, 8), (100.0, 1, 1), (39.9, 1, 1)],
)
def test_a_run_in_the_time_of_adams_has_the_steps_that_fit_in_and_knows_it(cost, steps, every):
    """Its task is of those steps, so that schedules are made for them, and is evaluated about as often."""
    trial = in_time().next_trial([timed(cost)])
    assert (trial.task.num_steps, trial.task.eval_every, trial.stop) == (steps, every, steps)
    assert dataclasses.replace(trial.task, num_steps=40, eval_every=5) == TASK
    assert (trial.rates, trial.seeds, trial.timed) == ((1.0,), PROTOCOL.seeds, False)
    assert in_time().next_trial([timed(cost), timed(cost)]) is None


def test_a_run_in_the_time_of_adams_is_at_the_rate_that_the_record_has():
    assert in_time("sgd@0.05").next_trial([timed(2.0)]).rates == (0.05,)
    first, second = (
        run_trial(job("sgd").next_trial(found)) for found in ([], [run_trial(job("sgd").next_trial([]))])
    )
    done = [first, second, timed(2.0)]
    assert in_time("sgd").next_trial(done).rates == (in_time("sgd").record(done).rate,)


def test_who_has_no_run_in_the_time_of_adams():
    """Adam itself, one whose step could not be timed, and anyone for whom it is not asked."""
    assert in_time("adam@0.1").next_trial([timed(2.0)]) is not None
    adam = dataclasses.replace(
        in_time("adam@0.1"), contestant=dataclasses.replace(in_time().contestant, name="adam")
    )
    assert adam.next_trial([timed(2.0)]) is None
    assert in_time().next_trial([timed(np.nan)]) is None
    assert job("celo").next_trial([timed(2.0)]) is None
    assert in_time().record([timed(np.nan)]).equal_time is None


def test_the_record_has_both_runs():
    short = timed(2.0, 5)._replace(origin={"commit": "second"})
    record = in_time().record([timed(2.0), short])
    alone = job("celo").record([timed(2.0)])
    np.testing.assert_array_equal(record.train_loss, alone.train_loss)
    np.testing.assert_array_equal(record.equal_time.train_loss, short.curve.train_loss[0])
    assert record.equal_time.steps.tolist() == short.curve.steps.tolist()
    assert record.seconds_per_step == 2e-3
    assert record.provenance.commit == "first"
    assert record.provenance.commits_of_trials == ("first", "second")
    assert in_time().lacks(alone)
    assert not in_time().lacks(record)
    assert not job("celo").lacks(alone)
