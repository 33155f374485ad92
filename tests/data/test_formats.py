import gzip
import hashlib
import io
import json
import struct

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import _formats as formats

RANDOM = np.random.default_rng(1)


def getter(files):
    def get_file(name):
        return files[name]

    return get_file


def random_set(train, test, shape):
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        arrays[f"{name}_x"] = RANDOM.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"{name}_y"] = RANDOM.integers(0, 10, count, np.uint8)
    return arrays


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])
        assert found[key].dtype == np.uint8


def test_idx_header_by_hand():
    data = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6])
    assert formats.decode_idx(data).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert formats.encode_idx(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file"),
        (b"<html>", "not an IDX file"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 4, 1, 2]), "the file holds 2 values"),
    ],
)
def test_idx_damage_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        formats.decode_idx(data)


def test_idx_set_there_and_back():
    arrays = random_set(7, 3, (4, 4, 1))
    assert_same(formats.read_idx_set(getter(formats.idx_files(arrays))), arrays)


def test_cifar_planes_become_channels():
    row = bytes([7]) + bytes([10] * 1024) + bytes([20] * 1024) + bytes([30] * 1024)
    files = {f"{name}.bin": row for name in (*formats.CIFAR_TRAIN, "test_batch")}
    arrays = formats.read_cifar_bin(getter(files))
    assert arrays["train_x"].shape == (5, 32, 32, 3)
    assert arrays["train_x"][0, 5, 6].tolist() == [10, 20, 30]
    assert arrays["train_y"].tolist() == [7] * 5
    assert arrays["test_x"].shape == (1, 32, 32, 3)


def test_cifar_binary_and_png_agree():
    image = pytest.importorskip("PIL.Image")
    arrays = random_set(10, 2, (32, 32, 3))
    assert_same(formats.read_cifar_bin(getter(formats.cifar_files(arrays))), arrays)

    def png(x):
        file = io.BytesIO()
        image.fromarray(x.reshape(len(x), 1024, 3)).save(file, "PNG")
        return file.getvalue()

    files = {f"data_batch_{i + 1}.png": png(arrays["train_x"][2 * i : 2 * i + 2]) for i in range(5)}
    files["test_batch.png"] = png(arrays["test_x"])
    files["train_lables.json"] = json.dumps(arrays["train_y"].tolist()).encode()
    files["test_lables.json"] = json.dumps(arrays["test_y"].tolist()).encode()
    assert_same(formats.read_cifar_png(getter(files)), arrays)


def test_svhn_matlab_files(monkeypatch):
    savemat = pytest.importorskip("scipy.io").savemat
    arrays = random_set(6, 4, (32, 32, 3))
    files = {}
    for split in ("train", "test"):
        labels = np.where(arrays[f"{split}_y"] == 0, 10, arrays[f"{split}_y"])[:, None]
        file = io.BytesIO()
        savemat(file, {"X": arrays[f"{split}_x"].transpose(1, 2, 3, 0), "y": labels})
        files[f"{split}_32x32.mat"] = file.getvalue()
    with pytest.raises(ValueError, match=r"train_32x32.mat has MD5 \w+, published is e26d"):
        formats.read_svhn(getter(files))
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(formats, "SVHN_MD5", sums)
    assert_same(formats.read_svhn(getter(files)), arrays)
    with pytest.raises(ValueError, match="class counts"):
        formats.check_svhn(arrays)


def test_svhn_counts_add_up():
    arrays = {key: np.repeat(np.arange(10), counts) for key, counts in formats.SVHN_CLASS_COUNTS.items()}
    formats.check_svhn(arrays)
    assert {key: len(y) for key, y in arrays.items()} == {"train_y": 73257, "test_y": 26032}


@pytest.mark.parametrize(
    ("module", "package", "read"),
    [("PIL", "pillow", formats.read_cifar_png), ("scipy.io", "scipy", formats.read_svhn)],
)
def test_a_missing_package_is_named_with_the_command(monkeypatch, module, package, read):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(CeloError, match=rf"{package} is not installed: pip install 'celo\[data\]'"):
        read(getter({}))


