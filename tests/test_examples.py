"""Every example runs as it stands, is short, and does what it says."""

import re
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
@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("train_digits.py", "optax"),
        ("flax_train_state.py", "flax"),
        ("flax_nnx.py", "flax"),
        ("equinox_loop.py", "equinox"),
        ("haiku_loop.py", "haiku"),
    ],
)
def test_digits_are_learned(name, library, capsys):
    pytest.importorskip(library)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        accuracy = runpy.run_path(str(EXAMPLES / name))["main"]()
    assert accuracy > 0.9
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.skipif("celo" not in weights.bundled(), reason="no weights are bundled yet")
def test_the_loops_of_the_docs_run(quick_compilation):
    """Every block of Python in docs/loops.md, one after another, as a reader would."""
    page = (EXAMPLES.parent / "docs" / "loops.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {}
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "docs/loops.md", "exec"), names)
