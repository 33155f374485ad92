"""Whole runs: each phase trains its groups of θ, any death is survived bit for bit, one may stop a run."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo import meta, weights
from celo._errors import CeloError
from celo._files import held
from celo._kernels import native
from celo.meta import _checkpoint as checkpoint
from celo.meta import _run
from celo.meta._recipes import Recipe
from celo.meta._summary import METRICS
from celo.optimizers import OPTIMIZERS, Celo, Entry, LearnedOptimizer, TrainingPhase

TINY = {
    "tasks": ("quadratic",),
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
    "min_rms": 0.125,
}
OF_ANY = {**TINY, "min_rms": 0.0}  # a recipe of optimizers without Celo's rule, too


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    meta.start(run, Recipe(**TINY))
    return run


@pytest.mark.slow
def test_weights_end_with_the_floor_of_sizes_of_their_recipe(whole):
    assert theta_of(whole)["update_rule/log_min_rms"] == np.log(np.float32(0.125))


def theta_of(run):
    return weights.flatten(weights.load(run / _run.THETA).theta)


def assert_same_theta(run, other):
    a, b = theta_of(run), theta_of(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_200_outer_steps_of_the_recipe_celo2_lower_its_meta_loss(tmp_path):
    """At ten times the published rate, which is meant for 100,000 steps."""
    recipe = meta.make_recipe("celo2", rule_steps=200, rule_learning_rate=5e-4, learning_rate_end=5e-4)
    first = OPTIMIZERS["celo2"].optimizer(kernel="xla").init_theta(jax.random.key(3))
    meta.start(tmp_path / "run", recipe)
    last = weights.load(tmp_path / "run" / _run.THETA).theta
    before, after = (meta.measure(theta, recipe, problems=8) for theta in (first, last))
    assert after.meta_loss < before.meta_loss - 2 * (before.standard_error + after.standard_error)


def test_a_run_leaves_weights_and_a_log(whole):
    rows = meta.read_metrics(whole / METRICS)
    assert [row["outer_step"] for row in rows if row["phase"] == "rule"] == [10, 20, 30, 40]
    assert [row["outer_step"] for row in rows if row["phase"] == "scheduler"] == [10, 20, 30]
    assert all(np.isfinite(row["meta_loss"]) and row["nonfinite_fraction"] == 0 for row in rows)
    assert rows[0]["tasks"].keys() == {"quadratic"}
    metadata = weights.load(whole / _run.THETA).metadata
    assert metadata["architecture"] == "celo"
    assert metadata["largest_model"] == "10"


def test_the_first_phase_trains_the_rule_and_the_second_leaves_every_bit_of_it(tmp_path, whole):
    one = tmp_path / "one"
    meta.start(one, Recipe(**{**TINY, "scheduler_steps": 0}))
    start = weights.flatten(Celo().init_theta(jax.random.split(jax.random.key(0), 2)[0]))
    first, both = theta_of(one), theta_of(whole)
    for name in both:
        if name.startswith("update_rule/"):
            put_back = name == "update_rule/log_min_rms"
            assert name == "update_rule/b2" or put_back or (first[name] != start[name]).any(), name
        else:
            np.testing.assert_array_equal(first[name], start[name])


COMMAND = [
    sys.executable,
    "-c",
    "import sys; from celo.cli import main; sys.exit(main(sys.argv[1:]))",
    "train",
]
FLAGS = [
    *("--tasks", *TINY["tasks"]),
    *(f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if name != "tasks"),
]


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
    while len(meta.read_metrics(run / METRICS)) < rows:
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
    assert not (run / _run.THETA).exists()
    if number != signal.SIGKILL:
        assert f"celo train --resume {run}" in output
        assert "Traceback" not in output
    with spawn("--resume", run) as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert_same_theta(run, whole)
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k} for row in meta.read_metrics(r / METRICS)]
        for r in (run, whole)
    ]
    assert timeless[0] == timeless[1]


ELO = {"resume_slots": 2, "resume_share": 0.9, "expert_steps": 20, "expert_share": 0.7}


@pytest.mark.slow
def test_a_resume_buffer_and_an_expert_are_part_of_what_is_resumed(tmp_path):
    recipe = Recipe(**{**TINY, **ELO, "scheduler_steps": 10})
    meta.start(tmp_path / "whole", recipe)
    stopped, told = tmp_path / "stopped", []
    with pytest.raises(meta.Stopped):
        meta.start(
            stopped, recipe, progress=lambda *words: told.append(words), should_stop=lambda: len(told) > 2
        )
    meta.resume(stopped)
    assert_same_theta(stopped, tmp_path / "whole")


@pytest.mark.slow
def test_without_them_their_settings_change_no_bit(tmp_path, whole):
    settings = {"resume_share": 0.3, "expert_share": 0.3, "expert_learning_rate": 1.0}
    meta.start(tmp_path / "run", Recipe(**TINY, **settings))
    assert_same_theta(tmp_path / "run", whole)
    with pytest.raises(CeloError, match=r"resume_slots=1 needs an estimator.*pes or nres, got 'full_es'"):
        Recipe(resume_slots=1, estimator="full_es")


def test_the_signal_to_noise_of_a_mean_is_told_from_its_parts(whole):
    """Of N normal estimates with mean g and deviation s in each of D weights: |g|² N / (D s²)."""
    size, pairs, deviation = 50, 16, 0.3
    rng = np.random.default_rng(0)
    g = rng.normal(size=size)
    noise = deviation * rng.normal(size=(4_000, pairs, size))
    for mean in (g, 0.0 * g):
        each = mean + noise
        found = _run.signal_to_noise(
            np.square(each.mean(axis=1)).sum(axis=1).mean(), np.square(each).sum(axis=2).mean(), pairs
        )
        expected = np.sum(mean**2) * pairs / (size * deviation**2)
        assert found == pytest.approx(expected, rel=0.02, abs=0.02)
    assert _run.signal_to_noise(1.0, 1.0, 1) is None
    assert _run.signal_to_noise(1.0, float("nan"), 8) is None
    assert _run.signal_to_noise(0.0, 0.0, 8) is None
    assert all(np.isfinite(row["gradient_snr"]) for row in meta.read_metrics(whole / METRICS))


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    """Its recipe may have other fields: the format is looked at before anything else."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", "celo-checkpoint/1")
        checkpoint.save(tmp_path / _run.CHECKPOINT, {}, {"recipe": {"learning_rate": 1e-3}, "phase": 0})
    with pytest.raises(CeloError, match="format is 'celo-checkpoint/1', this version reads"):
        meta.resume(tmp_path)


