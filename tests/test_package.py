"""The package as a whole: what importing it costs, what it hands out."""

import importlib
import re
import subprocess
import sys
from importlib import resources

import pytest

import celo
from celo import weights

FRAMEWORKS = ("jax", "jaxlib", "optax", "torch", "tensorflow")


@pytest.mark.parametrize(
    "module",
    [
        "celo",
        "celo._errors",
        "celo.weights",
        "celo.convert",
        "celo.data",
        "celo.evaluate",
        "celo.evaluate._records",
        "celo.evaluate._score.leaderboard",
        "celo.evaluate._score.metrics",
        "celo.evaluate._score.aggregate",
    ],
)
def test_import_loads_no_framework(module):
    code = f"import sys, {module}; print(*(set({FRAMEWORKS}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_tasks_load_flax_only_when_one_needs_it():
    code = "import sys, celo.tasks, celo.evaluate._run.suites; print('flax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_public_names():
    assert len(set(celo.__all__)) == len(celo.__all__)
    for name in celo.__all__:
        value = getattr(celo, name)
        assert value.__module__.startswith("celo.")
        assert value.__name__ == name
        assert value.__doc__
    assert set(celo.__all__) <= set(dir(celo))
    assert celo.celo is importlib.import_module("celo.optimizers").celo  # the function, not its module
    with pytest.raises(AttributeError, match="module 'celo' has no attribute 'cello'"):
        _ = celo.cello


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", celo.__version__)


def test_types_are_declared():
    assert resources.files("celo").joinpath("py.typed").is_file()


def test_the_trained_weights_come_with_the_package():
    assert "celo" in weights.bundled()
    card = weights.card("celo")
    assert card["sha256"] == weights.load("celo").sha256
    assert card["known_limits"]
