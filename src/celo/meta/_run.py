"""A meta-training run: all phases, from the start or a checkpoint to weights, with a log.

With several processes (`celo.meta._hosts`) all compute, and process 0 alone reads and writes the folder.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from celo import __version__, _tree, weights
from celo._errors import CeloError
from celo._files import held, make_folder, write_file
from celo._import_path import import_modules
from celo._kernels import native
from celo._types import Progress, Theta
from celo.meta import _checkpoint as checkpoint
from celo.meta import _hosts as hosts
from celo.meta import _imitation as imitation
from celo.meta._outer_step import OuterMetrics, OuterState, PhaseProgram
from celo.meta._phases import first_theta, kinds_of, largest_model, last_theta, phases, task_families
from celo.meta._recipes import Recipe
from celo.meta._summary import METRICS
from celo.tasks._base import TaskFamily

STEPS_PER_CALL = 10  # outer steps in one dispatch, and in one row of the log
CHECKPOINT, THETA = "checkpoint.npz", "theta.safetensors"  # files in the folder of a run, beside METRICS


class Stopped(Exception):
    """The run was asked to stop and has saved its state; it can be resumed."""


def start(
    run: str | os.PathLike[str],
    recipe: Recipe,
    *,
    kernel: str = "auto",
    checkpoint_seconds: float = 120.0,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Runs `recipe` from its beginning in the new folder `run`; returns the path of the weights.

    Args:
      run: folder for the checkpoint, the log (metrics.jsonl) and the weights (theta.safetensors).
      recipe: of the run.
      kernel: what computes Celo's update rule, as `resolve_kernel` takes it; the run keeps it when resumed.
      checkpoint_seconds: time between two checkpoints.
      imports: modules that `resume` must import first, because they register what the recipe names.
      progress: told how far the run is, every few outer steps.
      on_row: told each row of the log, on process 0 alone; a resumed run repeats those after the checkpoint.
      should_stop: asked every few outer steps; once it says True, on any process, the run stops.

    Raises:
      CeloError: if the folder already holds a run, another process is at work in it, the recipe's tasks or
        the kernel are not available here, or the processes of a run were started differently.
      Stopped: when asked to stop, with a checkpoint written.
    """
    run, kernel = Path(run), resolve_kernel(kernel)
    settings = {"recipe": dataclasses.asdict(recipe), "kernel": kernel, "imports": list(imports)}
    hosts.check_same_settings(settings)
    hosts.together(lambda: native.check_kernel(kernel))  # refused before anything is written
    hosts.on_first(lambda: _make_folder(run))
    with _alone(run):
        return _Run(run, recipe, kernel, imports, checkpoint_seconds, progress, on_row, should_stop).finish(
            None
        )


