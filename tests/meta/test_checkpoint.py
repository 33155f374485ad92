"""Checkpoints survive crashes, and damaged or foreign ones are refused."""

import os

import jax
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import _checkpoint as checkpoint


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    state = {"a": np.arange(3, dtype=np.float32), "key": jax.random.key(5)}
    checkpoint.save(path, state, {"phase": 0})

    def full_disk(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises((OSError, CeloError)):
            checkpoint.save(path, {**state, "a": np.zeros(3, np.float32)}, {"phase": 1})
    assert checkpoint.read_header(path)["phase"] == 0
    found = checkpoint.load(path, state)
    np.testing.assert_array_equal(found["a"], state["a"])
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(state["key"]).tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": np.arange(300.0)}, {"phase": 0})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CeloError, match="damaged"):
        checkpoint.load(path, {"a": np.arange(300.0)})


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, {"a": np.zeros(3, np.float32)}, {})
    with pytest.raises(CeloError, match=r"'a'.*float32\[4\].*float32\[3\]"):
        checkpoint.load(path, {"a": np.zeros(4, np.float32)})


def test_whatever_is_damaged_is_refused_or_changes_nothing(tmp_path):
    """Wrong bytes anywhere raise a dozen types of errors in zipfile, zlib, NumPy and json."""
    path, state = (
        tmp_path / "checkpoint.npz",
        {"a": np.arange(40, dtype=np.float32), "b": np.ones(3, np.int32)},
    )
    checkpoint.save(path, state, {"phase": 0})
    whole, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            found = checkpoint.load(path, state)
        except CeloError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, found, state)
    assert refused > 300


@pytest.mark.parametrize("header", [b"[]", b"7", b"\xff", b""])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    path = tmp_path / "checkpoint.npz"
    with path.open("wb") as file:
        np.savez(file, header=np.frombuffer(header, np.uint8))
    with pytest.raises(CeloError, match=r"damaged|the format is None"):
        checkpoint.read_header(path)
