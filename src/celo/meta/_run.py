"""A meta-training run: all phases, from start or checkpoint to weights, with progress and logs.

With several processes (`celo.meta._hosts`) all compute, and process 0 alone reads and writes the folder.
"""

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import progress as rich_progress
from rich.console import Console

from celo import __version__, weights
from celo._errors import CeloError
from celo._types import Theta
from celo.meta import _checkpoint as checkpoint
from celo.meta import _hosts as hosts
from celo.meta import _imitation as imitation
from celo.meta._first_theta import first_theta
from celo.meta._outer_step import (
    OuterState,
    PhaseProgram,
    Progress,
    kinds_of,
    largest_model,
    phases,
    task_families,
)
from celo.meta._recipes import Recipe
from celo.optimizers import Celo
from celo.tasks import TaskFamily

STEPS_PER_CALL = 10  # outer steps in one dispatch, and in one row of the log
CHECKPOINT, METRICS, THETA = "checkpoint.npz", "metrics.jsonl", "theta.safetensors"


class Stopped(Exception):
    """The run was asked to stop and has saved its state; it can be resumed."""


def start(
    run: Path, recipe: Recipe, *, console: Console, checkpoint_seconds: float = 120.0, kernel: str = "xla"
) -> Path:
    """Runs `recipe` from its beginning in the new folder `run`; returns the path of the weights.

    `kernel` computes the update rule, as in `UpdateRule`; the run keeps it when it is resumed.

    Raises:
      CeloError: if the folder already holds a run, the recipe's tasks or the kernel cannot be had, or several
        processes were started unlike one another.
      Stopped: after SIGINT or SIGTERM, on any process, with a checkpoint written.
    """
    with hosts.failing_fast(Stopped):
        hosts.check_alike({"recipe": dataclasses.asdict(recipe), "kernel": kernel})
        hosts.together(lambda: Celo(kernel))  # refuses one that cannot be had, before anything is written
        hosts.on_first(lambda: _make_folder(run))
        return _Run(run, recipe, console, checkpoint_seconds, kernel).finish(None)


def _make_folder(run: Path) -> None:
    if (run / CHECKPOINT).exists() or (run / METRICS).exists():
        raise CeloError(
            f"{run} already holds a run; go on with `celo train --resume {run}` or choose another folder"
        )
    if run.exists() and not run.is_dir():
        raise CeloError(f"{run} is a file; choose a folder for the run")
    run.mkdir(parents=True, exist_ok=True)


def resume(run: Path, *, console: Console, checkpoint_seconds: float = 120.0) -> Path:
    """Goes on from the checkpoint in `run`, to the same θ, bit for bit, as if never interrupted.

    Devices and processes may be others than before; θ then is the same up to the order of sums.

    Raises:
      CeloError: if there is no readable checkpoint; or as `start`.
      Stopped: as `start`.
    """
    with hosts.failing_fast(Stopped):
        hosts.check_alike({"resume": True})
        saved = hosts.from_first(lambda: checkpoint.read(run / CHECKPOINT))
        header = checkpoint.read_header(saved)
        recipe = Recipe(**header["recipe"])
        return _Run(run, recipe, console, checkpoint_seconds, header["kernel"]).finish(saved)


