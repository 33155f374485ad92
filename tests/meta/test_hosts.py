"""The same run on any number of devices and processes; what crosses them; and the loss of a process.

On another number of devices sums over particles are taken in another order, and nothing else differs.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from marks import slow_are_run

from celo import weights
from celo._errors import CeloError
from celo.cli import main
from celo.meta import _checkpoint as checkpoint
from celo.meta import _hosts as hosts
from celo.meta import _outer_step as outer
from celo.meta._recipes import Recipe
from celo.meta._run import CHECKPOINT, THETA, start
from celo.meta._summary import METRICS, read_metrics
from celo.optimizers import Celo

# Largest difference between two θ, as a part of how far θ has moved; 5e-7 is the most that was met.
TOLERANCE = 1e-5

RECIPE = {
    "tasks": "quadratic",
    "rule_steps": 20,
    "scheduler_steps": 0,
    "pairs_per_task": 8,
    "truncation_length": 5,
    "horizon_min": 5,
    "horizon_max": 20,
    "rule_learning_rate": 1e-3,
    "scheduler_learning_rate": 1e-3,
}
CELO = [sys.executable, "-c", "import sys; from celo.cli import main; sys.exit(main(sys.argv[1:]))"]
ENVIRONMENT = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def flags(**fields):
    return [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]


def new_run(folder, **fields):
    """The words that start RECIPE with other `fields`."""
    return ["--recipe", "celo", "--kernel", "xla", "--out", folder, *flags(**{**RECIPE, **fields})]


@contextlib.contextmanager
def processes(folder, *commands):
    """`celo train` in one process for each list of words, joined over loopback; their output is in files."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        started = []
        for number, words in enumerate(commands):
            joined = flags(coordinator=coordinator, num_processes=len(commands), process_id=number)
            command = [*CELO, "train", *map(str, words), *(joined if len(commands) > 1 else [])]
            output = stack.enter_context((folder / f"output-{number}").open("w"))
            process = subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        yield started


def outputs(folder):
    return [path.read_text() for path in sorted(folder.glob("output-*"))]


def finish(folder, *commands):
    """Runs them to their end; their exit statuses."""
    with processes(folder, *commands) as started:
        return [process.wait(timeout=1800) for process in started]


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "header"}


def movement_apart(theta, other, start):
    """‖θ - θ'‖ / ‖θ - θ at the start‖ over arrays of the same names."""
    square = {name: np.sum((theta[name] - other[name]) ** 2) for name in theta}
    moved = {name: np.sum((theta[name] - start[name]) ** 2) for name in theta}
    return np.sqrt(sum(square.values()) / sum(moved.values()))


