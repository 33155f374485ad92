import builtins
import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from celo import _files, weights
from celo._errors import CeloError

METADATA = {"architecture": "celo", "note": "θ of a test"}


def make_theta(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "update_rule": {"w0": rng.normal(size=(3, 4)).astype("f4"), "b0": np.zeros(4, "f4")},
        "scheduler": {"out_b": np.float32(0.5) * np.ones((), "f4"), "empty": np.zeros((0, 2), "f4")},
    }


def assert_same(left, right):
    left, right = weights.flatten(left), weights.flatten(right)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype == np.float32
        assert left[name].shape == right[name].shape
        assert left[name].tobytes() == right[name].tobytes()


def safetensors_bytes(header, payload=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "theta.safetensors"
    weights.save(path, make_theta(), metadata=METADATA, extra={"official/x": np.ones(2, "f4")})
    return path


# Names


def test_flatten_and_unflatten_undo_each_other():
    theta = make_theta()
    flat = weights.flatten(theta)
    assert set(flat) == {"update_rule/w0", "update_rule/b0", "scheduler/out_b", "scheduler/empty"}
    assert flat["update_rule/w0"] is theta["update_rule"]["w0"]
    assert_same(weights.unflatten(flat), theta)
    assert weights.flatten({}) == weights.unflatten({}) == {}


@pytest.mark.parametrize("key", ["a/b", "", 3])
def test_flatten_refuses_keys_that_unflatten_could_not_restore(key):
    with pytest.raises(CeloError, match="keys are non-empty strings"):
        weights.flatten({"group": {key: np.zeros(1, "f4")}})


@pytest.mark.parametrize(
    "names", [["a", "a/b"], ["a/b", "a"], ["a//b"], [""], ["/a"], ["a/"], ["a/b", "a/b/c"]]
)
def test_unflatten_refuses_ambiguous_names(names):
    with pytest.raises(CeloError, match=r"lies inside|not a usable name"):
        weights.unflatten({name: np.zeros(1, "f4") for name in names})


# save and load


def test_round_trip(saved):
    loaded = weights.load(saved)
    assert_same(loaded.theta, make_theta())
    assert loaded.metadata == {**METADATA, "format": "celo-theta/1"}
    assert loaded.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert loaded.extra.keys() == {"official/x"}
    assert loaded.extra["official/x"].tolist() == [1, 1]
    loaded.theta["update_rule"]["w0"][0, 0] = 7  # arrays belong to the caller


def test_loaded_weights_can_be_saved_again(saved, tmp_path):
    loaded = weights.load(saved)
    again = tmp_path / "again.safetensors"
    digest = weights.save(again, loaded.theta, metadata=loaded.metadata, extra=loaded.extra)
    assert again.read_bytes() == saved.read_bytes()
    assert digest == loaded.sha256


def test_bytes_do_not_depend_on_the_order_of_entries_or_on_memory_layout(saved, tmp_path):
    theta = {
        group: {
            name: np.asarray(array, order="F").astype(">f4").astype("f4")
            for name, array in reversed(entries.items())
        }
        for group, entries in reversed(make_theta().items())
    }
    other = tmp_path / "other.safetensors"
    metadata = dict(reversed(METADATA.items()))
    weights.save(other, theta, metadata=metadata, extra={"official/x": np.ones(2, "f4")})
    assert other.read_bytes() == saved.read_bytes()


def test_other_readers_understand_the_file(saved):
    arrays = safetensors.numpy.load_file(saved)
    assert arrays["update_rule/w0"].tobytes() == make_theta()["update_rule"]["w0"].tobytes()
    assert arrays["unused/official/x"].shape == (2,)
    with safetensors.safe_open(saved, "np") as file:
        assert file.metadata() == {**METADATA, "format": "celo-theta/1"}


def test_header_is_padded_to_eight_bytes(tmp_path):
    for length in range(9):
        path = tmp_path / f"{length}.safetensors"
        weights.save(path, make_theta(), metadata={"architecture": "a" * length})
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
        assert weights.load(path).metadata["architecture"] == "a" * length


def test_special_bit_patterns_survive(tmp_path):
    values = np.array([-0.0, 1e-45, np.inf, np.nan, 3.4e38], "f4")
    path = tmp_path / "bits.safetensors"
    weights.save(path, {"g": {"x": values}}, metadata=METADATA)
    assert weights.load(path).theta["g"]["x"].tobytes() == values.tobytes()


def test_load_takes_strings_with_a_separator_or_the_suffix(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    plain = saved.parent / "plain"
    plain.write_bytes(saved.read_bytes())
    for path in [str(saved), "theta.safetensors", "./plain", Path("plain")]:
        assert_same(weights.load(path).theta, make_theta())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "theta.npz"}, "must end in .safetensors"),
        ({"path": "no/such/folder/x.safetensors"}, "does not exist; create it"),
        ({"path": "folder.safetensors"}, "is a folder"),
        ({"path": "n" * 300 + ".safetensors"}, "cannot be written"),
        ({"metadata": {}}, "needs an 'architecture'"),
        ({"metadata": {"architecture": "celo", "steps": 3}}, "convert steps with str"),
        ({"theta": {}}, "θ is empty"),
        ({"theta": {"unused": {"x": np.zeros(1, "f4")}}}, "group named 'unused'"),
        ({"theta": {"g": {"x": np.zeros(1, "f8")}}}, "convert g/x with .astype"),
        ({"extra": {"x": np.zeros(1, "i4")}}, "convert unused/x with .astype"),
    ],
)
def test_save_refuses(tmp_path, change, message):
    (tmp_path / "folder.safetensors").mkdir()
    arguments = {"path": "x.safetensors", "theta": make_theta(), "metadata": METADATA} | change
    path = tmp_path / arguments.pop("path")
    with pytest.raises(CeloError, match=message):
        weights.save(path, arguments.pop("theta"), **arguments)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.safetensors"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_no_draft(saved, monkeypatch, step):
    before = saved.read_bytes()

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def open_that_fails_to_write(*arguments, **settings):
        with builtins.open(*arguments, **settings) as file:
            file.write(b"half")
        fail()

    if step == "write":
        monkeypatch.setattr(_files, "open", open_that_fails_to_write, raising=False)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(CeloError, match="No space left on device"):
        weights.save(saved, make_theta(1), metadata=METADATA)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_an_interrupted_save_leaves_the_old_file_and_no_draft(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        weights.save(saved, make_theta(1), metadata=METADATA)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_saved_file_has_the_usual_permissions(saved):
    plain = saved.parent / "plain"
    plain.write_bytes(b"")
    assert saved.stat().st_mode == plain.stat().st_mode


# Damaged and foreign files


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CeloError, match=r"x\.safetensors: no such file; check the path"):
        weights.load(tmp_path / "x.safetensors")
    with pytest.raises(CeloError, match="is a folder; name the file inside it"):
        weights.load(tmp_path)


