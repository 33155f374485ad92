"""Benchmarks whose result is a choice."""

import dataclasses
import importlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic
from rich.console import Console

from celo._errors import CeloError

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
