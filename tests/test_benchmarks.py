"""Benchmarks whose result is a choice."""

import contextlib
import dataclasses
import importlib
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import synthetic
from rich.console import Console

from celo._errors import CeloError
from celo.evaluate import metrics
from celo.evaluate._run.contestants import resolve_contestant
from celo.evaluate._run.executors import Pool
from celo.meta import Measured
from celo.meta._outer_step import PhaseProgram
from celo.meta._phases import first_theta, phases, task_families
from celo.optimizers import OPTIMIZERS

ROOT = Path(__file__).parents[1]
RATES = [1e-3, 1e-2, 1e-1]


@pytest.fixture
def one_setting(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.one_setting")


def grid(task, name, losses):
    """A record of a grid that ran to the end."""
    record = synthetic.record(task, "adam", num_steps=40)
    changes = {"rates": np.array(RATES), "rung_losses": np.array([losses]), "rung_steps": np.array([40])}
    return dataclasses.replace(record, contestant=name, **changes)


def made():
    """On each task Adam's best loss is 1; lion is best at 1e-2 on four tasks, by far at 1e-1 on one."""
    tasks = synthetic.TASKS[:5]
    lions = [*([2.0, 0.8, 4.0] for _ in tasks[:4]), [2.0, 2.0, 0.01]]
    adams = [grid(task, "adam", [1.5, 1.0, np.inf]) for task in tasks]
    return [*adams, *(grid(task, "lion", losses) for task, losses in zip(tasks, lions, strict=True))]


def test_a_rate_is_worth_the_iqm_of_its_loss_ratios_to_adam_at_its_best(one_setting):
    worth = one_setting.worth_of_rates(made(), "lion")
    assert worth == pytest.approx({1e-3: 0.5, 1e-2: 1.25, 1e-1: 0.25})  # a fifth of the tasks decides nothing
    adam = one_setting.worth_of_rates(made(), "adam")
    assert adam == pytest.approx({1e-3: 1 / 1.5, 1e-2: 1.0, 1e-1: 0.0})  # what diverged is worth nothing


def test_a_missing_task_is_told(one_setting):
    fewer = made()[:-1]
    with pytest.raises(CeloError, match=f"lion has no record on {fewer[4].task}"):
        one_setting.worth_of_rates(fewer, "lion")


def test_what_is_shown_can_be_given_to_an_evaluation(one_setting):
    text = io.StringIO()
    worth = {name: one_setting.worth_of_rates(made(), name) for name in ("adam", "lion")}
    one_setting.show({**worth, "sgd": {1e-3: 1.0, 1e-2: 0.5, 1e-1: 0.0}}, Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert lines[-1] == "adam@0.01 lion@0.01 sgd@0.001"
    assert [line for line in lines if "widen it" in line] == [
        "sgd is best at 0.001, an end of the grid: widen it with --rates"
    ]


@pytest.mark.slow
def test_a_small_calibration_end_to_end(one_setting, tmp_path, capsys, monkeypatch):
    words = ["--out", str(tmp_path), "--contestants", "sgd", "--tasks", "wine_mlp", "--steps", "20"]
    words += ["--rates", "1e-4", "1e-1", "1e3", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["one_setting", *words])
    one_setting.main()
    assert capsys.readouterr().out.splitlines()[-1] == "sgd@0.1"


@pytest.mark.slow
def test_steps_in_pytorch_are_timed_beside_adamw(monkeypatch, capsys):
    """Also the part that a GPU is for, at a tiny size."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)
    torch_step = importlib.import_module("benchmarks.torch_step")
    words = ["--models", "perceptron 2.4 k", "--gpt", "tiny", "--rounds", "1", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["torch_step", *words])
    torch_step.main()
    shown = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line.split("│")[2:4] for line in shown.splitlines() if "│" in line}
    assert rows.keys() == torch_step.contestants("cpu").keys()
    assert all(float(cell.split()[0]) > 0 for cells in rows.values() for cell in cells)


def test_the_gpt_that_is_timed_has_124_million_parameters(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)
    torch_step = importlib.import_module("benchmarks.torch_step")
    *sizes, context, _ = torch_step.GPTS["124 M"]
    with torch.device("meta"):
        model = torch_step.GPT(*sizes, context)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 124


@pytest.fixture
def comparison(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.comparison")
    monkeypatch.setitem(OPTIMIZERS, module.JOINT, module.JOINT_ENTRY)  # known to this test alone
    return module


def run_of(comparison, variant, steps, **changes):
    run = comparison.Run(variant, variant, "global", 1e-3, 0, steps, Path("runs"), "xla")
    return dataclasses.replace(run, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "trained"),
    [("celo", [{"update_rule"}, {"scheduler"}]), ("celo_joint", [{"update_rule", "scheduler"}])],
)
def test_celo_is_trained_in_two_phases_or_all_at_once(comparison, variant, trained):
    steps = dict.fromkeys(comparison.VARIANTS[variant].phases, 20)
    recipe = comparison.recipe_of(run_of(comparison, variant, steps))
    recipe = dataclasses.replace(recipe, tasks=("digits_8x8_mlp32",))  # soon loaded
    theta = first_theta(recipe, jax.random.key(0))
    programs = [PhaseProgram(recipe, phase, task_families(recipe, phase), "xla") for phase in phases(recipe)]
    found = [program.shapes(theta, jax.random.key(1)) for program in programs]
    assert [set(state.theta) for state, _ in found] == trained
    assert [set(frozen) for _, frozen in found] == [set(theta) - groups for groups in trained]


def test_variants_differ_by_optimizer_augmentation_and_rate_alone(comparison):
    recipes = {
        name: dataclasses.asdict(
            comparison.recipe_of(run_of(comparison, name, dict.fromkeys(one.phases, 20)))
        )
        for name, one in comparison.VARIANTS.items()
    }
    own = {"optimizer", "rule_steps", "scheduler_steps"}
    for name, recipe in recipes.items():
        differing = {field for field in recipe if recipe[field] != recipes["celo"][field]}
        assert differing <= own | set(comparison.VARIANTS[name].settings), name


def test_outer_steps_spend_the_budget_three_to_one(comparison):
    steps = comparison.outer_steps({"rule": 0.1, "scheduler": 0.2}, 60.0)
    assert steps == {"rule": 360, "scheduler": 120}  # 36 s and 24 s
    assert comparison.outer_steps({"scheduler": 0.2}, 60.0) == {"scheduler": 300}
    assert comparison.outer_steps({"rule": 10.0}, 60.0) == {"rule": comparison.LEAST_STEPS}


def cpu_rows(*rows):
    return [dict(zip(("phase", "outer_step", "seconds", "first"), row, strict=True)) for row in rows]


def test_compiling_is_counted_apart(comparison):
    found = comparison.cpu_of(
        cpu_rows(
            *(("rule", 10, 31.0, True), ("rule", 20, 1.0, False), ("rule", 25, 0.5, False)),
            *(("scheduler", 10, 42.0, True), ("scheduler", 20, 2.0, False)),
        )
    )
    assert found["cost"] == pytest.approx({"rule": 0.1, "scheduler": 0.2})
    assert found["seconds"] == pytest.approx(25 * 0.1 + 20 * 0.2)
    assert found["setup"] == pytest.approx(30.0 + 40.0)
    with pytest.raises(CeloError, match="phase rule has too few outer steps"):
        comparison.cpu_of(cpu_rows(("rule", 10, 31.0, True)))


def test_a_resumed_training_counts_repeated_steps_once_and_compiling_twice(comparison):
    first = cpu_rows(*(("rule", 10, 31.0, True), ("rule", 20, 1.0, False), ("rule", 30, 1.0, False)))
    again = cpu_rows(*(("rule", 20, 21.0, True), ("rule", 30, 1.0, False), ("rule", 40, 1.0, False)))
    found = comparison.cpu_of([*first, *again])
    assert found["seconds"] == pytest.approx(4.0)
    assert found["setup"] == pytest.approx(31.0 - 1.0 + 21.0 - 1.0)


def test_rates_are_tried_until_the_best_is_not_the_last_on_its_side(comparison):
    assert comparison.next_rates({}) == list(comparison.FIRST_RATES)
    assert comparison.next_rates({1e-3: 1.0, 4e-3: 0.5, 1.6e-2: 0.7}) == []
    assert comparison.next_rates({1e-3: 0.1, 4e-3: 0.5, 1.6e-2: 0.7}) == [2.5e-4]
    assert comparison.next_rates({1e-3: 0.1, 4e-3: np.inf, 1.6e-2: 0.0}) == [6.4e-2]
    assert comparison.next_rates({1e-3: 0.1, 4e-3: 0.5, 1.6e-2: 0.0, 6.4e-2: -1.0}) == []


def trained(run, loss=0.0):
    """A result as `meta_train` returns it."""
    settings = {name: getattr(run, name) for name in ("variant", "augmentation", "rate", "seed")}
    cost = dict.fromkeys(run.steps, 0.1)
    made_up = {"title": run.variant, "inner_steps": 1600, "setup": 30.0, "meta_loss": loss, "cost": cost}
    return {**settings, **made_up, "steps": dict(run.steps), "seconds": 0.1 * sum(run.steps.values())}


def test_what_is_finished_is_kept_and_not_run_again(comparison, tmp_path, monkeypatch):
    pool = contextlib.nullcontext(Pool(ThreadPoolExecutor(1), lambda: 1))
    monkeypatch.setattr(comparison.pools, "local", lambda workers: pool)
    runs = [run_of(comparison, "celo", {"rule": 20}, name=name, runs=tmp_path) for name in ("a", "b", "c")]
    seen = []

    def train(run):
        seen.append(run.name)
        if run.name == "b" and seen.count("b") == 1:
            raise CeloError("no memory")
        return trained(run)

    with pytest.raises(CeloError, match="b: no memory"):
        comparison.keep(comparison.Results(tmp_path, 10.0), "runs", runs, 1, train)
    comparison.keep(comparison.Results(tmp_path), "runs", runs, 1, train)
    assert seen == ["a", "b", "c", "b"]
    assert set(comparison.Results(tmp_path)["runs"]) == {"a", "b", "c"}
    with pytest.raises(CeloError, match="is of 10 minutes"):
        comparison.Results(tmp_path, 30.0)


def test_trainings_take_the_best_rate_of_their_trials_and_one_seed_after_another(comparison, tmp_path):
    results = comparison.Results(tmp_path, 10.0)
    with pytest.raises(CeloError, match="run the stage `rates` to its end"):
        comparison.final_runs(results, tmp_path, "xla", 2)
    for name, augmentation in comparison.PAIRS:
        steps = dict.fromkeys(comparison.VARIANTS[name].phases, 60)
        for rate, loss in zip(comparison.FIRST_RATES, (1.0, 0.5, float("nan")), strict=True):
            run = run_of(comparison, name, steps, augmentation=augmentation, rate=rate)
            results["trials"][f"{name}-{augmentation}-{rate}"] = trained(run, loss)
    runs = comparison.final_runs(results, tmp_path, "xla", 2)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len({run.name for run in runs}) == 2 * len(comparison.PAIRS)
    assert {run.rate for run in runs} == {4e-3}
    assert runs[0].steps == {"rule": 4500, "scheduler": 1500}  # ten minutes at 0.1 s each
    assert runs[2].steps == {"rule": 6000}


def compared(comparison):
    """What is known after two seeds: the joint Celo is behind Adam, and VeLO-S is once."""
    known = {"minutes": 10, "runs": {}, "scores": {}}
    for variant, ratios in {"celo": (1.2, 1.3), "celo_joint": (0.8, 0.9), "velo_s": (0.9, 1.25)}.items():
        for seed, ratio in enumerate(ratios):
            name = f"{variant}-global-{seed}"
            steps = dict.fromkeys(comparison.VARIANTS[variant].phases, 60)
            known["runs"][name] = trained(run_of(comparison, variant, steps, seed=seed))
            scores = {"ratio": ratio, "speedup": 2.0, "ratios": dict.fromkeys("abcd", ratio)}
            known["scores"][name] = scores
    return known


def test_the_table_and_what_it_says_of_the_claims(comparison, tmp_path):
    known = compared(comparison)
    known["runs"]["celo-global-2"] = {**known["runs"]["celo-global-1"], "seed": 2}  # not evaluated yet
    rows = [line.split(" | ") for line in comparison.table(known).splitlines()[2:5]]
    assert [row[0].removeprefix("| ") for row in rows] == ["celo", "velo_s", "celo_joint"]
    assert rows[0][1:] == [
        *("global", "1.25", "1.20 1.30", "2.00", "0.000", "0.001", "60 + 60", "16,000", "0.2", "0.5 |")
    ]
    told = {line.split("**")[0].strip("- :"): line.split("**")[1] for line in comparison.verdicts(known)}
    assert told == {
        "Celo ends above Adam (paper: 1.20)": "confirmed",
        "Trained in one phase Celo ends below Adam (paper: 0.89)": "confirmed",
        "Two phases are better than one": "confirmed",
        "Celo ends above VeLO-S, both augmented": "undecided",
    }
    pytest.importorskip("matplotlib")
    comparison.draw(known, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_scores_are_beside_the_seed_of_adam_that_all_have(comparison):
    adams = [synthetic.record(task, "adam") for task in synthetic.TASKS]
    whole = [
        dataclasses.replace(synthetic.record(task, "celo", seeds=1), contestant="a")
        for task in synthetic.TASKS
    ]
    part = [dataclasses.replace(one, contestant="b") for one in whole[:2]]
    scores = comparison.scores_of([*whole, *part], adams)
    assert scores.keys() == {"a"}
    mine, adam = (metrics.smooth(one.train_loss[0])[-1] for one in (whole[0], adams[0]))
    assert scores["a"]["ratios"][whole[0].task] == pytest.approx(adam / mine)


@pytest.mark.slow
def test_a_joint_celo_goes_on_from_its_checkpoint_and_its_weights_are_celos(
    comparison, tmp_path, monkeypatch
):
    run = run_of(comparison, "celo_joint", {"rule": 20}, runs=tmp_path)
    recipe = dataclasses.replace(comparison.recipe_of(run), tasks=("digits_8x8_mlp32",), horizon_max=100)
    monkeypatch.setattr(comparison, "recipe_of", lambda run: recipe)
    monkeypatch.setattr(comparison, "measure", lambda *_, **settings: Measured(0.5, 0.1, {}))
    path = comparison.weights_path(tmp_path, run.name)
    found = []
    for _ in range(2):  # the second time its checkpoint is at its end
        with jax.numpy_dtype_promotion("standard"):  # optax's own is not strict
            result = comparison.meta_train(run)
        found.append((result["meta_loss"], result["cost"], path.read_bytes()))
        path.unlink()
    assert found[0] == found[1]
    path.write_bytes(found[0][2])
    assert resolve_contestant(f"mine={path}").optimizer == "celo"


@pytest.mark.slow
def test_tables_of_the_results_are_what_the_records_say(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    results_page = importlib.import_module("benchmarks.results_page")
    text = results_page.PAGE.read_text()
    assert len(results_page.TABLE.findall(text)) == text.count("<!-- table:") == 4
    assert results_page.renewed(text) == text