def test_a_finished_folder_is_not_overwritten(whole):
    before = (whole / _run.THETA).read_bytes()
    with pytest.raises(CeloError, match="already holds a run"):
        meta.start(whole, Recipe(**TINY))
    assert (whole / _run.THETA).read_bytes() == before


def test_two_runs_in_one_folder_are_refused(tmp_path, whole):
    """Neither a second start beside a first that has written nothing yet, nor a resumption of a live run."""
    (tmp_path / "new").mkdir()
    for folder, begin in (
        (tmp_path / "new", lambda: meta.start(tmp_path / "new", Recipe(**TINY))),
        (whole, lambda: meta.resume(whole)),
    ):
        with (
            held(folder, ""),
            pytest.raises(CeloError, match="another process is at work in it; wait"),
        ):
            begin()


def test_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(CeloError, match="no checkpoint"):
        meta.resume(tmp_path / "nothing")


@pytest.mark.slow
def test_the_third_phase_trains_the_rule_alone(tmp_path, monkeypatch):
    entering = []
    train_phase = _run._Run._train_phase

    def watched(self, number, theta, *rest):
        entering.append(theta)
        return train_phase(self, number, theta, *rest)

    monkeypatch.setattr(_run._Run, "_train_phase", watched)
    run = tmp_path / "run"
    meta.start(run, Recipe(**TINY, refinement_steps=20, warmup_steps=5))
    rows = meta.read_metrics(run / METRICS)
    assert [row["outer_step"] for row in rows if row["phase"] == "refinement"] == [10, 20]
    refined, two = theta_of(run), weights.flatten(entering[2])
    for name in two:
        if name.startswith("scheduler/"):
            np.testing.assert_array_equal(refined[name], two[name])
        elif name != "update_rule/b2":
            assert (refined[name] != two[name]).any(), name


def test_a_run_tells_its_progress_and_stops_when_asked(tmp_path, whole):
    run, told, rows = tmp_path / "run", [], []
    tell = {"progress": lambda *words: told.append(words), "on_row": rows.append}

    def should_stop():
        return len(told) >= 4

    with pytest.raises(meta.Stopped, match="outer step 30 of phase rule"):
        meta.start(run, Recipe(**TINY), **tell, should_stop=should_stop)
    assert rows == meta.read_metrics(run / METRICS)
    losses = ", ".join(f"{task} {loss:.4g}" for task, loss in rows[-1]["tasks"].items())
    assert told[-1][3].endswith(f" inner steps/s\ntraining loss: {losses}")
    assert [words[:3] for words in told] == [("phase 1: rule", done, 40) for done in (0, 10, 20, 30)]
    assert told[0][3] == "compiling"
    assert told[-1][3].startswith(f"meta-loss {meta.read_metrics(run / METRICS)[-1]['meta_loss']:.4f} ")
    told.clear()
    meta.resume(run, **tell)
    assert rows == meta.read_metrics(run / METRICS)
    assert told[0][:3] == ("phase 1: rule", 30, 40)
    assert_same_theta(run, whole)


def test_a_run_prints_nothing_and_leaves_signals_alone(tmp_path, capfd):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    during = []

    def progress(*words):
        during.append([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])

    recipe = Recipe(**{**TINY, "scheduler_steps": 0})  # a program that is compiled already
    meta.start(tmp_path / "run", recipe, progress=progress)
    assert capfd.readouterr() == ("", "")
    assert during
    assert all(seen == handlers for seen in during)


