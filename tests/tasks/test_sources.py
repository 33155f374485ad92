"""Batches: from which split, which numbers, how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import Split, Text
from celo.tasks._base import SPLITS
from celo.tasks._sources import Examples, Windows, text_windows, uniform_index


def draws(source, count=1, seed=0):
    return source.draw(jax.random.key(seed), count)


def test_examples_come_from_their_split_with_their_targets():
    splits = {
        split: Split(100 * i + np.arange(3 + i, dtype=np.uint8)[:, None], np.arange(3 + i, dtype=np.int32))
        for i, split in enumerate(SPLITS)
    }
    source = Examples(splits, classes=10, batch_size=200, shift=2.0, scale=0.5)
    assert (source.inputs.shape, source.inputs.dtype) == ((200, 1), jnp.float32)
    for i, split in enumerate(SPLITS):
        x, y = source.batch(split, draws(source)[0])
        assert (x.shape, x.dtype, y.dtype) == ((200, 1), jnp.float32, jnp.int32)
        np.testing.assert_array_equal(x[:, 0], (100 * i + y - 2) / 2)
        assert set(y.tolist()) == set(range(3 + i))


def test_windows_are_stretches_of_their_split_and_their_next_characters():
    splits = {split: np.arange(60 * i, 60 * i + 30, dtype=np.uint8) for i, split in enumerate(SPLITS)}
    source = Windows(splits, classes=200, batch_size=300, length=5)
    assert (source.inputs.shape, source.inputs.dtype) == ((300, 5), jnp.int32)
    for i, split in enumerate(SPLITS):
        inputs, targets = source.batch(split, draws(source)[0])
        assert inputs.dtype == targets.dtype == jnp.int32
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(5))
        starts = set((inputs[:, 0] - 60 * i).tolist())
        assert starts == set(range(25))  # the last window's targets end with the text


def test_a_part_no_longer_than_a_window_is_named(monkeypatch):
    text = Text(np.zeros(90, np.uint8), np.arange(5, dtype=np.uint8), np.zeros(6, np.uint8), "abcdef")
    monkeypatch.setattr("celo.tasks._sources.load_text", lambda name: text)
    with pytest.raises(CeloError, match=r"the valid part of 'kjv' has 5 tokens.* a window of 5 and"):
        text_windows("kjv", length=5, batch_size=2)
    source = text_windows("kjv", length=4, batch_size=2)
    inputs, targets = source.batch("valid", draws(source)[0])
    np.testing.assert_array_equal(inputs, [[0, 1, 2, 3]] * 2)
    np.testing.assert_array_equal(targets, [[1, 2, 3, 4]] * 2)


@pytest.mark.parametrize("size", [1, 7, 2**22 + 1])
def test_index_stays_below_the_size(size):
    index = uniform_index(jnp.asarray([0.0, np.nextafter(np.float32(1), np.float32(0)), 1.0]), size)
    assert index.dtype == jnp.int32
    assert index.tolist() == [0, size - 1, size - 1]


def test_draws_are_of_many_batches_and_of_their_key():
    source = Windows({}, classes=2, batch_size=4, length=2)
    many = draws(source, 3)
    assert many.shape == (3, 4)
    assert len(np.unique(many)) == 12
    np.testing.assert_array_equal(many, draws(source, 3))
    assert np.all(many != draws(source, 3, seed=1))