def resume(
    run: str | os.PathLike[str],
    *,
    checkpoint_seconds: float = 120.0,
    progress: Progress | None = None,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Goes on from the checkpoint in `run`, to the same θ, bit for bit, as if never interrupted.

    Devices and processes may differ from those before; θ then is the same up to the order of sums.

    Args:
      run: folder of a run that has started.
      checkpoint_seconds: as in `start`; so are the next two.
      progress: told how far the run is.
      on_row: as in `start`.
      should_stop: asked whether to stop.

    Raises:
      CeloError: if there is no readable checkpoint, a module that the run imports is missing, or as `start`.
      Stopped: as `start`.
    """
    run = Path(run)
    hosts.check_same_settings({"resume": True})
    with _alone(run):
        saved = hosts.from_first(lambda: checkpoint.read(run / CHECKPOINT))
        header = _checked(checkpoint.read_header(saved))
        hosts.together(lambda: import_modules(header["imports"]))
        recipe, kernel, imports = _recipe_of(header), header["kernel"], header["imports"]
        return _Run(run, recipe, kernel, imports, checkpoint_seconds, progress, on_row, should_stop).finish(
            saved
        )


def resolve_kernel(kernel: str) -> str:
    """ "auto" as the kernel that a run takes: native on a CPU where it works, else "xla"; others as they are.

    Unlike elsewhere the number of devices does not matter: each computes its own particles.
    """
    return ("native" if native.available() else "xla") if kernel == "auto" else kernel


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """No other run in the same folder, which would write over this one's; process 0 holds it for all."""
    with contextlib.ExitStack() as stack:

        def hold() -> None:
            if run.is_dir():  # without one there is no checkpoint either, which is said in its place
                stack.enter_context(held(run, "wait for it, stop it, or choose another folder for the run"))

        hosts.on_first(hold)
        yield


# What the header of a checkpoint holds, and of what type; "format" and "version" besides.
_HEADER = {"recipe": dict, "kernel": str, "imports": list, "phase": int, "rows": int, "seconds": float | int}


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    for name, kind in _HEADER.items():
        if not isinstance(header.get(name), kind):
            raise CeloError(
                f"the checkpoint's header has {name}={header.get(name)!r}, which this version of celo does "
                f"not read; resume with the version that wrote it ({header.get('version', 'not recorded')})"
            )
    return header


def _recipe_of(header: dict[str, Any]) -> Recipe:
    """The recipe of a run, once the modules are imported that register what it names.

    Fields that are newer than the checkpoint have their defaults, which change nothing.
    """
    try:
        if unknown := sorted(set(header["recipe"]) - {field.name for field in dataclasses.fields(Recipe)}):
            raise CeloError(f"unknown field {unknown[0]!r}")
        recipe = Recipe(**header["recipe"])
        if not 0 <= header["phase"] < len(phases(recipe)):
            raise CeloError(f"no phase {header['phase']}")
    except (CeloError, TypeError, ValueError, AttributeError) as error:  # of a field of another type
        raise CeloError(
            f"the checkpoint's recipe is none that this version of celo reads ({error}); resume with the "
            f"version that wrote it ({header.get('version', 'not recorded')})"
        ) from error
    return recipe


def _make_folder(run: Path) -> None:
    if (run / CHECKPOINT).exists() or (run / METRICS).exists():
        raise CeloError(f"{run} already holds a run; resume it, or choose another folder")
    make_folder(run, "choose another folder for the run")


class _Run:
    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        kernel: str,
        imports: Sequence[str],
        checkpoint_seconds: float,
        progress: Progress | None,
        on_row: Callable[[Mapping[str, Any]], None] | None,
        should_stop: Callable[[], bool] | None,
    ):
        self.run, self.recipe, self.kernel, self.imports = run, recipe, kernel, list(imports)
        self.checkpoint_seconds = checkpoint_seconds
        self.progress = progress or (lambda what, done, total, note: None)
        self.on_row = (on_row if hosts.is_first() else None) or (lambda row: None)
        self.should_stop = should_stop or (lambda: False)
        self.metrics = run / METRICS if hosts.is_first() else Path(os.devnull)
        self.phases = phases(recipe)
        self.families = hosts.together(self._all_families)  # a host may lack the data
        self.key_theta, *self.keys = jax.random.split(jax.random.key(recipe.seed), 1 + len(self.phases))
        self.seconds = 0.0  # training only, that before a resumption included

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
        for number in range(first, len(self.phases)):
            at = restored if number == first else None
            if at is None and self.phases[number].name == "scheduler":
                theta = self._imitate(number, theta)
            theta = self._train_phase(number, theta, at)
        return self._write_weights(last_theta(self.recipe, theta))

    def _imitate(self, number: int, theta: Theta) -> Theta:
        """θ with a scheduler that says a linear decay; unchanged if the recipe has no imitation steps.

        Process 0 fits it for all: processes on different hardware would not end with the same bits.
        """
        steps = self.recipe.imitation_steps
        if steps == 0:
            return theta

        def fit() -> bytes:
            self.progress("imitation", 0, steps, "recording")
            began = time.monotonic()
            # Derived from the phase's key, which the phase itself will only split.
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
            fitted = imitation.imitate(theta["scheduler"], seen, key_fit, steps=steps, progress=self.progress)
            return checkpoint.pack(fitted, {"seconds": time.monotonic() - began})

        packed = hosts.from_first(fit)
        self.seconds += checkpoint.read_header(packed)["seconds"]
        return {**theta, "scheduler": jax.device_get(checkpoint.load(packed, theta["scheduler"]))}

    def _train_phase(self, number: int, theta: Theta, restored: tuple[OuterState, Theta] | None) -> Theta:
        """θ after the phase, which begins with a whole θ or goes on from a restored state."""
        phase = self.phases[number]
        program = PhaseProgram(self.recipe, phase, self.families[number], self.kernel)
        what = f"phase {number + 1}: {phase.name}"
        if restored is None:
            self.progress(what, 0, phase.steps, "compiling")
            state, frozen = program.init(theta, self.keys[number])
            self._save(number, state, frozen)
        else:
            state, frozen = program.place(*restored)
            self.progress(what, int(state.step), phase.steps, "compiling")
        step, saved = int(state.step), time.monotonic()
        with self._writing_log(), self.metrics.open("a") as log:
            while step < phase.steps:
                began = time.monotonic()
                count = min(STEPS_PER_CALL, phase.steps - step)
                state, metrics = program.advance(state, frozen, count)
                metrics = jax.device_get(metrics)
                seconds = time.monotonic() - began
                step, self.seconds = step + count, self.seconds + seconds
                speed = float(metrics.inner_steps) * count / seconds
                row = self._row(number, step, metrics, program.pairs, speed)
                log.write(json.dumps(row) + "\n")
                log.flush()
                self.on_row(row)
                self.progress(what, step, phase.steps, _note(row))
                due = time.monotonic() - saved > self.checkpoint_seconds
                stop, due = hosts.agree(self.should_stop(), due)
                if due or stop or step == phase.steps:
                    self._save(number, state, frozen)
                    saved = time.monotonic()
                if stop and step < phase.steps:
                    raise Stopped(
                        f"stopped at outer step {step} of phase {phase.name}; state saved in {self.run}"
                    )
        return jax.device_get(_tree.united(frozen, state.average))

    @contextlib.contextmanager
    def _writing_log(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if jax.process_count() > 1:  # the others do not know of it: this process ends by itself
                raise
            raise CeloError(
                f"{self.metrics}: cannot be written ({error.strerror or error}); see to the folder's "
                "permissions and free space, then resume the run from its last checkpoint"
            ) from error

    def _restore(self, saved: bytes, number: int, theta: Theta) -> tuple[OuterState, Theta]:
        program = PhaseProgram(self.recipe, self.phases[number], self.families[number], self.kernel)
        return checkpoint.load(saved, program.shapes(theta, self.keys[number]))

    def _save(self, number: int, state: OuterState, frozen: Theta) -> None:
        header = {
            "recipe": dataclasses.asdict(self.recipe),
            "kernel": self.kernel,
            "imports": self.imports,
            "phase": number,
            "rows": _count_rows(self.metrics),
            "seconds": self.seconds,
            "version": __version__,
        }
        whole = hosts.gather((state, frozen))
        hosts.on_first(lambda: checkpoint.save(self.run / CHECKPOINT, whole, header))

    def _row(self, number: int, step: int, metrics: OuterMetrics, pairs: int, speed: float) -> dict[str, Any]:
        kinds = kinds_of(self.families[number])
        return {
            "phase": self.phases[number].name,
            "outer_step": step,
            "meta_loss": float(metrics.meta_loss),
            "tasks": dict(zip(kinds, metrics.task_losses.tolist(), strict=True)),
            "gradient_norm": float(metrics.gradient_norm),
            "gradient_snr": signal_to_noise(
                float(metrics.gradient_square), float(metrics.pair_square), pairs
            ),
            "nonfinite_fraction": float(metrics.nonfinite),
            "inner_steps_per_second": round(speed, 1),
            "seconds": round(self.seconds, 3),
        }

    def _write_weights(self, theta: Theta) -> Path:
        metadata = {
            "architecture": self.recipe.optimizer,
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "tasks": ",".join(dict.fromkeys(kind for part in self.families for kind in kinds_of(part))),
            "largest_model": str(max(map(largest_model, self.families))),
            "version": __version__,
        }
        path = self.run / THETA
        hosts.on_first(lambda: weights.save(path, jax.tree.map(np.asarray, theta), metadata=metadata))
        return path


def _note(row: dict[str, Any]) -> str:
    """What people want to know of a row: one line, and one of the tasks."""
    speed = f"{row['inner_steps_per_second']:,.0f} inner steps/s"
    tasks = ", ".join(f"{task} {loss:.4g}" for task, loss in row["tasks"].items())
    return f"meta-loss {row['meta_loss']:.4f} {speed}\ntraining loss: {tasks}"


def signal_to_noise(gradient_square: float, pair_square: float, pairs: int) -> float | None:
    """Signal over noise of a meta-gradient, in squared lengths, from how far pairs are apart.

    The mean of N independent estimates has 1/N of the variance of one. What pairs of different tasks differ
    by counts as noise. Around 0, and as often below it, where the gradient is nothing but noise.

    Args:
      gradient_square: squared norm of the mean over pairs, an average over outer steps.
      pair_square: mean over pairs of the squared norm of each one's own estimate, averaged likewise.
      pairs: their number N.

    Returns:
      None if there is one pair only, no noise, or the estimator does not say.
    """
    noise = (pair_square - gradient_square) / (pairs - 1) if pairs > 1 else math.nan
    return (gradient_square - noise) / noise if noise > 0 and math.isfinite(noise) else None


def _count_rows(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _drop_rows_after(path: Path, rows: int) -> None:
    """Removes what was logged after the checkpoint: it will happen, and be logged, again."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    write_file(path, b"".join(lines[:rows]))
