"""Where every number of the published files of Celo2 goes, and how files that look alike are told apart."""

import numpy as np
import pytest
from trees import WIDTHS, write

from celo import weights
from celo._errors import CeloError
from celo.convert import convert, read_official


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype("f4")

    blocks = {f"w0__{group}": draw(width, 8) for group, width in enumerate(WIDTHS)}
    stack = {"b0": draw(8), "b1": draw(8), "b2": draw(3), **dict(sorted(blocks.items()))}
    return {"ff_mod_stack": {"~": stack | {"w1": draw(8, 8), "w2": draw(8, 3)}}}


@pytest.fixture
def state(tree, tmp_path):
    return write(tmp_path / "theta.state", tree)


def test_mapping(tree, state):
    theta, unused, architecture = read_official(state)
    stack, ours = tree["ff_mod_stack"]["~"], theta["update_rule"]
    assert architecture == "celo2"
    expected = {
        "w0": np.concatenate([stack[f"w0__{group}"] for group in range(14)]),
        **{name: stack[name] for name in ("b0", "w1", "b1")},
        "w2": stack["w2"][:, :1],
        "b2": stack["b2"][:1],
    }
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, strict=True)
    np.testing.assert_array_equal(unused["official/ff_mod_stack/w2_others"], stack["w2"][:, 1:], strict=True)
    np.testing.assert_array_equal(unused["official/ff_mod_stack/b2_others"], stack["b2"][1:], strict=True)
    assert sum(array.size for array in [*ours.values(), *unused.values()]) == 347


@pytest.mark.parametrize("architecture", ["celo2", "celo2_base"])
def test_there_and_back_byte_for_byte(state, tmp_path, architecture):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.state"
    line = convert(state, ours, architecture=architecture)
    assert line.startswith(f"{ours}: {architecture}, 329 weights")
    assert "look the same" not in line
    assert weights.load(ours).metadata["architecture"] == architecture
    convert(ours, back)
    assert back.read_bytes() == state.read_bytes()


def test_files_that_look_alike_are_said_to(state, tmp_path):
    line = convert(state, tmp_path / "ours.safetensors")
    assert "celo2, 329 weights" in line
    assert "Files of celo2_base look the same: name the architecture if it is one" in line


def test_an_architecture_that_the_file_is_not_of_is_refused(state, tmp_path):
    with pytest.raises(CeloError, match=r"not an official theta\.state of celo_adam, or a damaged one"):
        read_official(state, "celo_adam")
    with pytest.raises(CeloError, match="unknown architecture 'celo3'; known, nearest first: celo, celo2"):
        convert(state, tmp_path / "ours.safetensors", architecture="celo3")