# Quick tests are of two devices: most of the time goes into programs, and each number of devices has its own.
TWO_OR_EIGHT = [2, pytest.param(8, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def topologies(request, tmp_path_factory):
    """The folder of what topologies.py writes, of the numbers of devices that the tests to be run need."""
    folder = tmp_path_factory.mktemp("topologies")
    slow = slow_are_run(request)
    counts = ["1", "2", *(["8"] if slow else [])]
    script = Path(__file__).with_name("topologies.py")
    flags = os.environ.get("XLA_FLAGS", "")
    if slow:  # as users have them: the loops of quick tests round differently in arrays of other sizes
        flags = flags.replace("fusion_emitters=false", "fusion_emitters=true")
    subprocess.run(
        [sys.executable, script, folder, *counts], check=True, env={**os.environ, "XLA_FLAGS": flags}
    )
    return folder


def theta_in(path):
    return {name: array for name, array in arrays(path).items() if name.startswith("[0].theta")}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_theta_is_the_same_on_any_number_of_devices(topologies, count):
    start = theta_in(topologies / "start-1.npz")
    one, many = theta_in(topologies / "end-1.npz"), theta_in(topologies / f"end-{count}.npz")
    assert movement_apart(one, many, start) < TOLERANCE


@pytest.mark.parametrize("moment", ["start", "middle", "end"])
@pytest.mark.parametrize("count", TWO_OR_EIGHT)
def test_everything_drawn_at_random_is_the_same_to_the_bit(topologies, moment, count, request):
    """Perturbations, tasks, horizons and keys, after resets too; at the start all, compiled as for users."""
    one, many = arrays(topologies / f"{moment}-1.npz"), arrays(topologies / f"{moment}-{count}.npz")
    drawn = [name for name in one if re.search(r"epsilon|\.task|num_steps|\.step$|\.number|key", name)]
    assert {"[0].key", "[0].step"} < set(drawn)
    assert any("epsilon" in name for name in drawn)
    assert any(".task" in name for name in drawn)
    for name in one if moment == "start" and slow_are_run(request) else drawn:
        np.testing.assert_array_equal(one[name], many[name], err_msg=name)


@pytest.mark.parametrize("count", TWO_OR_EIGHT)
def test_data_are_the_same(topologies, count):
    """The inner parameters come from data of which each step has its own."""
    one, many = arrays(topologies / "end-1.npz"), arrays(topologies / f"end-{count}.npz")
    for side in ("positive", "negative"):
        name = f"[0].estimators[0].{side}.params['x']"
        np.testing.assert_allclose(one[name], many[name], rtol=0, atol=1e-4)
        assert np.ptp(one[name]) > 0.1


@pytest.mark.parametrize("count", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_checkpoint_resumes_on_other_devices(topologies, count):
    start = theta_in(topologies / "start-1.npz")
    whole, resumed = theta_in(topologies / "end-2.npz"), theta_in(topologies / f"resumed-{count}.npz")
    assert movement_apart(whole, resumed, start) < TOLERANCE


def collectives(program):
    """(operation, bytes) of every collective in a compiled program; all numbers in it have four bytes."""
    names = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    found = re.findall(rf"= (.*?) ({names})(?:-start)?\(", program)
    sizes = [
        (
            name,
            [np.prod([int(n) for n in shape.split(",") if n]) for shape in re.findall(r"32\[(.*?)\]", kind)],
        )
        for kind, name in found
    ]
    return [(name, 4 * int(sum(size))) for name, size in sizes]


@pytest.mark.parametrize(("count", "pairs"), [(2, [8]), pytest.param(8, [8, 16], marks=pytest.mark.slow)])
def test_only_the_gradient_and_scalars_cross_devices(topologies, count, pairs):
    """One all-reduce in the loop, θ and three scalars; one after it, a scalar a kind and one more."""
    theta = theta_in(topologies / "start-1.npz")
    size = sum(array.nbytes for array in theta.values())
    assert size == 4 * 154
    for number in pairs:
        program = (topologies / f"program-{count}-{number}.hlo").read_text()
        assert collectives(program) == [("all-reduce", size + 3 * 4), ("all-reduce", 2 * 4)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the run in this one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    start(run, Recipe(**RECIPE), kernel="xla")
    return run


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """The folder of the same run in two processes, which were told of different ones."""
    folder = tmp_path_factory.mktemp("joined")
    assert finish(folder, new_run(folder / "run"), new_run(folder / "other")) == [0, 0], outputs(folder)
    return folder


def final_theta(run):
    return weights.flatten(weights.load(run / THETA).theta)


def initial_theta():
    return weights.flatten(Celo().init_theta(jax.random.split(jax.random.key(0), 2)[0]))


@pytest.mark.slow
def test_two_processes_come_to_the_same_theta(alone, joined):
    assert movement_apart(final_theta(alone), final_theta(joined / "run"), initial_theta()) < TOLERANCE
    rows = [read_metrics(run / METRICS) for run in (alone, joined / "run")]
    assert [row["outer_step"] for row in rows[0]] == [row["outer_step"] for row in rows[1]]
    for one, other in zip(*rows, strict=True):
        np.testing.assert_allclose(one["meta_loss"], other["meta_loss"], rtol=1e-5)


@pytest.mark.slow
def test_only_the_first_process_writes(joined):
    assert not (joined / "other").exists()
    first, second = outputs(joined)
    assert "weights:" in first
    assert "meta-loss" not in second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--coordinator 10.0.0.1:1", ["--num-processes and --process-id missing", "--distributed"]),
        ("--distributed --process-id 1", ["--coordinator and --num-processes missing"]),
        ("--coordinator 10.0.0.1:1 --num-processes 2 --process-id 2", ["from 0 to 1", "got 2"]),
        ("--coordinator 10.0.0.1:1 --num-processes 0 --process-id 0", ["--num-processes", "got 0"]),
        ("--coordinator node7 --num-processes 2 --process-id 0", ["HOST:PORT", "'node7'"]),
    ],
)
def test_half_an_address_is_refused(capsys, words, said):
    assert main(["train", *words.split()]) == 2
    message = capsys.readouterr().err
    assert all(text in message for text in said), message
    assert "joining" not in message


def test_several_processes_need_devices_that_divide_the_particles(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    with pytest.raises(CeloError, match=r"8 particles.*6 devices of 2 processes.*pairs_per_task"):
        outer._devices((8,))


def wait_for_rows(run, rows, process):
    while len(read_metrics(run / METRICS)) < rows:
        assert process.poll() is None
        time.sleep(0.01)


LONG = {"rule_steps": 100_000}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_is_killed_the_others_say_so_and_end(tmp_path, killed):
    run = tmp_path / "run"
    words = [*new_run(run, **LONG), "--checkpoint-seconds", "1e-9"]
    with processes(tmp_path, words, words) as started:
        wait_for_rows(run, 3, started[0])
        started[killed].kill()
        status = started[1 - killed].wait(timeout=hosts.HEARTBEAT_SECONDS + 30)
        rows = len(read_metrics(run / METRICS))
    assert status != 0
    message = outputs(tmp_path)[1 - killed]
    assert "has lost another process" in message or "another task died" in message
    assert checkpoint.read_header(run / CHECKPOINT)["rows"] >= rows - 1
    with processes(tmp_path / "resumed", ["--resume", run]) as (process,):
        wait_for_rows(run, rows + 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 130
    steps = [row["outer_step"] for row in read_metrics(run / METRICS)]
    assert steps == list(range(10, 10 * len(steps) + 1, 10))


@pytest.mark.slow
def test_a_stop_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    with processes(tmp_path, *[new_run(run, **LONG)] * 2) as started:
        wait_for_rows(run, 3, started[0])
        started[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=300) for process in started] == [130, 130]
    rows = read_metrics(run / METRICS)
    assert checkpoint.read_header(run / CHECKPOINT)["rows"] == len(rows)
    assert f"celo train --resume {run}" in outputs(tmp_path)[0]


@pytest.mark.slow
def test_a_run_goes_over_from_one_process_to_two(tmp_path, alone):
    """Only process 0 has the run's folder."""
    run = tmp_path / "run"
    with processes(tmp_path, [*new_run(run), "--checkpoint-seconds", "1e-9"]) as (process,):
        wait_for_rows(run, 1, process)
        process.kill()
    assert not (run / THETA).exists()
    resumed = tmp_path / "resumed"
    assert finish(resumed, ["--resume", run], ["--resume", tmp_path / "none"]) == [0, 0], outputs(resumed)
    assert movement_apart(final_theta(alone), final_theta(run), initial_theta()) < TOLERANCE


@pytest.mark.slow
def test_processes_started_unlike_one_another_all_refuse(tmp_path):
    assert finish(tmp_path, new_run(tmp_path / "run"), new_run(tmp_path / "run", seed=1)) == [2, 2]
    assert all("process 1 was started differently" in text for text in outputs(tmp_path))
    assert not (tmp_path / "run").exists()
