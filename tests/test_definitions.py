"""Constants and shapes that all forms of the optimizers share, and the copies of them in C++."""

import re
from pathlib import Path

import pytest

import celo
from celo._definitions import CELO, CELO2, FIRST_ROW, INPUTS, MUON, POLAR, factored_axes, matrix_shape

KERNELS = Path(celo.__file__).parent / "_kernels"


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), None),
        ((7,), None),
        ((2, 5), (1, 0)),
        ((5, 2), (0, 1)),
        ((4, 4), (1, 0)),  # among equals the later axis counts as larger
        ((16, 16, 3, 3), (1, 0)),
        ((3, 3, 16, 16), (3, 2)),
        ((3, 3, 2, 4), (3, 1)),
        ((16, 3, 16), (2, 0)),
        ((4, 4, 4), (2, 1)),
        ((1, 1), (1, 0)),
        ((0, 3), (1, 0)),
    ],
)
def test_factored_axes(shape, axes):
    assert factored_axes(shape) == axes


@pytest.mark.parametrize(
    ("shape", "layers", "matrix"),
    [
        ((64, 32), 0, (64, 32)),
        ((3, 3, 16, 32), 0, (144, 32)),  # convolution
        ((3, 3, 4, 8), 0, (36, 8)),
        ((9, 16, 32), 0, (144, 32)),  # along a line
        ((128, 4, 32), 0, (128, 128)),  # attention: queries by head
        ((4, 32, 128), 0, (128, 128)),  # attention: out of the heads
        ((6, 64, 32), 1, (64, 32)),  # layers
        ((6, 5, 64, 32), 2, (64, 32)),
        ((7,), 0, None),
        ((), 0, None),
        ((3, 64), 0, None),  # too thin
        ((64, 3), 0, None),
        ((8, 5), 1, None),
    ],
)
def test_what_counts_as_a_matrix(shape, layers, matrix):
    assert matrix_shape(shape, layers) == matrix


def test_matrices_whose_outputs_come_first():
    """PyTorch's layouts: a convolution's kernel is [out, in, height, width]."""
    assert matrix_shape((32, 16, 3, 3), outputs_first=True) == (32, 144)
    assert matrix_shape((32, 16, 3, 3, 3), outputs_first=True) == (32, 432)
    assert matrix_shape((32, 16, 9), outputs_first=True) == (32, 144)  # along a line
    assert matrix_shape((3, 64, 3, 3), outputs_first=True) is None


def test_inputs_have_one_order_in_python_and_in_cpp():
    """The enumeration in the C++ source, written out, is `INPUTS`."""
    source = (KERNELS / "rule.cc").read_text()
    enumeration = source[source.index("enum Input {") : source.index("};", source.index("enum Input {"))]
    values = {name: int(value) for name, value in re.findall(r"k(\w+) = (\d+),", enumeration)}
    camel = {"".join(part.title() for part in name.split("_")): name for name in INPUTS}
    assert {camel[name]: value for name, value in values.items()} == FIRST_ROW


@pytest.mark.parametrize(("name", "iteration"), [("kPolar", POLAR), ("kMuon", MUON)])
def test_polynomials_are_the_same_in_python_and_in_cpp(name, iteration):
    source = (KERNELS / "orthogonal.cc").read_text()
    table = source[source.index(f"{name}[][3]") :].split(";")[0]
    found = [tuple(map(float, row)) for row in re.findall(r"\{([-.\d]+)f, ([-.\d]+)f, ([-.\d]+)f\}", table)]
    assert found == list(iteration.polynomials)
    assert f"{{{len(found)}, {name}, {str(iteration.by_trace).lower()}}}" in source


@pytest.mark.parametrize(("name", "rule"), [("CeloRule", CELO), ("Celo2Rule", CELO2)])
def test_rules_are_the_same_in_python_and_in_cpp(name, rule):
    source = (KERNELS / "rule.h").read_text()
    struct = source[source.index(f"struct {name} {{") :].split("};")[0]
    found = dict(re.findall(r"(k\w+) = ([-.\de]+|true|false)f?[,;]", struct))
    assert int(found["kHidden"]) == rule.hidden
    assert int(found["kOutputs"]) == rule.outputs
    assert float(found["kSecondMomentDecay"]) == rule.second_moment_decay
    assert float(found["kSecondMomentFloor"]) == rule.second_moment_floor
    assert float(found["kInputFloor"]) == rule.input_floor
    assert (found["kVectorsHaveFactors"] == "true") == (rule.vector_inputs == tuple(INPUTS))
