import hashlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
from trees import official_tree, pack, write

from celo import weights
from celo._errors import CeloError
from celo.convert import convert, read_official, to_official

SHARED = Path(__file__).resolve().parents[2] / "shared"
COUNTS = {"celo": (35_803, 1_286), "celo_adam": (35_649, 1_216)}


def reference(architecture):
    path = SHARED / "reference" / architecture / "theta.state"
    if not path.exists():
        pytest.skip(f"the published file is not here: {path}")
    return path


@pytest.fixture(params=["celo", "celo_adam"])
def architecture(request):
    return request.param


@pytest.fixture
def state(tmp_path, architecture):
    return write(tmp_path / "theta.state", official_tree(architecture))


# Round trips


def check_round_trip(source, architecture, folder):
    data = source.read_bytes()
    ours, back = folder / "ours.safetensors", folder / "back.state"
    forth_line, back_line = convert(source, ours), convert(ours, back)
    assert back.read_bytes() == data
    loaded = weights.load(ours)
    live, dead = COUNTS[architecture]
    assert sum(array.size for array in weights.flatten(loaded.theta).values()) == live
    assert sum(array.size for array in loaded.extra.values()) == dead
    official_sha256 = hashlib.sha256(data).hexdigest()
    assert loaded.metadata == {
        "format": "celo-theta/1",
        "architecture": architecture,
        "official_sha256": official_sha256,
    }
    assert forth_line == f"{ours}: {architecture}, {live:,} weights, sha256 {loaded.sha256}"
    assert back_line == f"{back}: {architecture}, {live:,} weights, sha256 {official_sha256}"


def test_round_trip_of_synthetic_files(state, architecture, tmp_path):
    check_round_trip(state, architecture, tmp_path)


def test_round_trip_of_the_published_files(architecture, tmp_path):
    check_round_trip(reference(architecture), architecture, tmp_path)


def test_read_and_write_by_hand(state, architecture, tmp_path):
    theta, unused, found = read_official(state)
    assert found == architecture
    digest = to_official(theta, unused, tmp_path / "back.state")
    assert (tmp_path / "back.state").read_bytes() == state.read_bytes()
    assert digest == hashlib.sha256(state.read_bytes()).hexdigest()


def test_weights_without_unused_part_get_zeros_there(state, architecture, tmp_path):
    theta, _, _ = read_official(state)
    path = tmp_path / "own.safetensors"
    weights.save(path, theta, metadata={"architecture": architecture}, extra={"notes": np.ones(1, "f4")})
    convert(path, tmp_path / "own.state")

    tree = official_tree(architecture)
    dead = [tree["rnn_params"]["linear"]["b"], tree["rnn_params"]["linear"]["w"]]
    if architecture == "celo":
        stack, controls = tree["ff_mod_stack"]["~"], tree["rnn_params"]["rnn_to_controls"]
        dead += [stack["w2"][:, :, 2], stack["b2"][:, 2], controls["b"], controls["w"]]
    for array in dead:
        array[...] = 0
    assert (tmp_path / "own.state").read_bytes() == pack(tree)


def test_bundled_names_can_be_converted_back(state, tmp_path, monkeypatch):
    shelf = tmp_path / "pretrained"
    shelf.mkdir()
    convert(state, shelf / "mine.safetensors")
    monkeypatch.setattr(weights, "_folder", lambda: shelf)
    convert("mine", tmp_path / "back.state")
    assert (tmp_path / "back.state").read_bytes() == state.read_bytes()


# Official files that are not what they should be


CELL = "lstm_init_state.cell"


def packed(*content):
    return msgpack.ExtType(1, msgpack.packb(content))


