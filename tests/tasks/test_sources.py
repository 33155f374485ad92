"""Batches: from which split, which numbers, how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import Split, Text
from celo.tasks import SPLITS, Examples, Windows, make_task, text_windows
from celo.tasks._sources import uniform_index


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


def test_several_sets_in_one_source():
    """Each member draws from its own examples, with its own shift and scale, also under vmap."""
    sizes = {"train": (3, 5), "valid": (1, 2), "test": (4, 1)}
    splits = {}
    for i, split in enumerate(SPLITS):
        x = np.concatenate([100 * i + 50 * member + np.arange(n) for member, n in enumerate(sizes[split])])
        splits[split] = Split(x.astype(np.uint8)[:, None], x.astype(np.int32))
    shift, scale = np.asarray([0.0, 10.0]), np.asarray([1.0, 0.5])
    source = Examples(splits, classes=400, batch_size=100, shift=shift, scale=scale, sizes=sizes)
    draw = draws(source)[0]
    for i, split in enumerate(SPLITS):
        both = jax.vmap(lambda member, split=split: source.batch(split, draw, member))(jnp.arange(2))
        for member in range(2):
            x, y = source.batch(split, draw, jnp.int32(member))
            expected = 100 * i + 50 * member + np.arange(sizes[split][member])
            assert set(y.tolist()) == set(expected.tolist())
            np.testing.assert_array_equal(x[:, 0], (np.asarray(y) - shift[member]) * scale[member])
            np.testing.assert_array_equal(both[0][member], x)
            np.testing.assert_array_equal(both[1][member], y)


def test_tasks_on_a_corpus_read_the_users_files(tmp_path, monkeypatch):
    monkeypatch.setenv("CELO_DATA_DIR", str(tmp_path))
    folder = tmp_path / "raw" / "lm1b"
    folder.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        np.save(folder / f"{part}.npy", np.arange(31_990, dtype=np.int64))
    family = make_task("lm1b_transformer_lm5")
    assert family.members == ("lm1b",)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    inputs, targets = family.batch(task, "valid", family.draw(jax.random.key(0), 1)[0])
    assert inputs.shape == targets.shape == (8, 32)
    np.testing.assert_array_equal(targets, inputs + 1)
    assert inputs.max() > 255
    with pytest.raises(CeloError, match="'wikipedia'"):
        make_task("wikipedia_lstm256")