def test_the_kernel_is_resolved_once_and_kept(whole):
    expected = "native" if native.available() else "xla"
    assert checkpoint.read_header(whole / _run.CHECKPOINT)["kernel"] == expected
    assert _run.resolve_kernel("xla") == "xla"


def test_an_unknown_kernel_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CeloError, match="natve"):
        meta.start(tmp_path / "run", Recipe(**TINY), kernel="natve")
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Toy(LearnedOptimizer):
    """Gradient descent with a learned rate, which also learns how much of the loss it divides by."""

    kernel: str = "auto"
    theta_groups = ("rate", "loss")

    def init_theta(self, key):
        return {"rate": {"log": -3.0 + 0.1 * jax.random.normal(key)}, "loss": {"power": jnp.zeros(())}}

    def init(self, theta, params, num_steps):
        return jnp.zeros((), jnp.int32)

    def update(self, theta, grads, state, params, *, value):
        rate = jnp.exp(theta["rate"]["log"]) / (1.0 + value) ** theta["loss"]["power"]
        return jax.tree.map(lambda g: -rate * g, grads), state + 1


@pytest.fixture
def toy(monkeypatch):
    """The name under which the toy is registered."""
    entry = Entry(Toy, lambda *_, **settings: None, (TrainingPhase("rule", Toy.theta_groups, Toy),))
    monkeypatch.setitem(OPTIMIZERS, "toy", entry)
    return "toy"


@pytest.mark.slow
def test_a_registered_optimizer_with_one_phase_trains_resumes_and_is_measured(tmp_path, toy):
    recipe = Recipe(**{**OF_ANY, "optimizer": toy, "rule_steps": 20, "scheduler_steps": 100})
    path = meta.start(tmp_path / "whole", recipe)
    assert {row["phase"] for row in meta.read_metrics(tmp_path / "whole" / METRICS)} == {"rule"}
    stopped = tmp_path / "stopped"
    with pytest.raises(meta.Stopped):
        meta.start(stopped, recipe, should_stop=lambda: True)
    meta.resume(stopped)
    assert_same_theta(stopped, tmp_path / "whole")
    trained = weights.load(path)
    assert trained.metadata["architecture"] == toy
    start = Toy().init_theta(jax.random.split(jax.random.key(0), 2)[0])
    assert trained.theta["rate"]["log"] != start["rate"]["log"]
    assert trained.theta["loss"]["power"] != 0
    stored = Recipe(**trained.facts["recipe"])
    assert stored == recipe
    assert np.isfinite(meta.measure(trained.theta, stored, problems=2).meta_loss)


@pytest.mark.slow
def test_a_resumed_run_imports_what_registers_its_optimizer(tmp_path, monkeypatch, toy):
    (tmp_path / "registers_it.py").write_text(
        "from celo.optimizers import OPTIMIZERS\n"
        "OPTIMIZERS['toy'] = OPTIMIZERS['waiting']\n"  # stands for the user's own entry
    )
    monkeypatch.syspath_prepend(tmp_path)
    run, recipe = tmp_path / "run", Recipe(**{**OF_ANY, "optimizer": toy, "rule_steps": 20})
    with pytest.raises(meta.Stopped):
        meta.start(run, recipe, imports=["registers_it"], should_stop=lambda: True)
    monkeypatch.setitem(OPTIMIZERS, "waiting", OPTIMIZERS[toy])
    monkeypatch.delitem(OPTIMIZERS, toy)
    assert meta.resume(run).exists()
    monkeypatch.delitem(sys.modules, "registers_it")
    (tmp_path / "registers_it.py").unlink()
    with pytest.raises(CeloError, match="no module 'registers_it'"):
        meta.resume(run)


HEADER = {
    "recipe": {},
    "kernel": "xla",
    "imports": [],
    "phase": 0,
    "rows": 0,
    "seconds": 0.0,
    "version": "0.0.1",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: None}, f"header has {name}=None") for name in HEADER if name != "version"),
        ({"phase": "0"}, "header has phase='0'"),
        ({"imports": "json"}, "header has imports='json'"),
        ({"phase": 9}, "no phase 9"),
        ({"recipe": {"colour": "red"}}, "unknown field 'colour'"),
        ({"recipe": {"rule_steps": "many"}}, "recipe is none that this version"),
        ({"recipe": {"tasks": 7}}, "recipe is none that this version"),
        ({"recipe": {"tasks": ["gone"]}}, "unknown task 'gone'"),
    ],
)
def test_a_checkpoint_of_another_version_is_refused_with_the_version_that_wrote_it(tmp_path, change, message):
    checkpoint.save(tmp_path / _run.CHECKPOINT, {}, {**HEADER, **change})
    with pytest.raises(CeloError, match=rf"{message}.*resume with the version that wrote it \(0\.0\.1\)"):
        meta.resume(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_between_checkpoint_and_log_is_said_in_a_line():
    run = object.__new__(_run._Run)
    run.metrics = Path("/dev/full")
    with (
        pytest.raises(CeloError, match=r"/dev/full: cannot be written \(No space left on device\).*resume"),
        run._writing_log(),
        run.metrics.open("a") as log,
    ):
        log.write("a row")
