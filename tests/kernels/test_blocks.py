"""Tensors in blocks come out as they went in, and each has its own mean."""

import jax
import jax.numpy as jnp
import numpy as np

from celo._kernels.blocks import SIZE, Blocks, in_blocks, num_blocks, taken_out

RUNS = ((3, 5), (1, SIZE), (2, 20 * SIZE + 1))


def tensors():
    keys = jax.random.split(jax.random.key(0), len(RUNS))
    return [jax.random.normal(key, run) for key, run in zip(keys, RUNS, strict=True)]


def test_tensors_come_out_as_they_went_in():
    blocks = Blocks(RUNS, multiple=4)
    array = in_blocks(blocks, tensors(), fill=7.0)
    assert array.shape == (blocks.total, SIZE)
    assert blocks.total % 4 == 0
    for number, tensor in enumerate(tensors()):
        begin = jnp.int32(blocks.ends[number])
        np.testing.assert_array_equal(blocks.run(array, number), tensor)
        np.testing.assert_array_equal(taken_out(array, begin, tensor.shape, 1), tensor)
        assert blocks.ends[number + 1] - blocks.ends[number] == num_blocks(tensor.shape, 1)


def test_means_are_of_each_tensor():
    blocks = Blocks(RUNS, multiple=4)
    means = blocks.means(in_blocks(blocks, tensors()).sum(-1))
    expected = np.concatenate([np.mean(x, axis=1) for x in tensors()])
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-6)


def test_as_many_places_are_filled_as_there_are_elements():
    blocks = Blocks(RUNS, multiple=4)
    assert blocks.filled().sum() == sum(count * size for count, size in RUNS)
    values = blocks.spread(np.arange(6))
    assert values.shape == (blocks.total,)
    assert values[:3].tolist() == [0, 1, 2]
