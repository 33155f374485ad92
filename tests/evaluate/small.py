"""A small evaluation for tests: one short task, four rates, and a pool that runs in this process."""

from concurrent.futures import Executor, Future

import numpy as np

from celo.evaluate._run import runner
from celo.evaluate._run.contestants import resolve_contestant
from celo.evaluate._run.tuning import Job
from celo.evaluate._settings import Protocol, TaskSettings

TASK = TaskSettings("quadratic", num_steps=40, eval_every=5)
PROTOCOL = Protocol(rates=(1e-3, 1e-2, 1e-1, 1e30), first_share=0.25, keep=2, tuning_seeds=(9,), seeds=(0, 1))


def job(name="adam", task=TASK):
    return Job(task, resolve_contestant(name), PROTOCOL, "xla")


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
    return runner.run_jobs(jobs, out, pool, width=lambda: 2)


def same(a, b):
    assert (a.task, a.contestant, a.rate) == (b.task, b.contestant, b.rate)
    for name in ("steps", "train_loss", "valid_loss", "rates", "rung_steps", "rung_losses"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