def test_md5_difference_is_named():
    arrays = {"text": np.frombuffer(b"abc", np.uint8)}
    good = {"text": "900150983cd24fb0d6963f7d28e17f72"}
    formats.check_md5(formats.array_files, good, arrays)
    with pytest.raises(ValueError, match=r"text has MD5 9001.*, published is 0000"):
        formats.check_md5(formats.array_files, {"text": "0000"}, arrays)


class BitWriter:
    """Writes LZW codes in compress(1)'s groups of eight."""

    def __init__(self):
        self.out, self.group = bytearray(), []

    def write(self, code, width):
        self.group.append(code)
        if len(self.group) == 8:
            self.pad(width)

    def pad(self, width):
        if self.group:
            bits = sum(code << (i * width) for i, code in enumerate(self.group))
            self.out += bits.to_bytes(width, "little")
            self.group = []

    def end(self, width):
        bits = sum(code << (i * width) for i, code in enumerate(self.group))
        self.out += bits.to_bytes(-(-len(self.group) * width // 8), "little")
        return bytes(self.out)


def compress(data, clear_at=None):
    """compress(1) without its header; optionally clears its table after `clear_at` codes."""
    writer, table, width, codes = BitWriter(), {bytes([i]): i for i in range(256)}, 9, 0
    size, known, current = 257, 257, b""  # the decoder learns an entry one code later than we do
    for value in data:
        longer = current + bytes([value])
        if longer in table:
            current = longer
            continue
        writer.write(table[current], width)
        codes += 1
        known = size
        if size < 1 << 16:
            table[longer] = size
            size += 1
        current = bytes([value])
        if known >= 1 << width and width < 16:
            writer.pad(width)
            width += 1
        if codes == clear_at:
            writer.write(256, width)
            writer.pad(width)
            table, width, size = {bytes([i]): i for i in range(256)}, 9, 257
    if current:
        writer.write(table[current], width)
    return writer.end(width)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"a" * 300,  # codes that name the entry being made
        bytes(RANDOM.integers(0, 4, 3000, np.uint8)),
        bytes(RANDOM.integers(0, 256, 90_000, np.uint8)),  # through all widths until the table is full
    ],
)
@pytest.mark.parametrize("clear_at", [None, 100, 1000])
def test_lzw_there_and_back(data, clear_at):
    packed = compress(data, clear_at)
    assert formats.lzw_decompress(packed) == data


def test_lzw_damage_is_named():
    with pytest.raises(ValueError, match="LZW code"):
        formats.lzw_decompress(b"\xff" * 40)


VERSES = [f"Ge1:{number} Verse {number}, and so on." for number in range(1, 21)]


def bible_data(blocks):
    packed = [compress(block.encode()) for block in blocks]
    start = 0x5C + 4 * len(packed)
    offsets = [start + sum(map(len, packed[:i])) for i in range(len(packed))]
    head = b"EC02".ljust(0x58, b"\0") + struct.pack(f">I{len(packed)}I", len(packed), *offsets)
    return head + b"".join(packed)


def test_kjv_blocks_are_joined():
    blocks = ["Holy Bible, a title.\n", "\n".join(VERSES[:8]) + "\nGe1", ":9 " + "\n".join(VERSES[8:]) + "\n"]
    text = formats.read_kjv(getter({"bible.data": bible_data(blocks)}))["text"]
    assert text.tobytes().decode() == "".join(blocks)


def test_kjv_of_another_format_is_refused():
    with pytest.raises(ValueError, match="EC02"):
        formats.read_kjv(getter({"bible.data": gzip.compress(b"something else")}))


def test_cifar100_takes_the_fine_label():
    rng = np.random.default_rng(0)
    rows = {
        name: rng.integers(0, 256, (count, 3074), np.uint8) for name, count in (("train", 6), ("test", 3))
    }
    arrays = formats.read_cifar100_bin(getter({f"{name}.bin": r.tobytes() for name, r in rows.items()}))
    np.testing.assert_array_equal(arrays["test_y"], rows["test"][:, 1])
    np.testing.assert_array_equal(arrays["train_x"][2, 5, 7], rows["train"][2, 2 + 5 * 32 + 7 :: 1024][:3])


def test_balance():
    labels = np.arange(20, dtype=np.uint8) % 10
    formats.check_balance(10, {"train_y": labels, "test_y": labels})
    with pytest.raises(ValueError, match="train_y"):
        formats.check_balance(10, {"train_y": labels[:-1], "test_y": labels})
