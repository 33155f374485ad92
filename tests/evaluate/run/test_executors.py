"""Places where trials run: processes, an accelerator, a cluster; none changes a result."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
from small import PROTOCOL, TASK, job

from celo._errors import CeloError
from celo.evaluate._records import load_records
from celo.evaluate._report.tables import cells
from celo.evaluate._run import runner
from celo.evaluate._run.evaluation import evaluate
from celo.evaluate._score.leaderboard import leaderboard


def test_workers_of_several_threads_are_refused():
    from celo.evaluate._run import executors

    executors._check_workers("tcp://here:1", {"tcp://there:2": {"nthreads": 1}})
    with pytest.raises(CeloError, match=r"there:2 has 4 threads.*dask worker tcp://here:1 --nthreads 1"):
        executors._check_workers("tcp://here:1", {"tcp://there:2": {"nthreads": 4}})
    with pytest.raises(CeloError, match="no workers: start some"):
        executors._check_workers("tcp://here:1", {})


def test_an_accelerator_takes_one_process(monkeypatch):
    from celo.evaluate._run import executors

    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with executors.local() as pool:
        assert pool.width() == 1
        assert pool.executor.submit(os.getpid).result() == os.getpid()
    with pytest.raises(CeloError, match="4 workers: an accelerator takes one process"), executors.local(4):
        pass


@pytest.mark.slow
def test_processes_give_the_same_records(tmp_path, whole):
    from celo.evaluate._run import executors

    with executors.local(2) as pool:
        jobs = [job("adam"), job("celo")]
        assert runner.run_jobs(jobs, tmp_path, pool.executor, width=pool.width) == []
    for a, b in zip(load_records(whole), load_records(tmp_path), strict=True):
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

    from celo.evaluate._run import executors

    address, workers = cluster
    deadline = time.monotonic() + 120
    while True:
        try:
            with executors.dask(address), Client(address) as client:
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
    with executors.dask(address) as pool:
        jobs = [job("adam"), job("celo")]
        failures = runner.run_jobs(jobs, out, Killing(pool.executor), width=pool.width)
    assert failures == []
    assert workers[0].wait() == -signal.SIGKILL
    for a, b in zip(load_records(whole), load_records(out), strict=True):
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
        )
    assert failures == []
    assert {one.contestant for one in load_records(tmp_path)} == {"adam", "celo"}


def table(folder):
    """All of the leaderboard but what depends on the time of a step."""
    header, rows = cells(leaderboard(load_records(folder)))
    timed = [header.index(name) for name in ("equal-time ratio", "speedup in time", "step cost")]
    return [[cell for i, cell in enumerate(row) if i not in timed] for row in rows]


def children_of(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until(done, seconds, what):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_gone(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds processes in /proc")
def test_workers_end_with_a_killed_evaluation(tmp_path):
    """At once, not when their trials are done (this one takes hours); or as soon as their imports are."""
    words = (
        "adam",
        "--tasks",
        "quadratic",
        "--steps",
        "100000000",
        "--workers",
        "1",
        "--out",
        tmp_path / "out",
    )
    command = [sys.executable, "-m", "celo", "evaluate", *map(str, words)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    evaluation = subprocess.Popen(command, **quiet)

    def workers():
        lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children_of(evaluation.pid)}
        return [child for child, line in lines.items() if b"spawn_main" in line]

    try:
        wait_until(workers, 120, "no worker came")
        found = workers()
        # By then it has been given its trial.
        ticks = os.sysconf("SC_CLK_TCK")

        def used():
            return int(Path(f"/proc/{found[0]}/stat").read_text().split(")")[1].split()[11]) / ticks

        wait_until(lambda: used() > 1.0, 120, "the worker does not work")
    finally:
        evaluation.kill()
        evaluation.wait()
    try:
        wait_until(lambda: all(map(is_gone, found)), 120, "workers go on")
    finally:
        for worker in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
