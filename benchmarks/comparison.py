"""Learned optimizers at equal meta-training compute: what Celo's paper (arXiv 2501.12670) says of them.

    python -m benchmarks.comparison rates --out results/comparison --minutes 30   # a learning rate for each
    python -m benchmarks.comparison train --out results/comparison                # three seeds of each
    python -m benchmarks.comparison evaluate --out results/comparison             # on suite `laptop`
    python -m benchmarks.comparison report --out results/comparison               # table, claims and figure

Every variant has the tasks, estimator, objective and horizons of recipe `quick`, fresh weights as its authors
have them, and the same CPU time of one core for its outer steps; compiling comes on top. Its learning rate is
chosen in runs of a tenth of the time with a seed of their own, by the meta-loss without perturbations and
augmentation: the same three rates for all, and more on a side while the best is the last on it. Celo's phases
share the outer steps as in `quick`, three to one. A result is the loss ratio on `laptop` beside tuned Adam,
with one evaluation seed for each training. Celo2-base runs at the constant rate that it was trained with.

All that has finished is kept and not run again; a training that was stopped goes on from its checkpoint. What
counts is in comparison.json; checkpoints, weights and records lie in the folder `runs` beside it.
"""

import argparse
import dataclasses
import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.comparison_results import (
    AUGMENTATIONS,
    BASELINES,
    EVALUATION_SEED,
    JOINT,
    SUITE,
    draw,
    scores_of,
    table,
    verdicts,
)
from celo import weights
from celo._errors import CeloError, in_a_line
from celo._files import held, make_folder, write_file
from celo._kernels import native
from celo._provenance import commit
from celo.evaluate import Protocol, evaluate, load_records
from celo.evaluate._records import bundled_archive
from celo.evaluate._run import executors as pools
from celo.meta import Recipe, make_recipe, measure, read_metrics, resume, start
from celo.meta._run import CHECKPOINT, STEPS_PER_CALL
from celo.meta._summary import METRICS
from celo.optimizers import OPTIMIZERS, Celo, Entry, TrainingPhase, celo

SHARES = {"rule": 3, "scheduler": 1}  # of the outer steps, for the phases that an optimizer has of these
RATES = (2.5e-4, 1e-3, 4e-3, 1.6e-2, 6.4e-2)
FIRST_RATES = RATES[1:4]
TRIAL_SHARE, TRIAL_SEED = 0.1, 1000
SPEED_STEPS = 60  # outer steps of a phase, for a first estimate of what one costs
LEAST_STEPS = 2 * STEPS_PER_CALL  # of a phase: its first call compiles, the second can be timed
RUNS_PER_WORKER = 8  # then a new process: what programs were compiled to is never all given back
CPU_LOG = "cpu.jsonl"  # beside a training's own log: CPU seconds between its rows

# Rule and scheduler trained together, which the paper tried and gave up. Its weights are Celo's.
JOINT_ENTRY = Entry(Celo, celo, (TrainingPhase("rule", Celo.theta_groups, Celo),))


