import numpy as np
import pytest

from celo.data._pixels import LUMA, area_weights, digits_over_photographs, resize_images

RANDOM = np.random.default_rng(0)


def images(size, channels, count=5):
    return RANDOM.integers(0, 256, (count, size, size, channels), np.uint8)


def brute_force(x, size):
    """Split every pixel into size x size equal parts, then average each box of the finer grid."""
    fine = x.repeat(size, 1).repeat(size, 2).astype(np.float64)
    count, side, _, channels = fine.shape
    box = side // size
    return fine.reshape(count, size, box, size, box, channels).mean((2, 4))


@pytest.mark.parametrize(("old", "new"), [(28, 8), (32, 8), (8, 28), (5, 3), (7, 7), (1, 4)])
def test_weights_share_out_every_pixel(old, new):
    weights = area_weights(old, new)
    assert weights.shape == (new, old)
    assert len(set(weights.sum(1))) == 1
    assert len(set(weights.sum(0))) == 1


def test_an_integer_ratio_is_the_mean_of_blocks():
    x = images(32, 3)
    blocks = x.reshape(5, 8, 4, 8, 4, 3).sum((2, 4), dtype=np.int64)
    np.testing.assert_array_equal(resize_images(x, 8, grey=False), (2 * blocks + 16) // 32)


@pytest.mark.parametrize(("old", "new"), [(28, 8), (32, 28), (8, 12)])
def test_a_fractional_ratio_equals_brute_force(old, new):
    x = images(old, 3)
    exact = brute_force(x, new)
    assert np.abs(resize_images(x, new, grey=False) - exact).max() <= 0.5 + 1e-9


def test_the_mean_is_conserved():
    x = images(28, 1, count=2100)  # more than one chunk
    small = resize_images(x, 8, grey=False)
    assert abs(small.mean() - x.mean()) < 0.02
    assert np.abs(small.mean((1, 2)) - x.mean((1, 2))).max() < 0.5


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_a_constant_stays_the_same(value):
    x = np.full((2, 28, 28, 3), value, np.uint8)
    assert (resize_images(x, 8, grey=False) == value).all()
    assert (resize_images(x, 8, grey=True) == value).all()


def test_grey_is_luma_rounded_once():
    x = images(32, 3)
    grey = resize_images(x, 8, grey=True)
    assert grey.shape == (5, 8, 8, 1)
    exact = brute_force(x, 8) @ LUMA / 1000
    assert np.abs(grey[..., 0] - exact).max() <= 0.5 + 1e-9


def test_grey_of_one_channel_changes_nothing():
    x = images(28, 1)
    np.testing.assert_array_equal(resize_images(x, 8, grey=True), resize_images(x, 8, grey=False))


def test_halves_round_up():
    x = np.array([0, 1, 0, 1], np.uint8).reshape(1, 2, 2, 1)
    assert resize_images(x, 1, grey=False).item() == 1


def test_digits_over_photographs():
    rng = np.random.default_rng(0)
    digits = {
        "train_x": rng.integers(0, 256, (5, 28, 28, 1), np.uint8),
        "train_y": np.arange(5, dtype=np.uint8),
    }
    digits |= {"test_x": digits["train_x"][:2], "test_y": digits["train_y"][:2]}
    photographs = {key: np.full((3, 32, 32, 3), 100, np.uint8) for key in ("train_x", "test_x")}
    made = digits_over_photographs(digits, photographs)
    np.testing.assert_array_equal(made["train_x"], np.abs(50 - digits["train_x"].astype(int)))
    np.testing.assert_array_equal(made["train_y"], digits["train_y"])
