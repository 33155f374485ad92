"""Jobs over a pool: what a crash leaves, and what may stand beside what."""

import dataclasses
import shutil

import numpy as np
import pytest
from small import PROTOCOL, TASK, Here, job, run, same

from celo._errors import CeloError
from celo.evaluate._records import load_records
from celo.evaluate._run import runner
from celo.evaluate._run.contestants import resolve_contestant
from celo.evaluate._run.training import CurveProgram
from celo.evaluate._run.trial import run_trial
from celo.evaluate._run.tuning import Job
from celo.evaluate._settings import ContestantFacts, TaskSettings


def test_nothing_is_run_twice(whole):
    pool = Here()
    assert run([job("adam"), job("celo")], whole, pool) == []
    assert pool.trials == []


def test_a_record_with_other_settings_is_not_taken_for_the_jobs(whole):
    longer = TaskSettings("quadratic", num_steps=50, eval_every=5)
    with pytest.raises(CeloError, match=r"has adam on quadratic with num_steps 40, asked for is 50"):
        run([job("celo", longer)], whole, Here())
    other = dataclasses.replace(resolve_contestant("celo"), facts=ContestantFacts(weights_sha256="0" * 64))
    with pytest.raises(CeloError, match="made with the weights_sha256"):
        run([Job(TASK, other, PROTOCOL, "xla")], whole, Here())


@pytest.mark.parametrize("survived", [0, 1, 2, 3])
def test_an_interrupted_evaluation_goes_on_with_the_next_trial(tmp_path, whole, survived):
    with pytest.raises(KeyboardInterrupt):
        run([job("adam"), job("celo")], tmp_path, Here(fail=survived))
    pool = Here()
    assert run([job("adam"), job("celo")], tmp_path, pool) == []
    assert survived + len(pool.trials) == 4
    for a, b in zip(load_records(whole), load_records(tmp_path), strict=True):
        same(a, b)


@pytest.mark.parametrize("survived", [0, 1, 3, 7])
def test_an_interrupted_trial_goes_on_with_its_next_run(tmp_path, whole, survived, monkeypatch):
    """Tuning of Adam is 4 short runs, then 2 long ones; 2 seeds are reported."""
    left, curves, runs = [survived], CurveProgram.curves, []

    def counted(self, rates, seeds, stop=None):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        runs.append((rates, seeds, stop))
        return curves(self, rates, seeds, stop)

    monkeypatch.setattr(CurveProgram, "curves", counted)
    with pytest.raises(KeyboardInterrupt):
        run([job("adam")], tmp_path, Here())
    left[0] = 100
    assert run([job("adam")], tmp_path, Here()) == []
    assert len(runs) == len(set(runs)) == 4 + 2 + 2
    same(load_records(whole)[0], load_records(tmp_path)[0])
    assert not (tmp_path / runner.TRIALS).exists()


def test_records_that_lack_runs_in_the_time_of_adams_get_them_and_nothing_else_runs(tmp_path, whole):
    out = shutil.copytree(whole, tmp_path / "out")
    asked, pool = [dataclasses.replace(job(name), equal_time=True) for name in ("adam", "celo")], Here()
    assert run(asked, out, pool) == []
    before, after = load_records(whole)[1], load_records(out)[1]
    horizon = max(1, int(40 * before.adam_seconds_per_step / before.seconds_per_step))
    [trial] = pool.trials
    assert (trial.contestant.name, trial.stop, trial.seeds) == ("celo", horizon, PROTOCOL.seeds)
    same(before, after)
    assert after.seconds_per_step == before.seconds_per_step
    assert after.equal_time.steps[-1] == horizon
    assert after.equal_time.train_loss.shape == (2, len(after.equal_time.steps))
    # The same start, and from there on another training.
    np.testing.assert_allclose(after.equal_time.train_loss[:, 0], after.train_loss[:, 0], rtol=0.5)
    assert len(after.provenance.commits_of_trials) == len(before.provenance.commits_of_trials) + 1
    again = Here()
    assert run(asked, out, again) == []
    assert again.trials == []


def test_a_damaged_trial_is_run_again(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run([job("adam")], tmp_path, Here(fail=2))
    for path in (tmp_path / runner.TRIALS).iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert run([job("adam")], tmp_path, Here()) == []
    same(load_records(whole)[0], load_records(tmp_path)[0])


def test_a_job_that_fails_does_not_stop_the_others(tmp_path):
    bad = job("adam", TaskSettings("no_such_task", 10))
    (line,) = run([bad, job("celo")], tmp_path, Here())
    assert "adam on no_such_task" in line
    assert [record.contestant for record in load_records(tmp_path)] == ["celo"]


def test_who_fails_in_the_time_of_adams_run_alone_has_a_record_without_it(tmp_path, monkeypatch):
    def fails_when_short(trial, kept=None):
        if trial.task.num_steps < TASK.num_steps:
            raise CeloError("too few steps to warm up")
        return run_trial(trial, kept)._replace(seconds=(2.0, 1.0))

    monkeypatch.setattr(runner, "run_trial", fails_when_short)
    asked = dataclasses.replace(job("sgd"), equal_time=True)
    [line] = run([asked], tmp_path, Here())
    assert line.startswith("sgd on quadratic: too few steps to warm up")
    [record] = load_records(tmp_path)
    assert record.equal_time is None
    assert not (tmp_path / runner.TRIALS).exists()
    pool = Here()  # nothing but that is tried again, and the record stays
    assert len(run([asked], tmp_path, pool)) == len(pool.trials) == 1
    same(load_records(tmp_path)[0], record)


def test_records_that_could_not_stand_beside_each_other_are_refused_before_anything_runs(tmp_path, whole):
    pool, more = Here(), dataclasses.replace(PROTOCOL, seeds=(0, 1, 2))
    with pytest.raises(
        CeloError, match=r"has adam on quadratic with seeds \(0, 1\), asked for is \(0, 1, 2\)"
    ):
        run([Job(TASK, resolve_contestant("lion"), more, "xla")], whole, pool)
    longer = dataclasses.replace(TASK, num_steps=50)
    with pytest.raises(CeloError, match=r"with num_steps 40, asked for is 50.*another out"):
        run([Job(longer, resolve_contestant("lion"), PROTOCOL, "xla")], whole, pool)
    assert pool.trials == []


def test_a_record_of_another_kernel_is_not_made_again(tmp_path, whole):
    pool = Here()
    assert run([Job(TASK, resolve_contestant("celo"), PROTOCOL, "native")], whole, pool) == []
    assert pool.trials == []


def test_a_task_of_ones_own_that_is_not_there_fails_alone(tmp_path):
    bad = [job("celo", TaskSettings(place, 10)) for place in ("no_such.module:task", "no_such_module:task")]
    lines = run([*bad, job("celo")], tmp_path, Here())
    assert ["there is no module 'no_such" in line for line in lines] == [True, True]
    assert [record.task for record in load_records(tmp_path)] == ["quadratic"]