@dataclasses.dataclass(frozen=True)
class Variant:
    """An optimizer, and how its meta-training differs from that of the others."""

    title: str
    optimizer: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    augmentations: tuple[str, ...] = AUGMENTATIONS

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of its phases."""
        register()
        return tuple(phase.name for phase in OPTIMIZERS[self.optimizer].phases if phase.name in SHARES)


VARIANTS = {
    "celo": Variant("Celo, two phases", "celo"),
    JOINT: Variant("Celo, one phase", JOINT),
    "celo_adam": Variant("Celo-Adam", "celo_adam"),
    "celo2_base": Variant("Celo2-base", "celo2_base"),
    **{name: Variant(title, name) for name, title in BASELINES.items()},
    # Not the paper's: the part that this project adds, changed alone.
    "celo_orthogonal": Variant("Celo, orthogonalised", "celo", {"orthogonalize": True}, ("global",)),
}
PAIRS = [(name, augmentation) for name, one in VARIANTS.items() for augmentation in one.augmentations]


@dataclasses.dataclass(frozen=True)
class Run:
    """One meta-training, in a form that a worker can be sent."""

    name: str
    variant: str
    augmentation: str
    rate: float
    seed: int
    steps: Mapping[str, int]  # phase -> outer steps
    runs: Path  # folder of all
    kernel: str
    judged: bool = True  # whether its meta-loss is measured and its weights are kept


Train = Callable[[Run], dict[str, Any]]


def register() -> None:
    """Makes the joint Celo known to meta-training, in this process."""
    OPTIMIZERS.setdefault(JOINT, JOINT_ENTRY)


def recipe_of(run: Run) -> Recipe:
    """Recipe `quick` without what it does for Celo alone: mirrored weights, a decay, a lesson."""
    register()
    steps = {f"{phase}_steps": run.steps.get(phase, 0) for phase in SHARES}
    rates = {f"{phase}_learning_rate": run.rate for phase in SHARES}
    return make_recipe(
        "quick",
        optimizer=VARIANTS[run.variant].optimizer,
        rule_start="normal",
        rule_schedule="constant",
        imitation_steps=0,
        warmup_steps=min(100, min(run.steps.values()) // 10),
        augmentation=run.augmentation,
        seed=run.seed,
        **(steps | rates | VARIANTS[run.variant].settings),
    )


def outer_steps(cost: Mapping[str, float], seconds: float) -> dict[str, int]:
    """Phase -> outer steps that together take `seconds`, where one of each phase takes `cost`."""
    unit = seconds / sum(SHARES[phase] * each for phase, each in cost.items())
    return {phase: max(LEAST_STEPS, round(SHARES[phase] * unit)) for phase in cost}


def cpu_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a training took, of the rows of its CPU log.

    The first row of a phase in a process has compiled and begun problems besides. It counts as many steps at
    the cost of the others; the rest is set-up. Rows that a resumed run repeats count once.

    Returns:
      "cost": phase -> seconds of an outer step; "seconds" of all outer steps; "setup": seconds of the rest.
    """
    phases: dict[str, dict[int, Mapping[str, Any]]] = {}
    setup = 0.0
    for row in rows:
        phases.setdefault(row["phase"], {})[row["outer_step"]] = row
        setup += row["seconds"] if row["first"] else 0.0
    cost, seconds = {}, 0.0
    for phase, by_step in phases.items():
        ends = sorted(by_step)
        counts = np.diff([0, *ends])
        later = np.array([not by_step[end]["first"] for end in ends])
        if not later.any():
            raise CeloError(f"phase {phase} has too few outer steps to be timed, at least {LEAST_STEPS}")
        taken = np.array([by_step[end]["seconds"] for end in ends])
        cost[phase] = float(taken[later].sum() / counts[later].sum())
        seconds += cost[phase] * ends[-1]
        setup -= cost[phase] * int(counts[~later].sum())
    return {"cost": cost, "seconds": seconds, "setup": max(0.0, setup)}


