"""Which axis is which in the two frameworks, and what does not correspond."""

import numpy as np
import pytest

from celo._definitions import factored_axes
from celo._errors import CeloError
from celo.torch._jax_layout import layout, permutations

SHAPES = {
    "dense": ((5, 9), (1, 0), 0),
    "square": ((8, 8), (1, 0), 0),
    "square as it is": ((8, 8), None, 0),
    "kernel": ((3, 3, 8, 16), (3, 2, 0, 1), 0),
    "kernel with as many inputs": ((3, 3, 8, 8), (3, 2, 0, 1), 0),
    "stack": ((3, 4, 4), (0, 2, 1), 1),
    "stack of stacks": ((2, 3, 4, 5), (1, 0, 3, 2), 2),
}


def of(shape, axes, layers, **options):
    here = shape if axes is None else tuple(shape[axis] for axis in axes)
    return layout("w", shape, axes, here, layers, **{"factored": True, **options})


@pytest.mark.parametrize("kind", SHAPES)
def test_factors_are_named_by_the_axis_that_they_average(kind):
    """Row and col of one gradient, as each framework takes them in its own layout."""
    shape, axes, layers = SHAPES[kind]
    found = of(shape, axes, layers)
    x = np.random.default_rng(0).normal(size=shape)

    def factors(x):
        largest, second = factored_axes(x.shape[layers:])
        return {
            "row": x.mean(axis=layers + largest, keepdims=True),
            "col": x.mean(axis=layers + second, keepdims=True),
        }

    theirs = factors(x)
    ours = factors(found.to_torch(x))
    for name, factor in ours.items():
        there = theirs[found.there(name)]
        assert there.shape == found.shape_there(found.there(name))
        np.testing.assert_allclose(factor, found.to_torch(there))
        np.testing.assert_allclose(found.to_jax(factor), there)


@pytest.mark.parametrize("kind", SHAPES)
def test_there_and_back_is_nothing(kind):
    shape, axes, layers = SHAPES[kind]
    found = of(shape, axes, layers)
    for x in (
        np.arange(np.prod(shape)).reshape(shape),
        np.arange(np.prod(shape[:layers])).reshape(shape[:layers]),
    ):
        np.testing.assert_array_equal(found.to_jax(found.to_torch(x)), x)


def test_lines_have_no_col():
    found = of((3, 5), None, 1)
    assert found.is_line
    assert (found.shape_there("row"), found.shape_there("col")) == ((3, 5), (3,))


def test_a_kernel_of_equal_sizes_whose_moments_say_something_else_is_refused():
    """[3, 3, 3, 16]: JAX averages over the inputs, PyTorch over the width. Adam's moments do not mind."""
    with pytest.raises(CeloError, match=r"JAX averages \(3, 2\) away and PyTorch.*\(3, 1\)"):
        of((3, 3, 3, 16), (3, 2, 0, 1), 0)
    assert not of((3, 3, 3, 16), (3, 2, 0, 1), 0, factored=False).swapped


@pytest.mark.parametrize(
    ("axes", "here", "layers", "message"),
    [
        ((0, 0, 1), (3, 4, 5), 0, "no permutation of the 3 axes"),
        ((1, 0), (4, 3), 0, "no permutation of the 3 axes"),
        ([0, 2, 1], (3, 5, 4), 0, "no permutation of the 3 axes"),
        (
            None,
            (3, 5, 4),
            0,
            r"w \[3, 4, 5\] in JAX, \[3, 4, 5\] with axes \(0, 1, 2\),.* parameter \[3, 5, 4\]",
        ),
        ((1, 2, 0), (4, 5, 3), 1, "first 1 axes count tensors"),
    ],
)
def test_what_does_not_correspond_is_refused(axes, here, layers, message):
    with pytest.raises(CeloError, match=message):
        layout("w", (3, 4, 5), axes, here, layers, factored=True)


def test_what_is_said_of_axes():
    paths, shapes = ["b", "w"], [(3,), (2, 3)]
    for said in (
        [None, (1, 0)],
        {"w": (1, 0), "b": None},
        lambda path, shape: (1, 0) if path == "w" else None,
    ):
        assert permutations(said, paths, shapes) == [None, (1, 0)]
    assert permutations(None, paths, shapes) == [None, None]
    assert permutations([()], ["s"], [()]) == [()]
    with pytest.raises(CeloError, match="3 leaves, and there are 2 parameters"):
        permutations([None, 1, 0], paths, shapes)