def with_value(array, value):
    array.flat[3] = value
    return array


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rnn_params.linear_1.w", None, r"missing: rnn_params\.linear_1\.w"),
        ("rnn_params", None, "missing: .* and 8 more"),
        ("rnn_params.extra.w", np.zeros(1, "f4"), r"unexpected: rnn_params\.extra\.w"),
        ("extra", {}, "extra is a dict, not an array"),
        ("extra", {"a.b": 0}, "unexpected key 'a.b'"),
        ("extra", {b"bytes": 0}, "unexpected key b'bytes'"),
        ("k" * 300, np.zeros(1, "f4"), "invalid msgpack"),
        ("ff_mod_stack.~.w1", np.zeros((32, 4, 4), "f4"), r"w1 is \(32, 4, 4\), expected \(1, 4, 4\)"),
        ("rnn_params.linear.b", np.zeros(64, "f8"), r"rnn_params\.linear\.b is float64, not float32"),
        ("rnn_params.linear.b", with_value(np.zeros(64, "f4"), np.inf), r"finite: rnn_params\.linear\.b"),
        (CELL, with_value(np.zeros((1, 64), "f4"), np.nan), r"not finite: lstm_init_state\.cell"),
        (CELL, [0.0, 1.0], r"lstm_init_state\.cell is a list, not an array"),
        ("rnn_params.linear.w", {"deep": 0}, r"rnn_params\.linear\.w is a dict, not an array"),
        (CELL, msgpack.ExtType(2, b""), "cell is a ExtType, not an array"),
        (CELL, msgpack.ExtType(1, b""), "invalid msgpack"),
        (CELL, msgpack.ExtType(1, b"\xc1"), "invalid msgpack"),
        (CELL, packed([1], "float32"), "not packed as shape, dtype and bytes"),
        (CELL, packed([True], "float32", bytes(4)), "not packed as shape"),
        (CELL, packed(["1"], "float32", bytes(4)), "not packed as shape"),
        (CELL, packed([1, 64], "float32", bytes(8)), r"8 bytes, .* shape \(1, 64\)"),
        (CELL, packed([-1, -1], "float32", bytes(4)), "4 bytes, which do not make"),
        (CELL, packed([0, 2**63], "float32", b""), "0 bytes, which do not make"),
        (CELL, packed([1] * 9, "float32", bytes(4)), "invalid msgpack"),
        (CELL, packed([], "float32", bytes(4)), r"cell is \(\), expected \(1, 64\)"),
    ],
)
def test_wrong_content(tmp_path, name, value, message):
    tree = official_tree("celo")
    *groups, leaf = name.split(".")
    node = tree
    for group in groups:
        node = node.setdefault(group, {})
    node[leaf] = value
    if value is None:
        del node[leaf]
    path = write(tmp_path / "theta.state", tree)
    with pytest.raises(CeloError, match=rf"theta\.state: not an official theta.state of celo.*{message}"):
        read_official(path)
    with pytest.raises(CeloError, match=message):
        convert(path, tmp_path / "ours.safetensors")
    assert list(tmp_path.iterdir()) == [path]


def test_truncation_anywhere_is_a_celo_error(state, tmp_path):
    data = state.read_bytes()
    cut = tmp_path / "cut.state"
    offsets = {*range(700), *range(700, len(data), 997), *range(len(data) - 300, len(data))}
    for length in sorted(offsets):
        cut.write_bytes(data[:length])
        with pytest.raises(CeloError, match=r"cut\.state: not an official"):
            read_official(cut)
    cut.write_bytes(data + b"\x00")
    with pytest.raises(CeloError, match="invalid msgpack"):
        read_official(cut)


# convert's arguments


def test_missing_source(tmp_path):
    for destination in ["x.safetensors", "x.state"]:
        with pytest.raises(CeloError, match="no such file"):
            convert(tmp_path / "gone.state", tmp_path / destination)
    with pytest.raises(CeloError, match="unknown weights 'gone'"):
        convert("gone", tmp_path / "x.state")


@pytest.mark.parametrize("name", ["ours", "ours.npz", "folder"])
def test_destination_suffix_chooses_the_direction(state, tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CeloError, match=r"must end in \.safetensors .* or \.state"):
        convert(state, tmp_path / name)