def meta_train(run: Run) -> dict[str, Any]:
    """Trains, or goes on; in a worker process, which has one core. The checkpoint is left for the caller."""
    recipe, folder = recipe_of(run), run.runs / "meta" / run.name
    if not (folder / CHECKPOINT).exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
    before, phase = time.process_time(), None

    def on_row(row: Mapping[str, Any]) -> None:
        nonlocal before, phase
        now = time.process_time()
        line = {"phase": row["phase"], "outer_step": row["outer_step"], "first": row["phase"] != phase}
        with (folder / CPU_LOG).open("a") as log:
            log.write(json.dumps({**line, "seconds": now - before}) + "\n")
        before, phase = now, row["phase"]

    if (folder / CHECKPOINT).exists():
        path = resume(folder, on_row=on_row)
    else:
        path = start(folder, recipe, kernel=run.kernel, on_row=on_row)
    rows = read_metrics(folder / METRICS)
    losses = [(row["phase"], row["outer_step"], round(row["meta_loss"], 4)) for row in rows]
    result = {
        "title": VARIANTS[run.variant].title,
        **{name: getattr(run, name) for name in ("variant", "augmentation", "rate", "seed", "kernel")},
        "steps": dict(run.steps),
        "inner_steps": 2 * recipe.pairs_per_task * 4 * recipe.truncation_length,  # in an outer step
        **cpu_of(read_metrics(folder / CPU_LOG)),
        "curve": losses[:: max(1, len(losses) // 50)],
        "nonfinite": float(np.mean([row["nonfinite_fraction"] for row in rows])),
        "commit": commit(),
    }
    if run.judged:
        made = weights.load(path)
        known = "celo" if made.metadata["architecture"] == JOINT else made.metadata["architecture"]
        make_folder(run.runs / "weights")
        metadata = {**made.metadata, "architecture": known}
        weights.save(weights_path(run.runs, run.name), made.theta, metadata=metadata)
        found = measure(made.theta, dataclasses.replace(recipe, augmentation="none"), kernel=run.kernel)
        result |= {"meta_loss": found.meta_loss, "standard_error": found.standard_error}
    jax.clear_caches()  # a worker trains many times
    return result


def weights_path(runs: Path, name: str) -> Path:
    """Where the weights of a run are."""
    return runs / "weights" / f"{name}.safetensors"


class Results:
    """All that is known so far: comparison.json, written anew whenever something has finished."""

    def __init__(self, out: Path, minutes: float | None = None):
        self.path = out / "comparison.json"
        parts = ("speeds", "trials", "runs", "scores")
        self.known: dict[str, Any] = {"minutes": minutes, **{part: {} for part in parts}}
        if self.path.exists():
            self.known = json.loads(self.path.read_text())
            if minutes not in (None, self.known["minutes"]):
                raise CeloError(
                    f"{self.path} is of {self.known['minutes']:g} minutes: leave --minutes out, or choose "
                    "another --out"
                )
        elif minutes is None:
            raise CeloError(f"{self.path} is not there: begin with the stage `rates`")

    def __getitem__(self, kind: str) -> dict[str, Any]:
        return self.known[kind]

    def save(self) -> None:
        make_folder(self.path.parent)
        write_file(self.path, (json.dumps(self.known, indent=1) + "\n").encode())

    def losses(self, variant: str, augmentation: str) -> dict[float, float]:
        """Learning rate -> meta-loss of its trial; inf where it is not finite."""
        return {
            one["rate"]: one["meta_loss"] if np.isfinite(one["meta_loss"]) else np.inf
            for one in self["trials"].values()
            if (one["variant"], one["augmentation"]) == (variant, augmentation)
        }

    def cost(self, variant: str) -> dict[str, float]:
        """Phase -> CPU seconds of an outer step: the median of its trials, else of the first estimate."""
        mine = [one["cost"] for one in self["trials"].values() if one["variant"] == variant]
        mine = mine or [self["speeds"][variant]["cost"]]
        return {phase: float(np.median([one[phase] for one in mine])) for phase in mine[0]}


def next_rates(losses: Mapping[float, float]) -> list[float]:
    """Rates to try next: the first ones, then the neighbours that the best one still lacks."""
    if first := [rate for rate in FIRST_RATES if rate not in losses]:
        return first
    place = RATES.index(best_rate(losses))
    return [rate for rate in RATES[max(0, place - 1) : place + 2] if rate not in losses]


def best_rate(losses: Mapping[float, float]) -> float:
    """That of the lowest meta-loss."""
    return min(losses, key=losses.__getitem__)


def keep(results: Results, kind: str, runs: Sequence[Run], workers: int, train: Train = meta_train) -> None:
    """Runs what has no result of its kind yet, and keeps each result as soon as it is there.

    Raises:
      CeloError: naming those that failed, once all others are kept.
    """
    waiting = [run for run in runs if run.name not in results[kind]]
    failed: list[str] = []
    for first in range(0, len(waiting), some := RUNS_PER_WORKER * workers):
        with pools.local(workers) as pool:
            futures = {pool.executor.submit(train, run): run for run in waiting[first : first + some]}
            for future in as_completed(futures):
                run = futures[future]
                if error := future.exception():
                    failed.append(f"{run.name}: {in_a_line(error)}")
                    continue
                results[kind][run.name] = future.result()
                results.save()
                shutil.rmtree(run.runs / "meta" / run.name, ignore_errors=True)
                print(f"{kind}: {run.name}, {_in_words(results[kind][run.name])}", flush=True)
    if failed:
        raise CeloError("; ".join(failed))


def _in_words(result: Mapping[str, Any]) -> str:
    cost = ", ".join(f"{phase} {each:.4f}" for phase, each in result["cost"].items())
    loss = f"meta-loss {result['meta_loss']:.3f}, " if "meta_loss" in result else ""
    return f"{loss}CPU {result['seconds']:.0f} s, set-up {result['setup']:.0f} s, s/outer step: {cost}"


def find_rates(results: Results, runs: Path, kernel: str, workers: int) -> None:
    """Stage `rates`: what an outer step of each variant costs, then trials until each has its rate."""
    first = [
        Run(name, name, "global", FIRST_RATES[0], TRIAL_SEED, steps, runs, kernel, judged=False)
        for name, one in VARIANTS.items()
        for steps in [dict.fromkeys(one.phases, SPEED_STEPS)]
    ]
    keep(results, "speeds", first, workers)
    seconds = TRIAL_SHARE * 60 * results.known["minutes"]
    # All trials of a variant have the same steps, also when the first ones know its cost better.
    steps = {name: outer_steps(results["speeds"][name]["cost"], seconds) for name in VARIANTS}

    def trial(name: str, augmentation: str, rate: float) -> Run:
        title = f"{name}-{augmentation}-{rate:g}"
        return Run(title, name, augmentation, rate, TRIAL_SEED, steps[name], runs, kernel)

    while trials := [trial(*pair, rate) for pair in PAIRS for rate in next_rates(results.losses(*pair))]:
        # Trials of one variant far from each other in time: the machine's speed drifts.
        keep(results, "trials", sorted(trials, key=lambda run: run.rate), workers)


def final_runs(results: Results, runs: Path, kernel: str, seeds: int) -> list[Run]:
    """Those of stage `train`, a whole seed of all variants before the next.

    Raises:
      CeloError: if learning rates are still to be found.
    """
    lacking = [pair for pair in PAIRS if next_rates(results.losses(*pair))]
    if lacking:
        raise CeloError(f"no learning rate yet for {lacking[0]}: run the stage `rates` to its end")
    seconds = 60 * results.known["minutes"]
    return [
        Run(
            f"{name}-{augmentation}-{seed}",
            *(name, augmentation, best_rate(results.losses(name, augmentation)), seed),
            *(outer_steps(results.cost(name), seconds), runs, kernel),
        )
        for seed in range(seeds)
        for name, augmentation in PAIRS
    ]


def evaluate_runs(results: Results, runs: Path, workers: int, tasks: Sequence[str]) -> None:
    """Stage `evaluate`: each training is a contestant; one at a time, so that what is there is whole."""
    for number, name in enumerate(results["runs"], 1):
        failures = evaluate(
            [f"{name}={weights_path(runs, name)}"],
            out=runs / "evaluation",
            suite=SUITE,
            tasks=tasks,
            protocol=Protocol(seeds=(EVALUATION_SEED,)),
            resume=True,
            equal_time=False,
            workers=workers,
        )
        print(f"evaluated {number}/{len(results['runs'])}: {name}", *failures, sep="; ", flush=True)


def pack_weights(runs: Path, names: Iterable[str], path: Path) -> None:
    """All weights in one .zip, the same bytes every time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(names):
            file = weights_path(runs, name)
            packed.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED)
    write_file(path, content.getvalue())


def report(results: Results, runs: Path, out: Path) -> None:
    """Stage `report`. A clone of the repository has the scores alone, whose table and figure it makes."""
    if (runs / "evaluation").exists():
        adams = load_records(bundled_archive(SUITE))
        results.known["scores"] = scores_of(load_records(runs / "evaluation"), adams)
        results.save()
        pack_weights(runs, results["scores"], out / "weights.zip")
    print(table(results.known), "", *verdicts(results.known), sep="\n")
    draw(results.known, out / "comparison.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stage", choices=("rates", "train", "evaluate", "report"))
    parser.add_argument("--out", type=Path, default=Path("results/comparison"))
    parser.add_argument("--minutes", type=float, help="of one core for each training (stage rates)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=[], help="only these of the suite")
    options = parser.parse_args()
    results, runs = Results(options.out, options.minutes), options.out / "runs"
    kernel = "native" if native.available() else "xla"
    make_folder(runs)
    if options.stage == "evaluate":  # also beside a stage that is at work: it only reads the results
        evaluate_runs(results, runs, options.workers, options.tasks)
        return
    with held(runs, "wait for it, or choose another --out"):
        if options.stage == "rates":
            find_rates(results, runs, kernel, options.workers)
        elif options.stage == "train":
            keep(results, "runs", final_runs(results, runs, kernel, options.seeds), options.workers)
        else:
            report(results, runs, options.out)


if __name__ == "__main__":
    main()
