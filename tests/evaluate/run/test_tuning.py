"""The rule of tuning: rungs, the rate that is chosen, the record that comes of it."""

import dataclasses

import numpy as np
from small import PROTOCOL, Here, job, run

from celo.evaluate._records import load_records, read_record
from celo.evaluate._run import runner
from celo.evaluate._run.trial import run_trial
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
