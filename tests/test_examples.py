"""Every example runs as it stands, is short, and does what it says."""

import runpy
from pathlib import Path

import jax
import pytest

from celo import weights

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 100


@pytest.mark.skipif("celo" not in weights.bundled(), reason="no weights are bundled yet")
def test_digits_are_learned(capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        accuracy = runpy.run_path(str(EXAMPLES / "train_digits.py"))["main"]()
    assert accuracy > 0.9
    assert "test accuracy" in capsys.readouterr().out
