"""A race: one real task, Celo with trained weights beside Adam and whoever else is named.

Celo runs once per seed. Every other optimizer runs at each learning rate of a grid; its best rate is chosen
on tuning seeds and reported on other ones, the seeds that Celo runs on too.
"""

import dataclasses
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optax
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from celo import weights as weights_files
from celo._errors import CeloError, unknown_name
from celo._plotting import require_matplotlib
from celo._provenance import environment
from celo._types import Theta
from celo.evaluate import _race_report as report
from celo.evaluate._run.baselines import ANSWERS, BASELINES, DEFAULT_RATES, LEARNING_RATES
from celo.evaluate._run.training import Curve, CurveProgram, curve_at, seconds_per_step
from celo.evaluate._score import metrics
from celo.optimizers import celo as celo_transform
from celo.tasks import TASKS, TaskFamily, make_task

EVAL_POINTS = 100  # in a race, besides the one at step 0
OPTIMIZERS = ("celo", *BASELINES)
ALWAYS = ("celo", "adam")  # the subject and the yardstick


def _field(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class RaceConfig:
    """What to race. Raises CeloError, naming the value and the remedy, before any data is read."""

    task: str = _field("digits_mlp128x128", "task to train")
    optimizers: tuple[str, ...] = _field(ALWAYS, "who races; celo and adam always do")
    steps: int = _field(300, "training steps, also the horizon Celo is told")
    seeds: int = _field(3, "seeds to report on; learning rates are chosen on as many others")
    weights: str = _field("celo", "Celo's weights: a bundled name or a .safetensors file")
    rates: tuple[float, ...] = _field(LEARNING_RATES, "learning rates the others are tuned over")
    seed: int = _field(0, "what all seeds of the race are derived from")
    out: str = _field("race", "folder for race.json, race.png and race.html")

    def __post_init__(self):
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        for name in self.optimizers:
            if name not in OPTIMIZERS:
                raise unknown_name("optimizer", name, OPTIMIZERS)
        for name, least in (("steps", 1), ("seeds", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise CeloError(f"{name} must be a whole number, at least {least}, got {value!r}")
        if not self.rates:
            raise CeloError("rates is empty; name at least one learning rate, for example 1e-3")
        for rate in self.rates:
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
                raise CeloError(f"a learning rate must be a positive number, got {rate!r}; try 1e-3")
        object.__setattr__(self, "optimizers", tuple(dict.fromkeys((*ALWAYS, *self.optimizers))))
        object.__setattr__(self, "rates", tuple(sorted({float(rate) for rate in self.rates})))

    @property
    def command(self) -> str:
        """The shell command that repeats this race; `out` left aside."""
        words = ["celo", "race"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name != "out":
                words += [f"--{field.name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """All runs of one optimizer.

    Attributes:
      optimizer: its name.
      rates: its learning rates, rising; (None,) for Celo.
      curves: [rates, seeds, E], on the reporting seeds.
      tuning_loss: [rates] mean final training loss on the tuning seeds (Celo: on the reporting ones), inf
        where one diverged.
      best: index of the rate with the lowest tuning loss.
      seconds_per_step: time of one training step.
    """

    optimizer: str
    rates: tuple[float | None, ...]
    curves: Curve
    tuning_loss: np.ndarray
    best: int
    seconds_per_step: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the result: an optimizer at one learning rate. Arrays are [seeds].

    Attributes:
      optimizer: its name.
      learning_rate: None for Celo.
      roles: of "learned", "default" (the rate people use untuned) and "tuned" (the best of the grid).
      curve: [seeds, E].
      final: smoothed training loss at the end; then of validation the loss and the task's metrics.
      ratio: final-loss score against tuned Adam.
      speedup: speedup score against tuned Adam.
      speedup_default: the same against Adam at its default rate.
      seconds_per_step: time of one training step.
    """

    optimizer: str
    learning_rate: float | None
    roles: tuple[str, ...]
    curve: Curve
    final: dict[str, np.ndarray]
    ratio: np.ndarray
    speedup: np.ndarray
    speedup_default: np.ndarray
    seconds_per_step: float


@dataclasses.dataclass(frozen=True)
class RaceResult:
    """What a race found, and what it ran on."""

    config: RaceConfig
    contestants: tuple[Contestant, ...]
    rows: tuple[Row, ...]
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    weights_sha256: str
    environment: dict[str, str]
    seconds: float

    def row(self, optimizer: str, role: str) -> Row:
        """The row of `optimizer` in a role it plays."""
        return next(row for row in self.rows if row.optimizer == optimizer and role in row.roles)


def run_race(config: RaceConfig, *, console: Console) -> RaceResult:
    """Run a race, print its table and write race.json, race.png and race.html into `config.out`.

    Raises:
      CeloError: before training, if weights, data, Matplotlib or the folder cannot be had, or the task is
        a family of several kinds.
    """
    begin = time.perf_counter()
    require_matplotlib()
    weights = weights_files.load(config.weights)
    celo_transform(config.steps, weights=weights.theta)  # refuses weights that do not fit
    family = make_task(config.task)
    if len(family.members) > 1:
        raise CeloError(
            f"{config.task!r} is {len(family.members)} tasks ({', '.join(family.members)}); "
            "race on a single one, for example 'digits_mlp128x128'"
        )
    folder = Path(config.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"{folder}: cannot be made ({error.strerror}); choose another out") from error

    drawn = np.random.SeedSequence(config.seed).generate_state(2 * config.seeds).tolist()
    seeds, tuning_seeds = tuple(drawn[: config.seeds]), tuple(drawn[config.seeds :])
    contestants = []
    board: dict[str, tuple[Any, str]] = dict.fromkeys(config.optimizers, ("waiting", ""))
    with Live(_board(board), console=console, transient=True) as live:
        for name in config.optimizers:
            started = time.perf_counter()

            def show(doing: Any, found: str = "", name: str = name) -> None:
                board[name] = (doing, found)
                live.update(_board(board), refresh=True)

            contestant = _run(name, family, config, weights.theta, seeds, tuning_seeds, show)
            contestants.append(contestant)
            loss = metrics.trailing_mean(contestant.curves.train_loss[contestant.best])[:, -1].mean()
            show(f"done in {time.perf_counter() - started:.0f} s", f"{loss:.3g}")
    result = RaceResult(
        config=config,
        contestants=tuple(contestants),
        rows=_rows(contestants),
        tuning_seeds=tuning_seeds,
        seeds=seeds,
        weights_sha256=weights.sha256,
        environment=environment(),
        seconds=time.perf_counter() - begin,
    )
    report.show(result, console)
    for path in report.write(result, folder):
        console.print(f"wrote {path}", highlight=False)
    return result


def _run(
    name: str,
    family: TaskFamily,
    config: RaceConfig,
    theta: Theta,
    seeds: tuple[int, ...],
    tuning_seeds: tuple[int, ...],
    show: Callable[[Any], None],
) -> Contestant:
    """All runs of one optimizer, then its timing; `show` is told what goes on."""
    learned = name == "celo"
    rates = (None,) if learned else tuple(sorted({*config.rates, DEFAULT_RATES.get(name, config.rates[0])}))
    runs = seeds if learned else (*seeds, *tuning_seeds)

    def make_tx(rate: Any) -> optax.GradientTransformation:
        return celo_transform(config.steps, weights=theta) if learned else BASELINES[name](rate, config.steps)

    several = f"{len(rates)} learning rates × " if len(rates) > 1 else ""
    show(Spinner("dots", f"training: {several}{len(runs)} seeds"))
    program = CurveProgram(
        family,
        0,
        make_tx,
        num_steps=config.steps,
        eval_every=max(1, config.steps // EVAL_POINTS),
        answer=ANSWERS.get(name),
    )
    every = program.curves([rate or 0.0 for rate in rates], runs)
    last = metrics.trailing_mean(every.train_loss)[..., -1][:, -len(seeds) :].mean(axis=-1)
    tuning_loss = np.where(np.isfinite(last), last, np.inf)
    best = int(np.argmin(tuning_loss))
    curves = curve_at(every, (slice(None), slice(len(seeds))))
    show(Spinner("dots", "timing one step"))
    seconds = seconds_per_step(family, 0, make_tx(rates[best]))
    return Contestant(name, rates, curves, tuning_loss, best, seconds)


def _rows(contestants: list[Contestant]) -> tuple[Row, ...]:
    """Each contestant at its best rate and, where it has one, at its default rate."""
    adam = next(c for c in contestants if c.optimizer == "adam")
    last = metrics.trailing_mean(adam.curves.train_loss)[..., -1]
    tuned, default = last[adam.best], last[adam.rates.index(DEFAULT_RATES["adam"])]
    rows = []
    for contestant in contestants:
        default_rate = DEFAULT_RATES.get(contestant.optimizer)
        for index, rate in enumerate(contestant.rates):
            played = {"tuned": contestant.rates[contestant.best], "default": default_rate}
            roles = ("learned",) if rate is None else tuple(r for r, at in played.items() if at == rate)
            if not roles:
                continue
            curve = curve_at(contestant.curves, index)
            smoothed = metrics.trailing_mean(curve.train_loss)
            valid = {"valid loss": curve.valid_loss}
            valid |= {f"valid {name}": values for name, values in curve.metrics.items()}
            rows.append(
                Row(
                    optimizer=contestant.optimizer,
                    learning_rate=rate,
                    roles=roles,
                    curve=curve,
                    final={"train": smoothed[:, -1]}
                    | {name: metrics.trailing_mean(values)[:, -1] for name, values in valid.items()},
                    ratio=metrics.final_loss_ratio(smoothed[:, -1], tuned),
                    speedup=metrics.speedup(curve.steps, smoothed, tuned),
                    speedup_default=metrics.speedup(curve.steps, smoothed, default),
                    seconds_per_step=contestant.seconds_per_step,
                )
            )
    return tuple(rows)


def _board(states: dict[str, tuple[Any, str]]) -> Table:
    table = Table("optimizer", "", "loss so far", title="race", title_justify="left")
    for name, (doing, found) in states.items():
        table.add_row(name, doing, found)
    return table
