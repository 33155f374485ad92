"""Orthogonalised steps for any optimizer: `_kernels.orthogonal` over a pytree of updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo._arguments import as_arrays
from celo._errors import CeloError
from celo._kernels import native, orthogonal
from celo._kernels.stacking import PerLayer, leading_axes, per_leaf
from celo._types import OptState, Params, Updates


def orthogonalize(
    matrices: Any | Callable[[Params], Any] | None = None,
    *,
    per_layer: PerLayer = None,
    kernel: str = "auto",
) -> optax.GradientTransformation:
    """Replaces the update of each matrix by its polar factor, scaled to the update's own root mean square.

    A tensor with two or more axes is a matrix if its smaller side is at least 4; of more axes, neighbours are
    merged: a convolution's [height, width, in, out] is [height * width * in, out], three axes are merged so
    that the matrix is as nearly square as it can be. Singular values become equal to within 9 % where they
    are at least 0.02 of the largest; of smaller ones little is left out, and what is zero stays zero.

    >>> import jax.numpy as jnp, optax
    >>> from celo.transforms import orthogonalize
    >>> tx = optax.chain(optax.scale_by_adam(), orthogonalize(), optax.scale_by_learning_rate(1e-3))
    >>> params = {"w": jnp.ones((8, 4))}
    >>> updates, state = tx.update(params, tx.init(params), params)

    Args:
      matrices: which updates: a pytree prefix of them with bools (`{"embedding": False, "blocks": True}`), or
        a function of them giving one. None: all that are matrices.
      per_layer: how many leading axes of each tensor count matrices, as in `celo.scale_by_celo_rule`.
      kernel: "auto", "native" or "xla", as in `celo.scale_by_celo_rule`.

    Raises:
      CeloError: for an unknown kernel, or a native one that does not work here; in `update`, if `matrices` or
        `per_layer` does not fit.

    References:
      Jordan et al., "Muon" (2024); Bernstein & Newhouse, arXiv 2409.20325.
    """
    native.check_kernel(kernel)

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, OptState]:
        del params
        updates = as_arrays(updates)
        leaves, treedef = jax.tree.flatten(updates)
        resolved = native.resolve(kernel)
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
            name = jax.tree_util.keystr(path)
            if jnp.iscomplexobj(leaf):
                raise CeloError(
                    f"updates must be real, and updates{name} is {leaf.dtype}{list(leaf.shape)}; let "
                    "orthogonalize see two parts: optax.contrib.split_real_and_imaginary(orthogonalize())"
                )
            if resolved == "native":
                native.check_whole(leaf, name)
        wanted = per_leaf(matrices, updates, bool, "matrices", default=True)
        layers = leading_axes(per_layer, updates)
        steps = [leaf.astype(jnp.float32) for leaf in leaves]
        replaced = orthogonal.orthogonalized(steps, wanted, layers, resolved)
        leaves = [replaced[i].astype(leaf.dtype) if i in replaced else leaf for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, leaves), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)