def test_unreadable_file(saved, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_files, "open", refuse, raising=False)
    with pytest.raises(CeloError, match=r"cannot be read \(Permission denied\)"):
        weights.load(saved)


def test_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(weights.MAX_BYTES + 1)  # sparse: takes no space
    with pytest.raises(CeloError, match="1,073,741,825 bytes, more than the 1,073,741,824 allowed"):
        weights.load(path)


def test_every_truncation_is_a_celo_error(saved, tmp_path):
    data = saved.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(CeloError, match=r"cut\.safetensors: not a celo weights file.*Fetch it again"):
            weights.load(cut)


def test_flipped_and_random_bytes_raise_nothing_but_celo_error(saved, tmp_path):
    rng = np.random.default_rng(0)
    data = saved.read_bytes()
    path = tmp_path / "fuzz.safetensors"
    outcomes = set()
    for trial in range(2000):
        if trial % 4:
            corrupt = bytearray(data)
            for index in rng.integers(0, 16 if trial % 4 == 1 else len(data), size=rng.integers(1, 4)):
                corrupt[index] = rng.integers(256)
        else:
            corrupt = rng.bytes(rng.integers(0, 300))
        path.write_bytes(bytes(corrupt))
        try:
            weights.load(path)
            outcomes.add("loaded")  # a changed number is still a number
        except CeloError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def one(dtype, size, name="g/x", start=0):
    return {name: {"dtype": dtype, "shape": [], "data_offsets": [start, start + size]}}


OURS = {"__metadata__": {"format": "celo-theta/1", "architecture": "celo"}}
TWO = {**OURS, **one("F32", 4, "g"), **one("F32", 4, "g/x", 4)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (safetensors_bytes({}), "not a celo weights file .no 'celo-theta/1' tag.*celo convert"),
        (safetensors_bytes({"__metadata__": {"format": "pt"}}), "no 'celo-theta/1' tag"),
        (safetensors_bytes({"__metadata__": {"format": "celo-theta/1"}}), "tag with an architecture"),
        (safetensors_bytes(OURS | one("F64", 8), bytes(8)), "float32, but g/x is not"),
        (safetensors_bytes(OURS | one("BF16", 2), bytes(2)), "or a damaged one .*BF16"),
        (safetensors_bytes(TWO, bytes(8)), "'g/x' lies inside 'g'.*rename"),
        (b"\x83\xacff_mod_stack\x81\xa1~\xde\x00\x13", "celo convert"),
    ],
)
def test_foreign_files(tmp_path, data, message):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(data)
    with pytest.raises(CeloError, match=rf"foreign\.safetensors: .*{message}"):
        weights.load(path)


