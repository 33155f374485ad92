"""Whole runs: frozen weights stay frozen, devices do not matter, and any death is survived bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

from celo import weights
from celo._errors import CeloError
from celo._kernels import native
from celo.meta import _checkpoint as checkpoint
from celo.meta import _run as train
from celo.meta._outer_step import PhaseProgram, kinds_of, phases, task_families
from celo.meta._recipes import Recipe, make_recipe
from celo.optimizers import Celo

KERNEL = "native" if native.available() else "xla"  # what the command line takes
TINY = {
    "tasks": "quadratic",
    "estimator": "nres",
    "rule_steps": 40,
    "scheduler_steps": 30,
    "pairs_per_task": 4,
    "truncation_length": 5,
    "horizon_min": 10,
    "horizon_max": 30,
    "rule_learning_rate": 1e-2,
    "scheduler_learning_rate": 1e-2,
    "learning_rate_end": 1e-3,
}
GOLDEN = Path(__file__).parents[1] / "golden" / "outer_adamw.npz"


@pytest.fixture(scope="module")
def quiet():
    with open(os.devnull, "w") as nowhere:
        yield Console(file=nowhere)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quiet):
    """The folder of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train.start(run, Recipe(**TINY), console=quiet, kernel=KERNEL)
    return run


def theta_of(run):
    return weights.flatten(weights.load(run / train.THETA).theta)


def assert_same_theta(run, other):
    a, b = theta_of(run), theta_of(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_run_leaves_weights_and_a_log(whole):
    rows = train.read_metrics(whole / train.METRICS)
    assert [row["outer_step"] for row in rows if row["phase"] == "rule"] == [10, 20, 30, 40]
    assert [row["outer_step"] for row in rows if row["phase"] == "scheduler"] == [10, 20, 30]
    assert all(np.isfinite(row["meta_loss"]) and row["nonfinite_fraction"] == 0 for row in rows)
    assert rows[0]["tasks"].keys() == {"quadratic"}
    metadata = weights.load(whole / train.THETA).metadata
    assert metadata["architecture"] == "celo"
    assert metadata["largest_model"] == "10"


def test_the_first_phase_trains_the_rule_and_the_second_leaves_every_bit_of_it(tmp_path, quiet, whole):
    one = tmp_path / "one"
    train.start(one, Recipe(**{**TINY, "scheduler_steps": 0}), console=quiet, kernel=KERNEL)
    start = weights.flatten(Celo().init_theta(jax.random.split(jax.random.key(0), 2)[0]))
    first, both = theta_of(one), theta_of(whole)
    for name in both:
        if name.startswith("update_rule/"):
            assert name == "update_rule/b2" or (first[name] != start[name]).any(), name
        else:
            np.testing.assert_array_equal(first[name], start[name])


def test_frozen_weights_are_neither_updated_nor_decayed_nor_perturbed():
    recipe = Recipe(**TINY, weight_decay=0.1)
    program = PhaseProgram(recipe, phases(recipe)[1], task_families(recipe, phases(recipe)[1]))
    theta = Celo().init_theta(jax.random.key(0))
    state, frozen = program.init(theta, jax.random.key(1))
    before = jax.tree.map(np.array, frozen)
    assert set(state.theta) == set(state.estimators[0].epsilon) == {"scheduler"}
    state, _ = program.advance(state, frozen, 3)
    assert set(state.theta) == set(state.estimators[0].epsilon) == {"scheduler"}
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()),
        state.theta,
        {"scheduler": theta["scheduler"]},
    )
    assert all(jax.tree.leaves(moved)), moved


def test_one_call_compiles_once():
    recipe = Recipe(**TINY)
    program = PhaseProgram(recipe, phases(recipe)[0], task_families(recipe, phases(recipe)[0]))
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    for count in (1, 3, 2):
        state, _ = program.advance(state, frozen, count)
    assert program._advance._cache_size() == 1


def test_outer_optimizer_takes_the_published_steps():
    """AdamW at 3e-4; decay 1e-4 times that is below float32 resolution there. Frozen groups are apart."""
    numbers = np.load(GOLDEN)
    trained = sorted({key.split("/", 1)[1] for key in numbers if key.startswith("grad0/rnn_params")})
    adamw = optax.adamw(3e-4, weight_decay=Recipe().weight_decay)
    theta = {name: numbers[f"theta0/{name}"] for name in trained}
    state = adamw.init(theta)
    for step in range(5):
        gradient = {name: numbers[f"grad{step}/{name}"] for name in trained}
        updates, state = adamw.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        for name in trained:
            moved = np.abs(numbers[f"theta5/{name}"] - numbers[f"theta0/{name}"]).max()
            np.testing.assert_allclose(
                theta[name], numbers[f"theta{step + 1}/{name}"], rtol=0, atol=1e-3 * moved
            )


