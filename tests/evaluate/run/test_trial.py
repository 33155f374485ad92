"""Trials: what tells one from another, what is kept of them, and that no way of running changes a result."""

import dataclasses
import json
import pickle
import sys

import jax
import numpy as np
import pytest
from small import TASK

from celo._errors import CeloError
from celo.evaluate._run import trial as trials
from celo.evaluate._run.contestants import resolve_contestant
from celo.evaluate._run.training import Curve, CurveProgram
from celo.evaluate._run.trial import Outcome, Trial, read_outcome, run_trial, write_outcome
from celo.evaluate._settings import TaskSettings
from celo.tasks import Quadratics

SHORT = TaskSettings("quadratic", num_steps=20, eval_every=5)


def trial(**changes):
    settings = {"rates": (1e-2, 1e-1), "seeds": (0, 3), "stop": 20, "timed": False, "kernel": "xla"}
    return Trial(**{"task": SHORT, "contestant": resolve_contestant("sgd"), **settings, **changes})


def same_curves(a, b):
    jax.tree.map(np.testing.assert_array_equal, a._asdict(), b._asdict())


@pytest.fixture(autouse=True)
def no_program_yet(monkeypatch):
    monkeypatch.setattr(trials, "_kept", {})


# Their names


def test_a_digest_is_of_all_that_a_result_depends_on():
    changes = [
        {},
        {"rates": (1e-2,)},
        {"seeds": (3, 0)},
        {"stop": 10},
        {"timed": True},
        {"kernel": "native"},
        {"task": TASK},
        {"task": dataclasses.replace(SHORT, source_sha256="0")},
        {"contestant": resolve_contestant("momentum")},
        {"contestant": resolve_contestant("other=sgd")},
    ]
    digests = [trial(**change).digest() for change in changes]
    assert len(set(digests)) == len(changes)
    assert digests[0] == trial().digest()
    assert trial(imports=("mine",)).digest() == digests[0]  # where a name comes from; what it is, is told


def test_a_digest_is_a_name_for_a_file_and_the_same_in_every_process():
    """A change here means that what was kept by an older version is run again."""
    digest = trial().digest()
    assert len(digest) == 24
    assert set(digest) <= set("0123456789abcdef")


# What is kept


@pytest.fixture
def outcome():
    """Two rates, three seeds, four evaluations."""
    rng = np.random.default_rng(0)
    train, valid, accuracy = rng.normal(size=(3, 2, 3, 4)).astype(np.float32)
    train[0, 1, 2:] = np.nan, np.inf
    curve = Curve(np.array([0, 5, 10, 15]), train, valid, {"accuracy": accuracy})
    return Outcome(curve, (1e-3, float("nan")), {"commit": None, "jax": "1.2"})


def test_what_is_written_is_read_to_the_bit(outcome, tmp_path):
    write_outcome(tmp_path / "one", outcome)
    found = read_outcome(tmp_path / "one")
    same_curves(found.curve, outcome.curve)
    assert found.curve.train_loss.dtype == np.float32
    assert found.seconds[0] == 1e-3
    assert np.isnan(found.seconds[1])
    assert found.origin == outcome.origin


def test_what_is_not_there_is_none(tmp_path):
    assert read_outcome(tmp_path / "one") is None


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_what_is_damaged_is_none_and_taken_away(outcome, tmp_path, kept):
    path = tmp_path / "one"
    write_outcome(path, outcome)
    path.write_bytes(path.read_bytes()[:kept])
    assert read_outcome(path) is None
    assert not path.exists()


def test_an_outcome_that_cannot_be_written_is_told(outcome, tmp_path):
    with pytest.raises(CeloError, match=r"nowhere.* does not exist"):
        write_outcome(tmp_path / "nowhere" / "one", outcome)


# Running


@pytest.fixture(scope="module")
def found():
    return run_trial(trial())


def test_every_rate_runs_with_every_seed_by_gradient_descent(found):
    """On a quadratic each coordinate shrinks by 1 - rate * curvature in each step."""
    assert found.curve.train_loss.shape == (2, 2, 5)
    assert found.curve.steps.tolist() == [0, 5, 10, 15, 20]
    for s, seed in enumerate((0, 3)):
        key_task, key_init, _ = jax.random.split(jax.random.key(np.uint32(seed)), 3)
        task = Quadratics().sample(key_task, np.int32(0))
        start = np.asarray(task.init(key_init)[0]["x"] - task.centre, np.float64)
        curvature = np.asarray(task.curvature, np.float64)
        for r, rate in enumerate((1e-2, 1e-1)):
            away = [(1 - rate * curvature) ** t * start for t in (0, 5, 10, 15, 20)]
            expected = [0.5 * (curvature * x**2).sum() for x in away]
            np.testing.assert_allclose(found.curve.train_loss[r, s], expected, rtol=1e-3)


def test_a_trial_tells_where_it_ran_and_no_time_that_it_did_not_take(found):
    assert np.isnan(found.seconds).all()
    assert {"commit", "jax", "python", "machine"} <= set(found.origin)
    json.dumps(found.origin)


def test_a_timed_trial_times_its_own_step_and_adams():
    seconds = run_trial(trial(timed=True, rates=(1e-2,), seeds=(0,))).seconds
    assert len(seconds) == 2
    assert all(0 < second < 1e-2 for second in seconds)


