"""Evaluations: the rule of tuning, records, what a crash leaves, and that places do not matter."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from celo import cli, weights
from celo._errors import CeloError
from celo.evaluate import _records as archive
from celo.evaluate._report.tables import cells
from celo.evaluate._run import runner
from celo.evaluate._run import tuning as trials
from celo.evaluate._run.baselines import BASELINES
from celo.evaluate._run.contestants import Contestant, contestant, contestants
from celo.evaluate._run.evaluation import evaluate
from celo.evaluate._run.suites import SuiteTask
from celo.evaluate._run.training import CurveProgram
from celo.evaluate._run.tuning import Job, Protocol, run_trial
from celo.evaluate._score.leaderboard import leaderboard
from celo.tasks import Quadratics

TASK = SuiteTask("quadratic", num_steps=40, eval_every=5)
PROTOCOL = Protocol(rates=(1e-3, 1e-2, 1e-1, 1e30), first_share=0.25, keep=2, tuning_seeds=(9,), seeds=(0, 1))
QUIET = Console(quiet=True)


def job(name="adam", task=TASK):
    return Job(task, contestant(name), PROTOCOL, "xla")


class Here(Executor):
    """Runs at once, in this process, and counts; from the trial numbered `fail` on it is as if power went."""

    def __init__(self, fail=None):
        self.trials, self.fail = [], fail

    def submit(self, fn, /, *args, **kwargs):
        if len(self.trials) == self.fail:
            raise KeyboardInterrupt
        self.trials.append(args[0])
        future = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run(jobs, out, pool):
    return runner.run_jobs(jobs, out, pool, width=lambda: 2, console=QUIET)


def same(a, b):
    assert (a.task, a.contestant, a.rate) == (b.task, b.contestant, b.rate)
    for name in ("steps", "train_loss", "valid_loss", "rates", "rung_steps", "rung_losses"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An archive of two contestants on one task, run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert run([job("adam"), job("celo")], out, Here()) == []
    return out


def test_a_record_holds_what_led_to_it(whole):
    adam, celo = archive.read_all(whole)
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
    assert celo.config["contestant"]["weights_sha256"]
    assert adam.config["protocol"]["seeds"] == [0, 1]
    assert adam.seconds_per_step > 0
    assert not (whole / runner.TRIALS).exists()


def test_the_second_rung_runs_the_best_of_the_first():
    found = run_trial(job().next_trial([]))
    second = job().next_trial([found])
    best = np.argsort(trials.final_losses(found.curve))[:2]
    assert set(second.rates) == {PROTOCOL.rates[i] for i in best}
    assert second.seeds == PROTOCOL.tuning_seeds
    assert second.stop == 40


def test_nothing_is_run_twice(whole):
    pool = Here()
    assert run([job("adam"), job("celo")], whole, pool) == []
    assert pool.trials == []


def test_a_record_with_other_settings_is_not_taken_for_the_jobs(whole):
    longer = SuiteTask("quadratic", num_steps=50, eval_every=5)
    with pytest.raises(CeloError, match=r"has adam on quadratic with num_steps 40, asked for is 50"):
        run([job("celo", longer)], whole, Here())
    other = Contestant("celo", contestant("celo").theta, {"weights_sha256": "0" * 64})
    with pytest.raises(CeloError, match="made with the contestant"):
        run([Job(TASK, other, PROTOCOL, "xla")], whole, Here())


def test_several_tasks_are_not_one(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "load_task", lambda name: Quadratics(members=("one", "other")))
    (line,) = run([job("celo")], tmp_path, Here())
    assert "is 2 tasks" in line


def test_bundled_records_of_other_settings_are_left_aside(tmp_path, capsys):
    """Runs of 30 steps are not put beside the package's of 2,000."""
    words = ["--task", "quadratic", "--steps", "30", "--kernel", "xla", "--workers", "1", "--seeds", "1"]
    assert cli.main(["evaluate", "celo", *words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "records:" in shown
    assert "loss ratio" not in shown
    assert "add adam to the command, with --resume" in " ".join(shown.split())


@pytest.mark.parametrize("survived", [0, 1, 2, 3])
def test_an_interrupted_evaluation_goes_on_with_the_next_trial(tmp_path, whole, survived):
    with pytest.raises(KeyboardInterrupt):
        run([job("adam"), job("celo")], tmp_path, Here(fail=survived))
    pool = Here()
    assert run([job("adam"), job("celo")], tmp_path, pool) == []
    assert survived + len(pool.trials) == 4
    for a, b in zip(archive.read_all(whole), archive.read_all(tmp_path), strict=True):
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
    same(archive.read_all(whole)[0], archive.read_all(tmp_path)[0])
    assert not (tmp_path / runner.TRIALS).exists()


def test_a_damaged_trial_is_run_again(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run([job("adam")], tmp_path, Here(fail=2))
    for path in (tmp_path / runner.TRIALS).iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert run([job("adam")], tmp_path, Here()) == []
    same(archive.read_all(whole)[0], archive.read_all(tmp_path)[0])


def test_a_job_that_fails_does_not_stop_the_others(tmp_path):
    bad = job("adam", SuiteTask("no_such_task", 10))
    (line,) = run([bad, job("celo")], tmp_path, Here())
    assert "adam on no_such_task" in line
    assert [record.contestant for record in archive.read_all(tmp_path)] == ["celo"]


def test_a_damaged_record_is_an_error_that_says_what_to_do(tmp_path, whole):
    path = tmp_path / "quadratic" / "adam.npz"
    path.parent.mkdir()
    path.write_bytes((whole / "quadratic" / "adam.npz").read_bytes()[:200])
    with pytest.raises(CeloError, match=r"adam.npz is damaged .* run it again"):
        archive.read(path)


def test_a_record_with_a_flipped_byte_is_whole_or_an_error(tmp_path, whole):
    data = (whole / "quadratic" / "adam.npz").read_bytes()
    path, damaged = tmp_path / "adam.npz", 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with contextlib.suppress(CeloError):
            archive.read(path)
            continue
        damaged += 1
    assert damaged > 100


def test_records_that_could_not_stand_beside_each_other_are_refused_before_anything_runs(tmp_path, whole):
    pool, more = Here(), dataclasses.replace(PROTOCOL, seeds=(0, 1, 2))
    with pytest.raises(
        CeloError, match=r"has adam on quadratic with seeds \[0, 1\], asked for is \[0, 1, 2\]"
    ):
        run([Job(TASK, contestant("lion"), more, "xla")], whole, pool)
    longer = dataclasses.replace(TASK, num_steps=50)
    with pytest.raises(CeloError, match=r"with num_steps 40, asked for is 50.*another --out"):
        run([Job(longer, contestant("lion"), PROTOCOL, "xla")], whole, pool)
    with pytest.raises(CeloError, match="made with the kernel xla, asked for is native"):
        run([Job(TASK, contestant("celo"), PROTOCOL, "native")], whole, pool)
    assert pool.trials == []


def test_the_time_left_is_told_however_far_apart_jobs_end(monkeypatch):
    bar, now = runner._bar(QUIET), [0.0]
    monkeypatch.setattr(bar, "get_time", lambda: now[0])
    shown = bar.add_task("evaluating", total=10, now="")
    for _ in range(3):
        for _ in range(600):
            now[0] += 1.0
            bar.update(shown, now="busy")
        bar.update(shown, advance=1)
    now[0] += 300.0
    bar.update(shown, now="busy")
    assert bar.tasks[0].time_remaining == pytest.approx(7 * 600, rel=0.2)


def test_an_archive_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(CeloError, match="is a file: --out is a folder"):
        evaluate(["adam"], out=tmp_path / "out", tasks=["quadratic"])


def test_workers_of_several_threads_are_refused():
    from celo.evaluate._run import executors as pools

    pools._check_workers("tcp://here:1", {"tcp://there:2": {"nthreads": 1}})
    with pytest.raises(CeloError, match=r"there:2 has 4 threads.*dask worker tcp://here:1 --nthreads 1"):
        pools._check_workers("tcp://here:1", {"tcp://there:2": {"nthreads": 4}})
    with pytest.raises(CeloError, match="no workers: start some"):
        pools._check_workers("tcp://here:1", {})


def test_a_baseline_under_another_name():
    one = contestant("slow=schedule_free_adamw")
    assert (one.name, one.tuned) == ("slow", True)
    assert one.facts == contestant("schedule_free_adamw").facts
    assert one.answer is contestant("schedule_free_adamw").answer is not None
    with pytest.raises(CeloError, match="'lion' cannot be its name; write NAME=adam"):
        contestant("lion=adam")
    with pytest.raises(CeloError, match=r"unknown contestant 'adm'.*nearest first: adam"):
        contestant("slow=adm")


def test_contestants_by_name_and_file(tmp_path):
    assert len(contestants(["baselines"])) == len(BASELINES)
    theta = tmp_path / "theta.safetensors"
    weights.save(theta, weights.load("celo").theta, metadata={"architecture": "celo"})
    assert contestant(f"mine={theta}").name == "mine"
    assert contestant(str(theta)).name == "theta"
    for text in ("adamm", f"adam={theta}", f"a/b={theta}"):
        with pytest.raises(CeloError):
            contestant(text)


def test_every_baseline_tells_its_settings():
    told = {name: contestant(name).facts for name in BASELINES}
    assert told["momentum_cosine"]["optimizer"] == "optax.sgd"
    assert "momentum=0.9, nesterov=False" in told["momentum_cosine"]["settings"]
    assert told["momentum_cosine"]["schedule"] == "linear warm-up over 5% of the steps, then a cosine to 0"
    assert told["momentum"]["schedule"] == "constant"
    assert told["muon"]["optimizer"] == "optax.contrib.muon"
    assert "warmup_steps=5% of the steps" in told["schedule_free_adamw"]["settings"]
    assert len({tuple(facts.values()) for facts in told.values()}) == len(BASELINES)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module on the path with an optimizer of one's own."""
    text = (
        "import optax\n\nnumber = 3\n\n"
        "def make(rate, num_steps):\n    return optax.sgd(rate, momentum=0.5)\n\n"
        "def asks(rate, num_steps):\n    return optax.adam(rate if rate > 0 else 0.0)\n"
    )
    (tmp_path / "own_optimizers.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_optimizers"
    sys.modules.pop("own_optimizers", None)


def test_an_optimizer_of_ones_own_is_tuned_like_any_other(tmp_path, own_module):
    out = tmp_path / "out"
    assert run([job(f"{own_module}:make"), job(f"mine={own_module}:make")], out, Here()) == []
    one, two = archive.read_all(out)
    assert (one.contestant, two.contestant) == ("make", "mine")
    assert one.rate in PROTOCOL.rates
    assert one.config["contestant"]["optimizer"] == "own_optimizers:make"
    np.testing.assert_array_equal(one.train_loss, two.train_loss)


def test_an_optimizer_that_asks_for_the_value_of_its_rate(tmp_path, own_module):
    (line,) = run([job(f"{own_module}:asks")], tmp_path, Here())
    assert "asks for the value of its learning rate, which is traced; write a schedule as a factor" in line


def test_a_task_of_ones_own_that_is_not_there_fails_alone(tmp_path):
    bad = [job("celo", SuiteTask(place, 10)) for place in ("no_such.module:task", "no_such_module:task")]
    lines = run([*bad, job("celo")], tmp_path, Here())
    assert ["there is no module 'no_such" in line for line in lines] == [True, True]
    assert [record.task for record in archive.read_all(tmp_path)] == ["quadratic"]


def test_code_of_ones_own_that_has_changed_is_not_taken_for_what_ran(tmp_path, own_module):
    with pytest.raises(KeyboardInterrupt):
        run([job(f"{own_module}:make")], tmp_path / "out", Here(fail=2))
    file = tmp_path / "own_optimizers.py"
    file.write_text(file.read_text() + "\n# changed\n")
    pool = Here()
    assert run([job(f"{own_module}:make")], tmp_path / "out", pool) == []
    assert len(pool.trials) == 3  # none of the two that had run before
    file.write_text(file.read_text() + "\n# again\n")
    with pytest.raises(CeloError, match="made with the contestant"):
        run([job(f"{own_module}:make")], tmp_path / "out", Here())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("own_optimizers:mke", "unknown attribute of own_optimizers 'mke'.*nearest first: make"),
        ("own_optimizers:number", "is a int: name a function of a learning rate"),
        ("no_such_module:make", "there is no module 'no_such_module'"),
        ("adam=own_optimizers:make", "'adam' cannot be its name"),
    ],
)
def test_slips_in_naming_an_optimizer_of_ones_own(own_module, place, words):
    with pytest.raises(CeloError, match=words):
        contestant(place)


def test_an_accelerator_takes_one_process(monkeypatch):
    from celo.evaluate._run import executors as pools

    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pools.local() as pool:
        assert pool.width() == 1
        assert pool.executor.submit(os.getpid).result() == os.getpid()
    with pytest.raises(CeloError, match="4 workers: an accelerator takes one process"), pools.local(4):
        pass


def test_a_record_tells_where_each_of_its_trials_ran(whole):
    config = archive.read(whole / "quadratic" / "adam.npz").config
    assert len(config["commits_of_trials"]) == 3
    assert config["commits_of_trials"][-1] == config["commit"]
    assert config["contestant"]["optimizer"] == "optax.adam"


def test_weights_of_celo_adam_run_as_celo_adam(tmp_path):
    theta = tmp_path / "theta.safetensors"
    scheduler = {"scheduler": weights.load("celo").theta["scheduler"]}
    weights.save(theta, scheduler, metadata={"architecture": "celo_adam"})
    params, grads = {"x": jnp.array([3.0, -300.0])}, {"x": jnp.array([1e-3, -1e3])}
    tx = contestant(str(theta)).transform(100, "xla")(1.0)
    updates, _ = tx.update(grads, tx.init(params), params, value=jnp.ones(()))
    # Adam's first step is as long for every parameter, whatever its size and gradient.
    np.testing.assert_allclose(-updates["x"][0], updates["x"][1], rtol=1e-3)
    assert updates["x"][0] < 0
    weights.save(theta, scheduler, metadata={"architecture": "celo_adm"})
    with pytest.raises(CeloError, match="unknown architecture 'celo_adm'; known, nearest first: celo_adam"):
        contestant(str(theta))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (9,), "tuning_seeds": (9,)}, r"seeds \[9\]"),
        ({"first_share": 0.0}, "first_share"),
        ({"keep": 0}, "keep"),
    ],
)
def test_bad_protocols(settings, words):
    with pytest.raises(CeloError, match=words):
        Protocol(**settings)


