import numpy as np
import pytest
from trees import official_tree, pack

from celo._errors import CeloError
from celo._published.layout import Layout, Piece, decode, encode, first_layer, linear
from celo.convert import LAYOUTS

TWO_BANKS = Layout(  # arrays cut apart along a later axis, put together, and kept under other names
    "toy",
    (
        Piece(("net", "w0__0"), (2, 1, 4), ..., "rule/w0", at=(0, 0)),
        Piece(("net", "w0__1"), (2, 3, 4), ..., "rule/w0", at=(0, 1)),
        Piece(("net", "out"), (2, 4, 3), np.s_[..., :2], "rule/out"),
        Piece(("net", "out"), (2, 4, 3), np.s_[..., 2], "official/net/out_third"),
        Piece(("rate",), (), ..., "rule/rate"),
    ),
)


def test_shapes_follow_from_the_pieces():
    assert TWO_BANKS.depth == 2
    assert TWO_BANKS.published_shapes == {
        "net.w0__0": (2, 1, 4),
        "net.w0__1": (2, 3, 4),
        "net.out": (2, 4, 3),
        "rate": (),
    }
    assert TWO_BANKS.theta_shapes == {"rule/w0": (2, 4, 4), "rule/out": (2, 4, 2), "rule/rate": ()}
    assert TWO_BANKS.unused_shapes == {"official/net/out_third": (2, 4)}
    assert TWO_BANKS.own_shapes == {**TWO_BANKS.theta_shapes, **TWO_BANKS.unused_shapes}


def test_there_and_back():
    rng = np.random.default_rng(0)
    own = {name: rng.normal(size=shape).astype("f4") for name, shape in TWO_BANKS.own_shapes.items()}
    tree = TWO_BANKS.to_published(own)
    assert list(tree) == ["net", "rate"]
    np.testing.assert_array_equal(tree["net"]["w0__1"], own["rule/w0"][:, 1:])
    np.testing.assert_array_equal(tree["net"]["out"][..., 2], own["official/net/out_third"])
    published = decode(encode(tree), TWO_BANKS.depth)
    assert {name: array.shape for name, array in published.items()} == TWO_BANKS.published_shapes
    back = TWO_BANKS.to_own(published)
    assert back.keys() == own.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.architecture)
def test_every_number_of_a_published_file_has_one_place(layout):
    """Numbered in our arrays, each number is once in the published ones, and the other way round."""
    count = sum(int(np.prod(shape)) for shape in layout.own_shapes.values())
    assert count == sum(int(np.prod(shape)) for shape in layout.published_shapes.values())
    ends = np.cumsum([int(np.prod(shape)) for shape in layout.own_shapes.values()])
    own = {
        name: np.arange(end - np.prod(shape, dtype=int), end, dtype="f4").reshape(shape)
        for (name, shape), end in zip(layout.own_shapes.items(), ends, strict=True)
    }
    published = decode(encode(layout.to_published(own)), layout.depth)
    numbers = np.concatenate([array.ravel() for array in published.values()])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(count))
    for name, array in layout.to_own(published).items():
        np.testing.assert_array_equal(array, own[name])


def test_a_first_layer_in_groups_is_in_the_order_of_the_file_and_of_the_inputs():
    pieces = first_layer(("net",), (1,) * 9 + (2, 3), 4, "rule/w0")
    assert [piece.keys[-1] for piece in pieces][:4] == ["w0__0", "w0__1", "w0__10", "w0__2"]
    assert {piece.keys[-1]: piece.at for piece in pieces}["w0__10"] == (11,)
    assert Layout("toy", tuple(pieces)).own_shapes == {"rule/w0": (14, 4)}


def test_a_linear_layer():
    layout = Layout("toy", tuple(linear("nets", "a/b", 5, 7, "ours/b", "ours/w")))
    assert layout.published_shapes == {"nets.a/b.b": (7,), "nets.a/b.w": (5, 7)}
    assert layout.own_shapes == {"ours/b": (7,), "ours/w": (5, 7)}


def test_arrays_lie_no_deeper_than_said():
    data = encode({"a": {"b": {"c": np.ones(2, "f4")}}})
    assert list(decode(data, depth=3)) == ["a.b.c"]
    with pytest.raises(CeloError, match=r"a\.b is a dict, not an array"):
        decode(data, depth=2)


def test_large_arrays_and_scalars():
    """Longer than any published one; 40 MB."""
    tree = {"large": np.ones((1024, 10_240), "f4"), "scalar": np.asarray(3.0, "f4")}
    found = decode(encode(tree), depth=1)
    assert found["large"].shape == (1024, 10_240)
    assert found["scalar"].shape == ()
    assert found["scalar"] == 3


# What is no published file


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "invalid msgpack"),
        (b"\xc1", "invalid msgpack"),
        (b"\x00", "holds one int instead of a dict"),
        (b"PK\x03\x04 a zip or npz file", "invalid msgpack"),
        (b"\x91" * 100_000, "invalid msgpack"),  # nested beyond any limit
        (b"\x81\xa1a" * 2_000 + b"\x00", "invalid msgpack"),
        (b"\xdd\xff\xff\xff\xff", "invalid msgpack"),  # a list of 4 billion entries
        (b"\xdf\xff\xff\xff\xff", "invalid msgpack"),
        (b"\xc6\xff\xff\xff\xff", "invalid msgpack"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "a is a Timestamp, not an array"),
        (b"\x81\xc0\x00", "invalid msgpack"),  # a key that is no text
        (b"\x81\xa1\xff\x00", "invalid msgpack"),  # not UTF-8
    ],
)
def test_wrong_bytes(data, message):
    with pytest.raises(CeloError, match=message):
        decode(data, depth=3)


def test_flipped_and_random_bytes_raise_nothing_but_celo_error():
    rng = np.random.default_rng(0)
    data = pack(official_tree("celo"))
    outcomes = set()
    for trial in range(1500):
        if trial % 4:
            corrupt = bytearray(data)
            for index in rng.integers(0, 800 if trial % 4 == 1 else len(data), size=rng.integers(1, 6)):
                corrupt[index] = rng.integers(256)
        else:
            corrupt = rng.bytes(rng.integers(0, 300))
        try:
            decode(bytes(corrupt), depth=3)
            outcomes.add("read")  # a changed number is still a number
        except CeloError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
