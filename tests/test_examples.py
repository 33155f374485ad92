"""Every example runs as it stands, is short, and does what it says."""

import runpy
from pathlib import Path

import jax
import pytest

EXAMPLES = {path.name: path for path in sorted((Path(__file__).parents[1] / "examples").glob("*.py"))}


def test_there_is_one_for_each_library():
    assert EXAMPLES.keys() == {
        *("train_digits.py", "flax_train_state.py", "flax_nnx.py", "equinox_loop.py", "haiku_loop.py")
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short(name):
    assert len(EXAMPLES[name].read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("name", EXAMPLES)
def test_digits_are_learned(name, capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        accuracy = runpy.run_path(str(EXAMPLES[name]))["main"]()
    assert accuracy > 0.9
    assert "test accuracy" in capsys.readouterr().out
