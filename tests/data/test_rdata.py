"""R's stored objects, written here as R writes them, and the novels and tables that are read from them."""

import bz2
import gzip
import lzma
import struct
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import DATASETS, load_table, load_text
from celo.data._formats import read_austen, read_mlbench
from celo.data._rdata import lazy_objects, saved_objects, unserialize

UTF8, LATIN1, ASCII = 1 << 15, 1 << 14, 1 << 18
ATTRIBUTES, TAG, LAST = 0x200, 0x400, struct.pack(">i", 254)
SERIALIZED = struct.pack(">2s3i", b"X\n", 3, 0x040201, 0x030500) + struct.pack(">i5s", 5, b"UTF-8")


def characters(text, flag=ASCII, encoding="ascii"):
    data = text.encode(encoding)
    return struct.pack(">2i", 9 | flag, len(data)) + data


def strings(texts, *settings):
    return struct.pack(">2i", 16, len(texts)) + b"".join(characters(text, *settings) for text in texts)


def whole(values, kind=13):
    return struct.pack(f">{2 + len(values)}i", kind, len(values), *values)


def reals(values, flags=0):
    return struct.pack(f">2i{len(values)}d", 14 | flags, len(values), *values)


def named_list(items, names_symbol):
    """A list of serialized items, whose names are an attribute."""
    names = struct.pack(">i", 2 | TAG) + names_symbol + strings(list(items)) + LAST
    return struct.pack(">2i", 19 | ATTRIBUTES, len(items)) + b"".join(items.values()) + names


def lazy_pair(objects):
    """(Rdata.rdx, Rdata.rdb) of serialized objects by name."""
    symbol, again = struct.pack(">i", 1) + characters("names"), struct.pack(">i", 1 << 8 | 255)
    chunks, places, at = [], {}, 0
    for name, item in objects.items():
        data = SERIALIZED + item
        chunks.append(struct.pack(">i", len(data)) + zlib.compress(data))
        places[name] = whole([at, len(chunks[-1])])
        at += len(chunks[-1])
    index = {"variables": named_list(places, symbol), "compressed": whole([1], kind=10)}
    return gzip.compress(SERIALIZED + named_list(index, again)), b"".join(chunks)


NOVELS = {  # not in the order of their names
    "sense": strings(["SENSE", "", "It cost £5."], UTF8, "utf-8"),
    "emma": strings(["EMMA", "She was naïve."], LATIN1, "latin-1"),
}
TEXT = "EMMA\nShe was naïve.\n\nSENSE\n\nIt cost £5."


def test_the_objects_of_a_pair():
    objects = lazy_objects(*lazy_pair(NOVELS | {"numbers": whole([3, -1])}))
    assert list(objects) == ["sense", "emma", "numbers"]
    assert objects["sense"] == ["SENSE", "", "It cost £5."]
    assert objects["emma"] == ["EMMA", "She was naïve."]
    assert objects["numbers"] == (3, -1)


def test_the_second_version_names_no_encoding():
    data = struct.pack(">2s3i", b"X\n", 2, 0x030600, 0x020300) + strings(["a", "b"])
    assert unserialize(data) == ["a", "b"]


def test_what_is_of_another_format_or_type_is_refused():
    with pytest.raises(ValueError, match="starts with b'X"):
        unserialize(b"A\n3\n")
    with pytest.raises(ValueError, match="an R object of type 15 at byte 21"):
        unserialize(SERIALIZED + struct.pack(">2i2d", 15, 1, 0.5, 0.0))
    with pytest.raises(struct.error):
        unserialize(SERIALIZED + strings(["a", "b"])[:12])


def test_novels_follow_in_the_order_of_their_names():
    files = dict(zip(("Rdata.rdx", "Rdata.rdb"), lazy_pair(NOVELS), strict=True))
    text = read_austen(files.__getitem__)["text"]
    assert text.dtype == np.uint8
    assert text.tobytes().decode() == TEXT


@pytest.fixture
def novels_in_folder(data_folder, monkeypatch):
    """A function: settings of the set -> the pair lies in the local folder, the set's only provider."""

    def put(**settings):
        info = DATASETS["austen"]
        settings = {"shape": (len(TEXT.encode()),), "train_examples": 3, "valid_examples": 2, **settings}
        monkeypatch.setitem(DATASETS, "austen", replace(info, providers=info.providers[:1], **settings))
        folder = data_folder / "raw" / "austen"
        folder.mkdir(parents=True)
        for name, data in zip(("Rdata.rdx", "Rdata.rdb"), lazy_pair(NOVELS), strict=True):
            (folder / name).write_bytes(data)

    return put


