"""Words at the shell's prompt, by argcomplete: commands, options, and the names that they take."""

import argparse
import importlib
import os
from collections.abc import Iterable
from typing import Any


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks for words, which ends the process; does nothing otherwise.

    The shell asks once `eval "$(register-python-argcomplete celo)"` has been run in it.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        argcomplete = importlib.import_module("argcomplete")
    except ImportError:
        return  # in an environment that the shell does not know: rather no words than an error at each Tab
    files = argcomplete.FilesCompleter()

    def words(prefix: str, action: argparse.Action, **rest: Any) -> Iterable[str]:
        return [*names(action.dest), *files(prefix, action=action, **rest)]

    argcomplete.autocomplete(parser, default_completer=words)


def names(dest: str) -> list[str]:
    """What an argument may be called; none where there are no names."""
    from celo import data, weights
    from celo.evaluate import BASELINES, SUITES
    from celo.meta import ESTIMATORS, RECIPES
    from celo.optimizers import OPTIMIZERS
    from celo.tasks import TASKS

    known: dict[str, Iterable[str]] = {
        "contestants": (*weights.bundled(), *BASELINES, "baselines"),
        "estimator": ESTIMATORS,
        "name": (*weights.bundled(), *TASKS, *BASELINES, *RECIPES, *OPTIMIZERS, *ESTIMATORS, *SUITES),
        "names": (*data.DATASETS, *data.CORPORA),
        "optimizer": OPTIMIZERS,
        "recipe": RECIPES,
        "rule_tasks": TASKS,
        "suite": SUITES,
        "tasks": TASKS,
    }
    return list(known.get(dest, ()))
