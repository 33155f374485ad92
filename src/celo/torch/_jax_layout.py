"""The axes of a parameter in JAX and here: a kernel [in, out] of Flax is a weight [out, in].

Statistics go along with their parameter's axes. Of the two factored moments each averages one axis away, the
largest or the second largest. Which of two equal ones counts as larger depends on the order of axes, so that
`row` may be the other framework's `col`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from celo._definitions import factored_axes
from celo._errors import CeloError
from celo.torch._rule import statistics_shapes

Axes = tuple[int, ...] | None  # axis k of a parameter here is axis axes[k] in JAX; None: the same layout
ParamsAxes = Any | Callable[[str, tuple[int, ...]], Axes] | None  # a pytree of Axes, or a function

BY_DECAY = ("momenta", "row", "col")  # statistics of several decays
_OTHER_FACTOR = {"row": "col", "col": "row"}


class Layout(NamedTuple):
    """One parameter's axes in both frameworks."""

    shape: tuple[int, ...]  # in JAX
    axes: tuple[int, ...]
    layers: int  # leading axes that count tensors
    swapped: bool  # whether row and col change places

    @property
    def is_line(self) -> bool:
        """Whether `row` is the whole second moment, and `col` nothing."""
        return factored_axes(self.shape[self.layers :]) is None

    def there(self, name: str) -> str:
        """What a part of the state is called in JAX."""
        return _OTHER_FACTOR.get(name, name) if self.swapped else name

    def shape_there(self, name: str) -> tuple[int, ...]:
        """The shape of a part of the state in JAX, of one decay."""
        if name == "first_size" or (name == "col" and self.is_line):
            return self.shape[: self.layers]
        shape = statistics_shapes(self.shape, self.layers).get(name, self.shape)
        return shape[1:] if name in BY_DECAY else shape

    def to_torch(self, x: np.ndarray) -> np.ndarray:
        """An array of the parameter's axes, or of those alone that count tensors and one more, as here."""
        return x.transpose(self._order(x))

    def to_jax(self, x: np.ndarray) -> np.ndarray:
        """The other direction of `to_torch`."""
        return x.transpose(np.argsort(self._order(x)))

    def _order(self, x: np.ndarray) -> list[int]:
        known = [axis for axis in self.axes if axis < x.ndim]
        return [*known, *range(len(known), x.ndim)]  # one more, where all axes count tensors


def permutations(params_axes: ParamsAxes, paths: list[str], shapes: list[tuple[int, ...]]) -> list[Axes]:
    """What the user says of each parameter's axes.

    Raises:
      CeloError: if it is said of another number of parameters.
    """
    import jax

    if params_axes is None:
        return [None] * len(paths)
    if callable(params_axes):
        found: list[Any] = [params_axes(path, shape) for path, shape in zip(paths, shapes, strict=True)]
        return found

    def is_axes(x: Any) -> bool:
        return x is None or (isinstance(x, tuple) and all(isinstance(axis, int) for axis in x))

    given: list[Any] = jax.tree.leaves(params_axes, is_leaf=is_axes)
    if len(given) != len(paths):
        raise CeloError(
            f"params_axes has {len(given)} leaves, and there are {len(paths)} parameters; give each a tuple "
            "of its axes, or None"
        )
    return given


def layout(
    path: str, shape: tuple[int, ...], axes: Axes, here: tuple[int, ...], layers: int, *, factored: bool
) -> Layout:
    """The layout of a parameter, checked.

    Args:
      path: its name in JAX, for errors.
      shape: in JAX.
      axes: what the user says.
      here: its shape here.
      layers: how many leading axes count tensors.
      factored: whether its state has factored moments.

    Raises:
      CeloError: if `axes` does not make `here` of `shape` or moves the leading axes, or the moments average
        other axes.
    """
    chosen = tuple(range(len(shape))) if axes is None else axes
    if not isinstance(chosen, tuple) or sorted(chosen) != list(range(len(shape))):
        raise CeloError(
            f"params_axes of {path} is {axes!r}, no permutation of the {len(shape)} axes of {shape}; "
            "a dense kernel's is (1, 0)"
        )
    permuted = tuple(shape[axis] for axis in chosen)
    if permuted != here:
        raise CeloError(
            f"{path} {list(shape)} in JAX, {list(permuted)} with axes {chosen}, corresponds to a parameter "
            f"{list(here)} here; give its permutation in params_axes ((1, 0) for a dense kernel, "
            "(3, 2, 0, 1) for a convolution's), or, where the order is another, JAX's pytree of the "
            "optimizer's parameters as params"
        )
    if sorted(chosen[:layers]) != list(range(layers)):
        raise CeloError(
            f"params_axes of {path} is {chosen}, and its first {layers} axes count tensors "
            f"(per_layer={layers}): they must come first in both layouts"
        )
    return Layout(shape, chosen, layers, factored and _swapped(path, shape, chosen, layers))


def _swapped(path: str, shape: tuple[int, ...], axes: tuple[int, ...], layers: int) -> bool:
    """Whether the axis that `row` averages away in JAX is the one that `col` averages away here."""
    theirs = factored_axes(shape[layers:])
    ours = factored_axes(tuple(shape[axis] for axis in axes[layers:]))
    if theirs is None or ours is None:
        return False
    averaged = tuple(axes[layers + axis] - layers for axis in ours)
    if averaged not in (theirs, theirs[::-1]):
        raise CeloError(
            f"{path} {list(shape)} has axes of equal size, of which JAX averages {theirs} away and PyTorch, "
            f"in the layout {axes}, {averaged}: the moments of one do not say those of the other. Keep this "
            "parameter in JAX's layout and permute it in the forward pass"
        )
    return averaged != theirs