def test_destination_must_be_a_file_in_a_folder_that_exists(state, tmp_path):
    ours = tmp_path / "ours.safetensors"
    convert(state, ours)
    for source, suffix in [(state, "safetensors"), (ours, "state")]:
        (tmp_path / f"folder.{suffix}").mkdir()
        with pytest.raises(CeloError, match="is a folder; name the file"):
            convert(source, tmp_path / f"folder.{suffix}")
        with pytest.raises(CeloError, match=r"the folder .*gone does not exist"):
            convert(source, tmp_path / "gone" / f"x.{suffix}")


def test_source_is_never_overwritten_with_itself(state, tmp_path, monkeypatch):
    data = state.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(state)
    monkeypatch.chdir(tmp_path)
    for destination in [state, "theta.state", "./theta.state", link]:
        with pytest.raises(CeloError, match="same file"):
            convert(state, destination)
    assert state.read_bytes() == data


def test_wrong_direction_points_to_the_right_one(state, tmp_path):
    with pytest.raises(CeloError, match=r"celo convert theta\.state celo\.safetensors"):
        convert(state, tmp_path / "other.state")
    ours = tmp_path / "ours.safetensors"
    convert(state, ours)
    with pytest.raises(CeloError, match="have a PyTorch form, not 'celo"):
        convert(ours, tmp_path / "other.safetensors")


def test_an_older_destination_is_replaced(state, tmp_path):
    ours = tmp_path / "ours.safetensors"
    ours.write_bytes(b"old")
    convert(state, ours)
    assert weights.load(ours).theta


def test_architectures_without_official_form(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.save(path, {"g": {"x": np.zeros(1, "f4")}}, metadata={"architecture": "mine"})
    with pytest.raises(CeloError, match=r"only celo, celo_adam, .* have an official form, not 'mine'"):
        convert(path, tmp_path / "x.state")


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("scheduler", "out_b", np.zeros(1, "f4"), r"not a θ of celo: .*out_b is \(1,\), expected \(\)"),
        ("scheduler", "more", np.zeros(1, "f4"), "no place for: scheduler/more"),
        (
            "update_rule",
            "w0",
            np.full((30, 4), np.inf, "f4"),
            "not a θ of celo: .*not finite: update_rule/w0",
        ),
        ("update_rule", "b1", np.zeros(4), "not a θ of celo: .*not float32: update_rule/b1"),
    ],
)
def test_to_official_checks_theta(tmp_path, group, name, value, message):
    theta, unused, _ = read_official(write(tmp_path / "theta.state", official_tree("celo")))
    theta[group][name] = value
    with pytest.raises(CeloError, match=rf"θ .*{message}"):
        to_official(theta, unused, tmp_path / "out.state")


def test_weights_of_ours_that_the_official_form_lacks_are_named(tmp_path):
    """The bundled ones among them, which have such weights."""
    ours = "scheduler/horizon_w, update_rule/log_matrix_step, update_rule/log_min_rms, "
    ours += "update_rule/start_power"
    with pytest.raises(CeloError, match=rf"no place for: {ours}\. Its"):
        convert("celo", tmp_path / "theta.state")
    assert not list(tmp_path.iterdir())


def test_to_official_wants_all_unused_arrays_or_none(state, tmp_path):
    theta, unused, _ = read_official(state)
    unused.popitem()
    with pytest.raises(CeloError, match="unused arrays of θ do not fit: missing"):
        to_official(theta, unused, tmp_path / "out.state")


def test_metadata_and_content_must_agree(tmp_path):
    theta, _, _ = read_official(write(tmp_path / "theta.state", official_tree("celo_adam")))
    path = tmp_path / "x.safetensors"
    weights.save(path, theta, metadata={"architecture": "celo"})
    with pytest.raises(CeloError, match="is not a θ of celo: missing: update_rule"):
        convert(path, tmp_path / "x.state")
