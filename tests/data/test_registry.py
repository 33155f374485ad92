"""The registered data sets: that each is told in full, and that altered data are refused."""

import numpy as np
import pytest

from celo.data._registry import DATASETS

# As published: images of the training and the test set together, or lines.
EXAMPLES = {
    "mnist": 60_000 + 10_000,
    "fashion_mnist": 60_000 + 10_000,
    "cifar10": 50_000 + 10_000,
    "svhn": 73_257 + 26_032,
    "digits": 1_797,
    "letters": 20_000,
    "satellite": 6_435,
    "mnist_on_cifar10": 60_000 + 10_000,
    "cifar100": 50_000 + 10_000,
    "kjv": 31_102,
    "austen": 73_427,
    "moby_dick": 21_425,
    "state_of_the_union": 230,
}
TEXTS = [name for name, info in DATASETS.items() if info.kind == "text"]
IMAGES = [name for name, info in DATASETS.items() if info.kind == "images"]
TABLES = [name for name, info in DATASETS.items() if info.kind == "table"]


def test_the_registry_is_whole():
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.providers
        assert info.title
        assert info.licence
        assert info.source
    assert {name: info.examples for name, info in DATASETS.items()} == EXAMPLES


def test_arrays_of_images_and_tables_are_those_of_the_official_files():
    """Validation is part of the official training set."""
    assert DATASETS["cifar10"].array_shapes == {
        "train_x": (50_000, 32, 32, 3),
        "train_y": (50_000,),
        "test_x": (10_000, 32, 32, 3),
        "test_y": (10_000,),
    }
    assert DATASETS["letters"].array_shapes == {
        "train_x": (16_000, 16),
        "train_y": (16_000,),
        "test_x": (4_000, 16),
        "test_y": (4_000,),
    }
    assert DATASETS["kjv"].array_shapes == {"text": (4_404_475,)}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_square_of_one_channel_or_three_and_have_classes(name):
    info = DATASETS[name]
    height, width, channels = info.shape
    assert height == width
    assert channels in (1, 3)
    assert info.num_classes >= 2


@pytest.mark.parametrize("name", TABLES)
def test_a_table_keeps_a_tenth_of_its_training_rows_for_validation(name):
    info = DATASETS[name]
    assert len(info.shape) == 1
    assert info.num_classes >= 2
    assert info.valid_examples == (info.train_examples + info.valid_examples) // 10


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_nine_tenths_training_and_one_twentieth_each_of_the_others(name):
    info = DATASETS[name]
    assert info.num_classes == 0
    for part, share in (
        (info.train_examples, 0.9),
        (info.valid_examples, 0.05),
        (info.test_examples, 0.05),
    ):
        assert abs(part - share * info.examples) <= 2


@pytest.mark.parametrize("name", DATASETS)
def test_every_provider_says_what_it_is_and_what_would_make_it_work(name, tmp_path):
    info = DATASETS[name]
    titles = [provider.title for provider in info.providers]
    assert len(set(titles)) == len(titles)
    for provider in info.providers:
        assert len(provider.remedy(tmp_path).split()) >= 3


@pytest.mark.parametrize("name", DATASETS)
def test_arrays_of_the_right_shape_and_another_content_are_refused(name):
    info = DATASETS[name]
    arrays = {key: np.zeros(shape, np.uint8) for key, shape in info.array_shapes.items()}
    with pytest.raises(ValueError, match=r"published (is|are) |examples of each class"):
        info.verify(arrays)


def test_the_digits_of_scikit_learn_are_the_published_ones_to_the_last_pixel(tmp_path):
    pytest.importorskip("sklearn")
    info = DATASETS["digits"]
    [provider] = info.providers
    arrays = provider.arrays(tmp_path, print, None)
    info.verify(arrays)
    assert {key: array.shape for key, array in arrays.items()} == info.array_shapes
    arrays["test_x"] = arrays["test_x"].copy()
    arrays["test_x"][-1, -1, -1, 0] ^= 1
    with pytest.raises(ValueError, match=r"test_x has MD5 \w+, published is f5633b76"):
        info.verify(arrays)