class _Run:
    def __init__(self, run: Path, recipe: Recipe, console: Console, checkpoint_seconds: float, kernel: str):
        self.run, self.recipe, self.console, self.kernel = run, recipe, console, kernel
        self.metrics = run / METRICS if hosts.is_first() else Path(os.devnull)
        self.checkpoint_seconds = checkpoint_seconds
        self.phases = phases(recipe)
        self.families = hosts.together(self._all_families)  # a host may lack the data
        self.key_theta, *self.keys = jax.random.split(jax.random.key(recipe.seed), 1 + len(self.phases))
        self.seconds = 0.0  # of earlier sessions and of this one, training only

    def _all_families(self) -> list[tuple[TaskFamily, ...]]:
        """Those of each phase; phases on the same tasks share them, and so the data."""
        made: dict[tuple[str, ...], tuple[TaskFamily, ...]] = {}
        for phase in self.phases:
            names = self.recipe.families(phase.name)
            if names not in made:
                made[names] = task_families(self.recipe, phase)
        return [made[self.recipe.families(phase.name)] for phase in self.phases]

    def finish(self, saved: bytes | None) -> Path:
        """Trains to the end of the last phase, from the beginning or from a checkpoint's bytes."""
        theta = first_theta(self.recipe, self.key_theta)
        first, restored = 0, None
        if saved is not None:
            header = checkpoint.read_header(saved)
            first, self.seconds = header["phase"], header["seconds"]
            restored = self._restore(saved, first, theta)
            hosts.on_first(lambda: _drop_rows_after(self.metrics, header["rows"]))
        with _stop_requests() as stopped, self._bar() as bar:
            for number in range(first, len(self.phases)):
                at = restored if number == first else None
                if at is None and self.phases[number].name == "scheduler":
                    theta = self._imitate(number, theta, bar)
                theta = self._train_phase(number, theta, at, stopped, bar)
        return self._write_weights(theta)

    def _imitate(self, number: int, theta: Theta, bar: rich_progress.Progress) -> Theta:
        """θ with a scheduler that says a linear decay; as it is if the recipe has no imitation steps.

        Process 0 fits it for all: processes of unlike hardware would not end with the same bits.
        """
        steps = self.recipe.imitation_steps
        if steps == 0:
            return theta
        task = bar.add_task("imitation", total=steps, loss="recording", speed="")

        def tell(step: int, error: float) -> None:
            bar.update(task, completed=step, loss=f"{error:.4f}")

        def fit() -> bytes:
            began = time.monotonic()
            # The key itself is what the phase will split.
            key_record, key_fit = jax.random.split(jax.random.fold_in(self.keys[number], steps))
            seen = imitation.record(
                theta,
                self.families[0],
                key_record,
                rows=self.recipe.pairs_per_task,
                horizon_min=self.recipe.horizon_min,
                horizon_max=self.recipe.horizon_max,
                horizon_power=self.recipe.horizon_power,
                truncation_length=self.recipe.truncation_length,
                kernel=self.kernel,
            )
            fitted = imitation.imitate(theta["scheduler"], seen, key_fit, steps=steps, tell=tell)
            return checkpoint.pack(fitted, {"seconds": time.monotonic() - began})

        packed = hosts.from_first(fit)
        self.seconds += checkpoint.read_header(packed)["seconds"]
        return {**theta, "scheduler": jax.device_get(checkpoint.load(packed, theta["scheduler"]))}

    def _train_phase(
        self,
        number: int,
        theta: Theta,
        restored: tuple[OuterState, Theta] | None,
        stopped: list[int],
        bar: rich_progress.Progress,
    ) -> Theta:
        phase = self.phases[number]
        program = PhaseProgram(self.recipe, phase, self.families[number], self.kernel)
        task = bar.add_task(
            f"phase {number + 1}: {phase.name}", total=phase.steps, loss="compiling", speed=""
        )
        if restored is None:
            state, frozen = program.init(theta, self.keys[number])
            self._save(number, state, frozen)
        else:
            state, frozen = program.place(*restored)
        step, saved = int(state.step), time.monotonic()
        with self.metrics.open("a") as log:
            while step < phase.steps:
                began = time.monotonic()
                count = min(STEPS_PER_CALL, phase.steps - step)
                state, progress = program.advance(state, frozen, count)
                progress = jax.device_get(progress)
                seconds = time.monotonic() - began
                step, self.seconds = step + count, self.seconds + seconds
                row = self._row(number, step, progress, float(progress.inner_steps) * count / seconds)
                log.write(json.dumps(row) + "\n")
                log.flush()
                speed = f"{row['inner_steps_per_second']:,.0f}/s"
                bar.update(task, completed=step, loss=f"{row['meta_loss']:.4f}", speed=speed)
                stop, due = hosts.agree(bool(stopped), time.monotonic() - saved > self.checkpoint_seconds)
                if due or stop or step == phase.steps:
                    self._save(number, state, frozen)
                    saved = time.monotonic()
                if stop and step < phase.steps:
                    raise Stopped(
                        f"stopped at outer step {step} of phase {phase.name}; state saved in {self.run}"
                    )
        return jax.device_get({**frozen, **state.average})

    def _restore(self, saved: bytes, number: int, theta: Theta) -> tuple[OuterState, Theta]:
        program = PhaseProgram(self.recipe, self.phases[number], self.families[number], self.kernel)
        return checkpoint.load(saved, program.shapes(theta, self.keys[number]))

    def _save(self, number: int, state: OuterState, frozen: Theta) -> None:
        header = {
            "recipe": dataclasses.asdict(self.recipe),
            "kernel": self.kernel,
            "phase": number,
            "rows": _count_rows(self.metrics),
            "seconds": self.seconds,
            "version": __version__,
        }
        whole = hosts.gather((state, frozen))
        hosts.on_first(lambda: checkpoint.save(self.run / CHECKPOINT, whole, header))

    def _row(self, number: int, step: int, progress: Progress, speed: float) -> dict[str, Any]:
        kinds = kinds_of(self.families[number])
        return {
            "phase": self.phases[number].name,
            "outer_step": step,
            "meta_loss": float(progress.meta_loss),
            "tasks": dict(zip(kinds, progress.task_losses.tolist(), strict=True)),
            "gradient_norm": float(progress.gradient_norm),
            "nonfinite_fraction": float(progress.nonfinite),
            "inner_steps_per_second": round(speed, 1),
            "seconds": round(self.seconds, 3),
        }

    def _write_weights(self, theta: Theta) -> Path:
        metadata = {
            "architecture": "celo",
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "tasks": ",".join(dict.fromkeys(kind for part in self.families for kind in kinds_of(part))),
            "largest_model": str(max(map(largest_model, self.families))),
            "version": __version__,
        }
        path = self.run / THETA
        hosts.on_first(lambda: weights.save(path, jax.tree.map(np.asarray, theta), metadata=metadata))
        return path

    def _bar(self) -> rich_progress.Progress:
        return rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("meta-loss {task.fields[loss]}"),
            rich_progress.TextColumn("{task.fields[speed]}"),
            rich_progress.TextColumn("ETA"),
            rich_progress.TimeRemainingColumn(),
            console=self.console,
        )


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to; a second SIGINT interrupts at once."""
    received: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        del frame
        if number in received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; a last line that a crash cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _count_rows(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _drop_rows_after(path: Path, rows: int) -> None:
    """Takes back what was logged after the checkpoint: it will happen, and be logged, again."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    weights.write_file(path, "".join(lines[:rows]).encode())