COMMAND = [
    sys.executable,
    "-c",
    "import sys; from celo.cli import main; sys.exit(main(sys.argv[1:]))",
    "train",
]
FLAGS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def spawn(*words):
    """`celo train` in a process of its own, on as many devices as this one and compiled like it."""
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(jax.device_count()),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_rows(run, rows, process):
    while len(train.read_metrics(run / train.METRICS)) < rows:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "rows"),
    [
        (signal.SIGKILL, 2),
        pytest.param(signal.SIGKILL, 6, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 5, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, whole, number, rows):
    run = tmp_path / "run"
    with spawn(*FLAGS, "--recipe", "celo", "--out", run, "--checkpoint-seconds", "0.001") as process:
        wait_for_rows(run, rows, process)
        process.send_signal(number)
        output = process.communicate()[0]
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), output
    assert not (run / train.THETA).exists()
    if number != signal.SIGKILL:
        assert f"celo train --resume {run}" in output
        assert "Traceback" not in output
    with spawn("--resume", run) as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert_same_theta(run, whole)
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in train.read_metrics(r / train.METRICS)]
        for r in (run, whole)
    ]
    assert timeless[0] == timeless[1]


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    state = {"a": np.arange(3, dtype=np.float32), "key": jax.random.key(5)}
    checkpoint.save(path, state, {"phase": 0})

    def full_disk(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises((OSError, CeloError)):
            checkpoint.save(path, {**state, "a": np.zeros(3, np.float32)}, {"phase": 1})
    assert checkpoint.read_header(path)["phase"] == 0
    found = checkpoint.load(path, state)
    np.testing.assert_array_equal(found["a"], state["a"])
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(state["key"]).tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": np.arange(300.0)}, {"phase": 0})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CeloError, match="damaged"):
        checkpoint.load(path, {"a": np.arange(300.0)})


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": np.zeros(3, np.float32)}, {})
    with pytest.raises(CeloError, match=r"'a'.*float32\[4\].*float32\[3\]"):
        checkpoint.load(path, {"a": np.zeros(4, np.float32)})


def test_a_checkpoint_of_another_format_is_refused(tmp_path, quiet, monkeypatch):
    """Its recipe may have other fields: the format is looked at before anything else."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", "celo-checkpoint/1")
        checkpoint.save(tmp_path / train.CHECKPOINT, {}, {"recipe": {"learning_rate": 1e-3}, "phase": 0})
    with pytest.raises(CeloError, match="format is 'celo-checkpoint/1', this version reads"):
        train.resume(tmp_path, console=quiet)


def test_a_finished_folder_is_not_overwritten(whole, quiet):
    before = (whole / train.THETA).read_bytes()
    with pytest.raises(CeloError, match="--resume"):
        train.start(whole, Recipe(**TINY), console=quiet)
    assert (whole / train.THETA).read_bytes() == before


def test_there_is_nothing_to_resume(tmp_path, quiet):
    with pytest.raises(CeloError, match="no checkpoint"):
        train.resume(tmp_path / "nothing", console=quiet)


def test_a_log_cut_short_by_a_crash_is_read(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text(json.dumps({"outer_step": 10}) + '\n{"outer_st')
    assert train.read_metrics(log) == [{"outer_step": 10}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rule_steps", 0),
        ("pairs_per_task", 0),
        ("std", -1.0),
        ("rule_learning_rate", float("nan")),
        ("horizon_max", 99),
        ("horizon_power", float("inf")),
        ("augmentation", "globl"),
        ("augmentation_low", 0.0),
        ("tasks", "quadratik"),
        ("seed", -1),
    ],
)
def test_recipe_fields_are_checked_by_name(field, value):
    with pytest.raises(CeloError, match=str(value)):
        make_recipe("celo", **{field: value})


def test_unknown_recipes_and_fields_list_the_nearest():
    with pytest.raises(CeloError, match="unknown recipe 'quik'; known, nearest first: quick"):
        make_recipe("quik")
    with pytest.raises(CeloError, match="unknown recipe field 'step'"):
        make_recipe("quick", step=3)


def test_families_train_together_and_each_counts_by_its_kinds():
    """Each family has problems of its own, and its losses go to its own kinds."""
    recipe = Recipe(**{**TINY, "tasks": "quadratic, quadratic", "scheduler_steps": 0}, average_decay=0.5)
    families = task_families(recipe, phases(recipe)[0])
    assert kinds_of(families) == ("quadratic", "quadratic")
    program = PhaseProgram(recipe, phases(recipe)[0], families)
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    assert len(state.estimators) == 2
    first, second = (np.asarray(particles.positive.task.task.centre) for particles in state.estimators)
    assert (first != second).any()  # each family has problems of its own
    before = jax.device_get(state.theta)
    state, progress = program.advance(state, frozen, 1)
    assert progress.inner_steps == 2 * 2 * recipe.pairs_per_task * recipe.truncation_length
    assert float(progress.meta_loss) == pytest.approx(float(np.mean(progress.task_losses)), rel=1e-5)
    after, average = jax.device_get((state.theta, state.average))
    decay = 1 / 10  # of a young average
    jax.tree.map(
        lambda b, a, m: np.testing.assert_allclose(m, decay * b + (1 - decay) * a, atol=1e-6),
        before,
        after,
        average,
    )


def test_the_third_phase_trains_the_rule_alone(tmp_path, quiet, monkeypatch):
    entering = []
    train_phase = train._Run._train_phase

    def watched(self, number, theta, *rest):
        entering.append(theta)
        return train_phase(self, number, theta, *rest)

    monkeypatch.setattr(train._Run, "_train_phase", watched)
    run = tmp_path / "run"
    train.start(run, Recipe(**TINY, refinement_steps=20, warmup_steps=5), console=quiet, kernel=KERNEL)
    rows = train.read_metrics(run / train.METRICS)
    assert [row["outer_step"] for row in rows if row["phase"] == "refinement"] == [10, 20]
    refined, two = theta_of(run), weights.flatten(entering[2])
    for name in two:
        if name.startswith("scheduler/"):
            np.testing.assert_array_equal(refined[name], two[name])
        elif name != "update_rule/b2":
            assert (refined[name] != two[name]).any(), name
