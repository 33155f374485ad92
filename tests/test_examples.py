"""Every example runs as it stands, is short, and does what it says."""

import importlib.util
import runpy
import warnings
from pathlib import Path

import jax
import pytest
from marks import slow_but

EXAMPLES = {path.name: path for path in sorted((Path(__file__).parents[1] / "examples").glob("*.py"))}


IN_JAX = ["train_digits.py", "flax_train_state.py", "flax_nnx.py", "equinox_loop.py", "haiku_loop.py"]
# And what each of them needs beside PyTorch.
IN_TORCH = {
    "torch_loop.py": [],
    "torch_trainer.py": ["transformers"],
    "torch_lightning.py": ["lightning"],
    "torch_timm.py": ["timm", "torchvision"],
    "torch_compare.py": [],
}


def test_there_is_one_for_each_library():
    assert EXAMPLES.keys() == {*IN_JAX, *IN_TORCH}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short(name):
    assert len(EXAMPLES[name].read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("name", slow_but(["train_digits.py", "flax_nnx.py"], IN_JAX))
def test_digits_are_learned(name, capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        accuracy = runpy.run_path(str(EXAMPLES[name]))["main"]()
    assert accuracy > 0.9
    assert "test accuracy" in capsys.readouterr().out


def run_in_torch(name, **arguments):
    missing = [package for package in IN_TORCH[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {missing}")
    with warnings.catch_warnings():
        if IN_TORCH[name]:  # other libraries' own warnings are not ours to mend
            warnings.simplefilter("ignore")
        return runpy.run_path(str(EXAMPLES[name]))["main"](**arguments)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if IN_TORCH[name] else name
        for name in IN_TORCH
        if name != "torch_compare.py"
    ],
)
def test_digits_are_learned_in_torch(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_in_torch(name) > 0.9
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_optimizers_are_compared_in_torch(capsys, tmp_path):
    accuracy = run_in_torch("torch_compare.py", steps=200, out=tmp_path / "curves.png", rates=(1e-3, 1e-2))
    assert accuracy > 0.9
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["Celo", "AdamW", "Muon"]
