"""Steps by width: the μ-parametrisation's scale of updates, which lets one optimizer serve all widths."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from celo._errors import CeloError
from celo._kernels.stacking import PerLayer, leading_axes, per_leaf
from celo._types import OptState, Params, Updates


def mup_scale(
    hidden: Any | Callable[[Params], Any], *, base_fan_in: float = 1.0, per_layer: PerLayer = None
) -> optax.GradientTransformation:
    """Divides the updates of hidden layers by their fan-in, as muLO does with those of learned optimizers.

    Steps of a size that does not depend on the width, such as AdaFac-MLP's or Adam's, change what a layer
    says in proportion to the number of its inputs. With this, and the initialisation and output multiplier of
    the μ-parametrisation in the model, wide networks train as narrow ones do.

    >>> import jax.numpy as jnp, optax
    >>> from celo.transforms import mup_scale
    >>> params = {"in": jnp.ones((3, 64)), "hidden": jnp.ones((64, 64)), "out": jnp.ones((64, 2))}
    >>> hidden = {"in": False, "hidden": True, "out": False}
    >>> tx = optax.chain(optax.adam(1e-3), mup_scale(hidden, base_fan_in=16))  # 1e-3 was good at width 16
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> float(updates["in"][0, 0] / updates["hidden"][0, 0])
    4.0

    Args:
      hidden: which tensors are hidden layers, both of whose sides grow with the model: a pytree prefix of the
        updates with bools, or a function of them giving one. Input and output layers, biases and norms are
        none.
      base_fan_in: fan-in at which updates stay as they are; 1 as published with muLO, PyLO has the width of a
        base model.
      per_layer: how many leading axes of each tensor count layers, as in `celo.scale_by_celo_rule`.

    Returns:
      A transformation that multiplies by base_fan_in / fan_in, where the fan-in of a tensor is the product of
      all its axes but the last: [in, out], [height, width, in, out].

    Raises:
      CeloError: if `base_fan_in` is not positive; in `update`, if `hidden` does not fit or names a tensor of
        fewer than two axes.

    References:
      Thérien et al., "μLO: Compute-Efficient Meta-Generalization of Learned Optimizers", arXiv 2406.00153.
    """
    if not base_fan_in > 0:
        raise CeloError(f"base_fan_in must be positive, got {base_fan_in!r}; 1 divides by the fan-in itself")

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, OptState]:
        del params
        wanted = per_leaf(hidden, updates, bool, "hidden", default=False)
        layers = leading_axes(per_layer, updates)
        paths, treedef = jax.tree_util.tree_flatten_with_path(updates)
        scaled = [
            update * (base_fan_in / _fan_in(path, update, axes)) if is_hidden else update
            for (path, update), is_hidden, axes in zip(paths, wanted, layers, strict=True)
        ]
        return jax.tree.unflatten(treedef, scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def _fan_in(path: Any, update: jax.Array, axes: int) -> int:
    shape = update.shape[axes:]
    if len(shape) < 2:
        raise CeloError(
            f"hidden names updates{jax.tree_util.keystr(path)} of shape {update.shape}, which has no inputs: "
            "only matrices and convolutions are hidden layers"
        )
    return max(math.prod(shape[:-1]), 1)
