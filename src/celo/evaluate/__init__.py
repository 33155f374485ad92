"""Measuring optimizers, learned and hand-made: training curves, tuned baselines, scores, reports.

Here: all that a notebook needs to evaluate contestants on tasks and to score the records of it. The tasks
themselves live in `celo.tasks`, the learned optimizers in `celo.optimizers`. Users import the names below;
`metrics`, `aggregate` and `time_to_target` are modules. All are imported when first used, so that scoring
loads no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celo.evaluate._records import Record, load_records, pack_records, read_record, write_record
    from celo.evaluate._report.write import write_report
    from celo.evaluate._run.baselines import BASELINES
    from celo.evaluate._run.evaluation import evaluate
    from celo.evaluate._run.learned_optimizer_task import training_adafac_mlp
    from celo.evaluate._run.suites import SUITES
    from celo.evaluate._run.training import Curve, train_curve
    from celo.evaluate._score import aggregate, metrics, time_to_target
    from celo.evaluate._score.leaderboard import Leaderboard, leaderboard
    from celo.evaluate._settings import Protocol, Settings, TaskSettings, comparable, race_protocol

_MODULES = ("aggregate", "metrics", "time_to_target")
_HOMES = {
    "BASELINES": "_run.baselines",
    "Curve": "_run.training",
    "Leaderboard": "_score.leaderboard",
    "Protocol": "_settings",
    "Record": "_records",
    "SUITES": "_run.suites",
    "Settings": "_settings",
    "TaskSettings": "_settings",
    "comparable": "_settings",
    "evaluate": "_run.evaluation",
    "leaderboard": "_score.leaderboard",
    "load_records": "_records",
    "pack_records": "_records",
    "race_protocol": "_settings",
    "read_record": "_records",
    "train_curve": "_run.training",
    "training_adafac_mlp": "_run.learned_optimizer_task",
    "write_record": "_records",
    "write_report": "_report.write",
}

__all__ = [
    "BASELINES",
    "SUITES",
    "Curve",
    "Leaderboard",
    "Protocol",
    "Record",
    "Settings",
    "TaskSettings",
    "aggregate",
    "comparable",
    "evaluate",
    "leaderboard",
    "load_records",
    "metrics",
    "pack_records",
    "race_protocol",
    "read_record",
    "time_to_target",
    "train_curve",
    "training_adafac_mlp",
    "write_record",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"celo.evaluate._score.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'celo.evaluate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"celo.evaluate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
