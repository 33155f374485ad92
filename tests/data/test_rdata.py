"""R's stored objects, written here as R writes them, and the novels that are read from such a pair."""

import gzip
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import DATASETS, load_text
from celo.data._formats import read_austen
from celo.data._rdata import lazy_objects, unserialize

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
    with pytest.raises(ValueError, match="an R object of type 14 at byte 21"):
        unserialize(SERIALIZED + struct.pack(">2id", 14, 1, 0.5))
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