def test_novels_from_the_local_folder_split_by_lines(novels_in_folder):
    novels_in_folder(verify=lambda arrays: None)
    text = load_text("austen")
    parts = ["".join(text.vocabulary[token] for token in part) for part in text[:3]]
    assert parts == ["EMMA\nShe was naïve.\n\n", "SENSE\n\n", "It cost £5.\n"]


def test_other_novels_are_refused(novels_in_folder):
    novels_in_folder()
    with pytest.raises(CeloError, match=r"text has MD5 \w+, published is fe08e020"):
        load_text("austen")


def test_the_split_is_nine_tenths_and_two_twentieths_of_the_lines():
    for name in ("kjv", "austen"):
        info = DATASETS[name]
        assert info.train_examples == info.examples * 9 // 10
        assert info.valid_examples == info.examples // 20


# Saved objects and the tables in them


SYMBOL, AGAIN = struct.pack(">i", 1), struct.pack(">i", 1 << 8 | 255)


def saved(name, item):
    """What R's `save` writes of one object, uncompressed; it is a list of pairs, as attributes are."""
    return b"RDX3\n" + SERIALIZED + struct.pack(">i", 2 | TAG) + SYMBOL + characters(name) + item + LAST


ROWS = {"one": [3, 250, 7, 0], "two": [1, 2, 15, 4]}
LABELS = [2, 1, 3, 2]


def table():
    """A data frame of `ROWS` and, between its columns, a factor of `LABELS`."""
    tag = struct.pack(">i", 2 | TAG)
    levels = tag + SYMBOL + characters("levels") + strings(["a", "b", "c"]) + LAST
    factor = struct.pack(">6i", 13 | ATTRIBUTES, len(LABELS), *LABELS) + levels
    columns = {"one": reals(ROWS["one"]), "label": factor, "two": reals(ROWS["two"])}
    return saved("Table", named_list(columns, SYMBOL + characters("names")))


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_saved_data_frame_in_each_compression_of_r(compress):
    columns = {"one": tuple(ROWS["one"]), "label": tuple(LABELS), "two": tuple(ROWS["two"])}
    assert saved_objects(compress(table())) == {"Table": columns}


def test_attributes_of_reals_are_passed_over():
    attribute = struct.pack(">i", 2 | TAG) + SYMBOL + characters("unit") + strings(["cm"]) + LAST
    item = reals([0.5, -2.0], ATTRIBUTES) + attribute
    assert unserialize(SERIALIZED + struct.pack(">2i", 19, 2) + item + whole([7])) == [(0.5, -2.0), (7,)]


def test_what_was_not_saved_by_r_is_refused():
    with pytest.raises(ValueError, match=r"start with RDX2 or RDX3, these with b'RDA2"):
        saved_objects(lzma.compress(b"RDA2\nA\n"))


def test_a_table_is_its_features_and_classes_counted_from_0():
    arrays = read_mlbench("Table", "label", 3, {"Table.rda": table()}.__getitem__)
    assert all(array.dtype == np.uint8 for array in arrays.values())
    assert {key: array.tolist() for key, array in arrays.items()} == {
        "train_x": [[3, 1], [250, 2], [7, 15]],
        "train_y": [1, 0, 2],
        "test_x": [[0, 4]],
        "test_y": [1],
    }


@pytest.fixture
def letters_in_folder(data_folder, monkeypatch):
    """A function: settings of the set -> four rows lie in the local folder, the set's only provider."""

    def put(**settings):
        info = DATASETS["letters"]
        settings = {"shape": (2,), "train_examples": 1, "valid_examples": 1, "test_examples": 2, **settings}
        settings["providers"] = (replace(info.providers[0], read=partial(read_mlbench, "Table", "label", 2)),)
        monkeypatch.setitem(DATASETS, "letters", replace(info, **settings))
        folder = data_folder / "raw" / "letters"
        folder.mkdir(parents=True)
        (folder / "Table.rda").write_bytes(lzma.compress(table()))

    return put


def test_a_table_from_the_local_folder_keeps_its_published_test_rows(letters_in_folder):
    letters_in_folder(verify=lambda arrays: None)
    found = load_table("letters")
    assert found.num_classes == 26
    assert all(split.x.dtype == np.float32 and split.y.dtype == np.int32 for split in found[:3])
    assert found.test.x.tolist() == [[7, 15], [0, 4]]
    assert found.test.y.tolist() == [2, 1]
    training = [*found.train.x.tolist(), *found.valid.x.tolist()]
    assert sorted(training) == [[3, 1], [250, 2]]
    assert sorted([*found.train.y.tolist(), *found.valid.y.tolist()]) == [0, 1]


def test_another_table_is_refused(letters_in_folder):
    letters_in_folder()
    with pytest.raises(CeloError, match=r"train_x has MD5 \w+, published is 9065f3aa"):
        load_table("letters")