# Bundled weights


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    folder = tmp_path / "pretrained"
    folder.mkdir()
    monkeypatch.setattr(weights, "_folder", lambda: folder)
    return folder


def test_bundled_lists_and_loads_by_name(shelf):
    assert weights.bundled() == ()
    for name in ["celo_adam", "celo"]:
        weights.save(shelf / f"{name}.safetensors", make_theta(), metadata=METADATA)
        (shelf / f"{name}.json").write_text("{}")
    assert weights.bundled() == ("celo", "celo_adam")
    assert_same(weights.load("celo").theta, make_theta())
    with pytest.raises(
        CeloError, match=r"unknown weights 'cello'; known, nearest first: celo, .*\.safetensors"
    ):
        weights.load("cello")
    shelf.joinpath("celo.safetensors").write_bytes(b"")
    with pytest.raises(CeloError, match="bundled weights 'celo': not a celo weights file"):
        weights.load("celo")


def test_no_bundled_folder(shelf):
    shelf.rmdir()
    assert weights.bundled() == ()


def test_everything_in_the_package_loads():
    assert weights._folder().name == "pretrained"
    for name in weights.bundled():
        assert weights.load(name).theta


def test_facts_are_metadata_and_card(shelf, tmp_path):
    metadata = {**METADATA, "recipe": '{"horizon_max": 9}'}
    for path in (tmp_path / "own.safetensors", shelf / "celo.safetensors"):
        weights.save(path, make_theta(), metadata=metadata)
    (shelf / "celo.json").write_text('{"note": "of the card", "largest_model": 7}')
    known = {**METADATA, "format": weights.FORMAT, "recipe": {"horizon_max": 9}}
    assert weights.load(tmp_path / "own.safetensors").facts == known
    assert weights.load("celo").facts == {**known, "note": "of the card", "largest_model": 7}


@pytest.mark.parametrize("recipe", [{}, {"recipe": "of my own"}])
def test_facts_without_a_recipe_of_ours(tmp_path, recipe):
    path = tmp_path / "own.safetensors"
    weights.save(path, make_theta(), metadata=METADATA | recipe)
    assert weights.load(path).facts == METADATA | recipe | {"format": weights.FORMAT}


# check_theta


def test_check_theta_accepts_what_fits():
    shapes = {name: array.shape for name, array in weights.flatten(make_theta()).items()}
    weights.check_theta(make_theta(), shapes, source="here")


def test_check_theta_names_every_problem():
    theta = {
        "g": {
            "shape": np.zeros((2, 3), "f4"),
            "extra": np.zeros(1, "f4"),
            "nan": np.array([1, np.nan], "f4"),
            "double": np.zeros(1),
        }
    }
    expected = {"g/shape": (3, 2), "g/gone": (), "g/nan": (2,), "g/double": (1,)}
    with pytest.raises(CeloError) as caught:
        weights.check_theta(theta, expected, source="file.safetensors")
    assert str(caught.value) == (
        "file.safetensors does not fit this optimizer: missing: g/gone; unexpected: g/extra; "
        "wrong shape: g/shape is (2, 3), expected (3, 2); not float32: g/double; not finite: g/nan. "
        "Use weights trained for it"
    )


def test_check_theta_counts_the_rest():
    with pytest.raises(CeloError, match=r"missing: n0, n1, n2, n3 and 6 more\."):
        weights.check_theta({}, {f"n{index}": () for index in range(10)}, source="x")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_check_theta_refuses_non_finite_scalars(value):
    with pytest.raises(CeloError, match="not finite: g/x"):
        weights.check_theta({"g": {"x": np.full((), value, "f4")}}, {"g/x": ()}, source="x")


def test_module_does_not_import_jax():
    code = "import sys, celo.weights, celo.convert; print(sorted({'jax', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", weights.bundled())
def test_bundled_weights_are_those_of_their_card(name):
    found, card = weights.load(name), weights.card(name)
    assert card["sha256"] == found.sha256
    assert card["architecture"] == found.metadata["architecture"]
    assert card["recipe"] == json.loads(found.metadata["recipe"])
    for fact in ("commit", "date", "known_limits", "licence", "seconds", "tasks", "final_meta_loss"):
        assert card[fact]


def test_weights_ship_with_the_package():
    assert "celo" in weights.bundled()
    with pytest.raises(CeloError, match="nearest first: celo"):
        weights.card("cello")