def test_runs_kept_one_by_one_are_those_run_at_once(found, tmp_path):
    again = run_trial(trial(), str(tmp_path / "trial.npz"))
    same_curves(again.curve, found.curve)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"trial-{rate}-{seed}.run" for rate in (0.01, 0.1) for seed in (0, 3)}


def test_a_run_that_is_kept_is_not_run_again(found, tmp_path, monkeypatch):
    kept = str(tmp_path / "trial.npz")
    run_trial(trial(), kept)
    (tmp_path / "trial-0.1-0.run").unlink()
    curves, runs = CurveProgram.curves, []

    def counted(self, rates, seeds, stop=None):
        runs.append((rates, seeds))
        return curves(self, rates, seeds, stop)

    monkeypatch.setattr(CurveProgram, "curves", counted)
    same_curves(run_trial(trial(), kept).curve, found.curve)
    assert runs == [((0.1,), (0,))]


def test_a_folder_that_this_machine_does_not_see_is_no_error(found, tmp_path):
    again = run_trial(trial(), str(tmp_path / "elsewhere" / "trial.npz"))
    same_curves(again.curve, found.curve)
    assert not any(tmp_path.iterdir())


def test_parts_of_other_commits_are_told(tmp_path, monkeypatch):
    kept = tmp_path / "trial.npz"
    monkeypatch.setattr(trials, "_origin", lambda: {"commit": "older"})
    run_trial(trial(), str(kept))
    (tmp_path / "trial-0.1-3.run").unlink()
    monkeypatch.setattr(trials, "_origin", lambda: {"commit": "newer"})
    assert run_trial(trial(), str(kept)).origin == {"commit": "older and newer"}


def test_one_program_serves_all_trials_of_a_job(monkeypatch):
    made = []
    monkeypatch.setattr(trials, "make_task", lambda name: made.append(name) or Quadratics())
    run_trial(trial(rates=(1e-2,), seeds=(0,), stop=10))
    run_trial(trial(rates=(1e-1,), seeds=(1,)))
    assert made == ["quadratic"]
    run_trial(trial(contestant=resolve_contestant("momentum"), rates=(1e-2,), seeds=(0,)))
    assert made == ["quadratic"] * 2


def test_several_tasks_are_not_one(monkeypatch):
    monkeypatch.setattr(trials, "make_task", lambda name: Quadratics(members=("one", "other")))
    with pytest.raises(CeloError, match=r"'quadratic' is 2 tasks \(one, other\); name a single one"):
        run_trial(trial())


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(CeloError, match="no module 'no_such_module'"):
        run_trial(trial(imports=("no_such_module",)))


# What fails in a user's own code


FAILING = """
import jax, jax.numpy as jnp, optax
from celo.tasks import Quadratics

class TwoWords(Exception):
    def __init__(self, one, two):  # cannot be unpickled
        super().__init__(f"{one} {two}")

def at(stage):
    def make(rate, num_steps):
        if stage == "make": raise TwoWords("in", "make")
        def init(params):
            if stage == "init": raise TwoWords("in", "init")
            return ()
        def update(grads, state, params=None):
            if stage == "update": raise TwoWords("in", "update")
            if stage == "trace" and jax.tree.leaves(grads)[0].sum() > 0: pass
            if stage == "leave": raise SystemExit("bye")
            if stage == "shapes": grads = jax.tree.map(lambda x: jnp.zeros(3), grads)
            return grads, state
        return optax.GradientTransformation(init, update)
    return make

make, init, update, trace, leave, shapes = map(at, ("make", "init", "update", "trace", "leave", "shapes"))

class Broken(Quadratics):
    def batch(self, task, split, draw):
        raise KeyError("broken")

broken = Broken()

def unmade():
    raise OSError("no data")
"""


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Path of a module of optimizers and tasks that fail; line(words) is where."""
    path = tmp_path / "failing_parts.py"
    path.write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("failing_parts", None)


@pytest.mark.parametrize(
    ("part", "words", "where"),
    [
        ("make", "TwoWords: in make", 'raise TwoWords("in", "make")'),
        ("init", "TwoWords: in init", 'raise TwoWords("in", "init")'),
        ("update", "TwoWords: in update", 'raise TwoWords("in", "update")'),
        ("trace", "TracerBoolConversionError: ", ".sum() > 0"),
        ("leave", "SystemExit: bye", "SystemExit("),
        ("shapes", "", "def make(rate"),
        ("broken", "KeyError: 'broken'", "KeyError("),
        ("unmade", "task 'failing_parts:unmade' cannot be made: OSError: no data", "OSError("),
    ],
)
def test_what_fails_is_one_line_with_file_and_line_that_any_process_can_be_sent(failing, part, words, where):
    place = f"failing_parts:{part}"
    if part in ("broken", "unmade"):
        failed = trial(task=TaskSettings(place, 20, 5))
    else:
        failed = trial(contestant=resolve_contestant(place))
    with pytest.raises(CeloError) as found:
        run_trial(failed)
    text = str(pickle.loads(pickle.dumps(found.value)))
    line = 1 + next(i for i, line in enumerate(FAILING.splitlines()) if where in line)
    assert text.startswith(words)
    assert f"{failing}:{line}" in text
    assert text.count(str(failing)) == 1
    assert "\n" not in text