def test_the_command_refuses_to_mix_with_an_older_archive(tmp_path, whole, capsys):
    assert cli.main(["evaluate", "adam", "--task", "quadratic", "--out", str(whole)]) == 2
    assert "--resume" in capsys.readouterr().err
    for words in (["--suite", "lap"], ["--suite", "probe", "--task", "quadratic"], ["--task", "quad"]):
        assert cli.main(["evaluate", "adam", "--out", str(tmp_path / "new"), *words]) == 2
    assert cli.main(["evaluate", "adam", "--out", str(tmp_path / "new"), "--steps", "0"]) == 2


@pytest.mark.slow
def test_processes_give_the_same_records(tmp_path, whole):
    from celo.evaluate._run import executors as pools

    with pools.local(2) as pool:
        jobs = [job("adam"), job("celo")]
        assert runner.run_jobs(jobs, tmp_path, pool.executor, width=pool.width, console=QUIET) == []
    for a, b in zip(archive.read_all(whole), archive.read_all(tmp_path), strict=True):
        np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=1e-4)
        assert a.rate == b.rate


@pytest.fixture
def cluster(tmp_path):
    """(address, worker processes) of a Dask scheduler with two workers, each a process of its own."""
    pytest.importorskip("distributed", reason="needs celo[cluster]")
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = (sys.executable, "-m", "distributed.cli.dask_scheduler")
    scheduler = subprocess.Popen(
        (*command, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)), **quiet
    )
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    command = (sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file))
    flags = ("--nthreads", "1", "--no-dashboard", "--no-nanny")
    workers = [subprocess.Popen((*command, *flags), **quiet) for _ in range(2)]
    import json

    try:
        yield json.loads(file.read_text())["address"], workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path, whole, cluster):
    from distributed import Client

    from celo.evaluate._run import executors as pools

    address, workers = cluster
    deadline = time.monotonic() + 120
    while True:
        try:
            with pools.dask(address), Client(address) as client:
                if len(client.scheduler_info()["workers"]) == 2:
                    break
        except CeloError:
            pass
        assert time.monotonic() < deadline, "the workers did not come"
        time.sleep(0.5)
    killed = []

    class Killing(Executor):
        """Kills one worker once it has been given a second trial."""

        def __init__(self, pool):
            self.pool = pool

        def submit(self, fn, /, *args, **kwargs):
            future = self.pool.submit(fn, *args)
            killed.append(future)
            if len(killed) == 2:
                time.sleep(1.0)
                os.kill(workers[0].pid, signal.SIGKILL)
            return future

    out = tmp_path / "out"
    with pools.dask(address) as pool:
        jobs = [job("adam"), job("celo")]
        failures = runner.run_jobs(jobs, out, Killing(pool.executor), width=pool.width, console=QUIET)
    assert failures == []
    assert workers[0].wait() == -signal.SIGKILL
    for a, b in zip(archive.read_all(whole), archive.read_all(out), strict=True):
        np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=1e-4)
        assert a.rate == b.rate
    assert table(out) == table(whole)


@pytest.mark.slow
def test_a_cluster_whose_workers_come_late(tmp_path, whole):
    """As `dask_jobqueue`'s, which have none until the queue grants some."""
    distributed = pytest.importorskip("distributed", reason="needs celo[cluster]")
    settings = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=0, **settings) as cluster:
        cluster.adapt(minimum=0, maximum=2)
        failures = evaluate(
            ["adam", "celo"],
            tasks=["quadratic"],
            num_steps=TASK.num_steps,
            protocol=PROTOCOL,
            out=tmp_path,
            scheduler=cluster,
            console=QUIET,
        )
    assert failures == []
    assert {one.contestant for one in archive.read_all(tmp_path)} == {"adam", "celo"}


def table(folder):
    """All of the leaderboard but what depends on the time of a step."""
    header, rows = cells(leaderboard(archive.read_all(folder)))
    timed = [header.index(name) for name in ("ratio in time", "speedup in time", "step cost")]
    return [[cell for i, cell in enumerate(row) if i not in timed] for row in rows]
