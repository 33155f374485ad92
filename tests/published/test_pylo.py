"""PyLO's file of muLO's weights: matrices as PyTorch has them, and what the file leaves to PyLO's code."""

import numpy as np
import pytest
from safetensors.numpy import save

from celo import weights
from celo._errors import CeloError
from celo._published import pylo
from celo.convert import convert, read_official

SHAPES = {"input": (32, 39), "linear_0": (32, 32), "output": (2, 32)}


def module(seed=0):
    """The state of a PyTorch module, as safetensors' writer for PyTorch stores it."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (outputs, inputs) in SHAPES.items():
        arrays[f"network.{name}.weight"] = rng.normal(size=(outputs, inputs)).astype("f4")
        arrays[f"network.{name}.bias"] = rng.normal(size=outputs).astype("f4")
    return arrays


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(module(), metadata={"format": "pt"}))
    return path


def test_it_is_read_and_written_byte_for_byte(file, tmp_path):
    ours, back = tmp_path / "mulo.safetensors", tmp_path / "back.safetensors"
    said = convert(file, ours)
    assert said.startswith(f"{ours}: mulo, 2,410 weights, sha256 ")
    assert said.endswith(
        ". PyLO's files hold the network alone; the decays and the step of 0.01 are those of its code"
    )
    assert convert(ours, back).startswith(f"{back}: mulo, 2,410 weights, sha256 ")
    assert back.read_bytes() == file.read_bytes()


def test_matrices_are_transposed_and_the_rest_is_what_pylos_code_has(file, tmp_path):
    theta, unused, architecture = read_official(file)
    assert (architecture, unused) == ("mulo", {})
    own, theirs = theta["adafac_mlp"], module()
    for number, name in enumerate(SHAPES):
        np.testing.assert_array_equal(own[f"w{number}"], theirs[f"network.{name}.weight"].T)
        np.testing.assert_array_equal(own[f"b{number}"], theirs[f"network.{name}.bias"])
    np.testing.assert_allclose(0.001 * np.exp(own["log_step"]), 0.01, rtol=1e-6)
    # 1 - (1 - d) exp(10 x) at x = 0.01079706, for the decay 0.999 of the second moment.
    np.testing.assert_allclose(0.001 * np.exp(10 * own["second_moment_decay"]), 0.001114, rtol=1e-3)
    np.testing.assert_array_equal(own["momentum_decays"], np.float32([0.15216392, 0.14245212, 0.06812963]))
    np.testing.assert_array_equal(own["factored_decays"], np.float32([0.18621896, -0.10864615, -0.06185547]))


def test_what_its_files_have_no_place_for_is_refused(file, tmp_path):
    theta, _, _ = read_official(file)
    theta["adafac_mlp"]["momentum_decays"][0] += 0.1
    ours = tmp_path / "other.safetensors"
    weights.save(ours, theta, metadata={"architecture": "mulo"})
    with pytest.raises(CeloError, match=r"momentum_decays is .* no place for it: it must be"):
        convert(ours, tmp_path / "back.safetensors")
    with pytest.raises(
        CeloError, match=r"has weights that the official form of mulo has no place for.*log_step"
    ):
        convert(ours, tmp_path / "back.state")


def test_files_of_other_modules_and_damaged_ones_are_refused(file, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(save({"network.input.weight": np.ones((32, 39), "f4")}, metadata={"format": "pt"}))
    with pytest.raises(CeloError, match=r"not a PyTorch file of mulo.*missing: network"):
        convert(other, tmp_path / "ours.safetensors")
    other.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CeloError, match=r"not a PyTorch file of mulo.*damaged"):
        convert(other, tmp_path / "ours.safetensors")
    weights.save(other, {"update_rule": {"w0": np.ones(3, "f4")}}, metadata={"architecture": "celo"})
    with pytest.raises(CeloError, match=r"only mulo, celo2 and celo2_base have a PyTorch form, not 'celo'"):
        convert(other, tmp_path / "ours.safetensors")


WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)  # of the fourteen groups of Celo2's inputs


@pytest.fixture
def celo2(tmp_path):
    """PyLO's CELO2MLP: parameters of its own, inputs first, not those of PyTorch's layers."""
    rng = np.random.default_rng(1)
    shapes = {f"w0.{group}": (width, 8) for group, width in enumerate(WIDTHS)}
    shapes |= {"b0": (8,), "dense_w.0": (8, 8), "dense_b.0": (8,), "dense_w.1": (8, 3), "dense_b.1": (3,)}
    arrays = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    path = tmp_path / "celo2_model.safetensors"
    path.write_bytes(save(arrays, metadata={"format": "pt"}))
    return path, arrays


def test_celo2_is_read_and_written_byte_for_byte_also_by_way_of_the_official_form(celo2, tmp_path):
    path, arrays = celo2
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    state, again = tmp_path / "theta.state", tmp_path / "again.safetensors"
    said = convert(path, ours)
    assert said.startswith(f"{ours}: celo2, 329 weights, sha256 ")
    assert "PyLO's steps of vectors are another AdamW" in said
    assert said.endswith("Files of celo2_base look the same: name the architecture if it is one")
    convert(ours, back)
    convert(ours, state)
    convert(state, again)
    convert(again, tmp_path / "last.safetensors")
    assert back.read_bytes() == (tmp_path / "last.safetensors").read_bytes() == path.read_bytes()
    rule = weights.load(ours).theta["update_rule"]
    np.testing.assert_array_equal(rule["w0"], np.concatenate([arrays[f"w0.{i}"] for i in range(14)]))
    np.testing.assert_array_equal(rule["w1"], arrays["dense_w.0"])
    np.testing.assert_array_equal(rule["w2"], arrays["dense_w.1"][:, :1])
    np.testing.assert_array_equal(rule["b2"], arrays["dense_b.1"][:1])


def test_celo2_base_is_named_by_who_knows(celo2, tmp_path):
    ours, back = tmp_path / "base.safetensors", tmp_path / "back.safetensors"
    said = convert(celo2[0], ours, architecture="celo2_base")
    assert said.startswith(f"{ours}: celo2_base, 329 weights, sha256 ")
    assert "AdamW" not in said
    assert "look the same" not in said
    convert(ours, back)
    assert back.read_bytes() == celo2[0].read_bytes()


def test_a_safetensors_file_is_told_by_its_header():
    assert pylo.metadata(save(module(), metadata={"format": "pt"})) == {"format": "pt"}
    assert pylo.metadata(save(module())) == {}
    for data in (b"", b"\x81\xa1a\x00", b"\x08\0\0\0\0\0\0\0{not jso", b"\xff" * 8 + b"{}"):
        assert pylo.metadata(data) is None
