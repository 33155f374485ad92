"""Where the state belongs when parameters are split over devices: each statistic beside its tensor."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo._errors import CeloError
from celo._layout import spec_beside
from celo._types import OptState, Params
from celo.transforms._soap import PerAxis


def state_sharding(tx: optax.GradientTransformation, params: Params) -> OptState:
    """Shardings for an optimizer's state: what is kept for a tensor is split as the tensor, the rest copied.

    An axis in which a statistic is not as long as its tensor is whole on every device: so the axis of size 1
    that a factored second moment has been averaged over. A matrix that SOAP keeps for an axis has its rows
    split as that axis. Scalars, counters and the learned schedule's state
    are copied to all devices. Nothing is computed and no state is made.

    >>> import celo, jax, jax.numpy as jnp
    >>> from jax.sharding import NamedSharding, PartitionSpec
    >>> mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
    >>> params = jax.device_put({"w": jnp.ones((64, 8))}, NamedSharding(mesh, PartitionSpec("fsdp")))
    >>> tx = celo.celo(num_steps=100)
    >>> state = jax.jit(tx.init, out_shardings=celo.state_sharding(tx, params))(params)

    Args:
      tx: any optax transformation, for example one of the library's, in whatever it is wrapped.
      params: pytree of arrays of any shapes, or of `jax.ShapeDtypeStruct`, each with a `NamedSharding` of one
        mesh. Shapes get theirs by `jax.tree.map(lambda x, s: x.update(sharding=s), shapes, shardings)`.

    Returns:
      A pytree like `tx.init(params)` with a `NamedSharding` for every array.

    Raises:
      CeloError: if a parameter has no `NamedSharding`, there are several meshes, or there is no parameter.
    """
    mesh = _mesh(params)

    def split(*axes: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*axes))

    def beside(statistic: Any, param: Any) -> Any:
        if isinstance(statistic, optax.MaskedNode):
            return statistic
        if isinstance(statistic, PerAxis):
            axes = [*param.sharding.spec, *[None] * (len(param.shape) - len(param.sharding.spec))]
            rows = zip(statistic.matrices, axes, strict=True)
            return PerAxis(tuple(None if m is None else split(axis) for m, axis in rows))
        return NamedSharding(mesh, spec_beside(param.sharding.spec, param.shape, statistic.shape))

    return optax.tree_map_params(
        tx,
        beside,
        jax.eval_shape(tx.init, params),
        params,
        transform_non_params=lambda _: split(),
        is_leaf=lambda node: isinstance(node, optax.MaskedNode | PerAxis),
    )


def _mesh(params: Params) -> Mesh:
    """The one mesh that all parameters are on."""
    meshes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        sharding, name = getattr(leaf, "sharding", None), jax.tree_util.keystr(path)
        if not isinstance(sharding, NamedSharding):
            raise CeloError(
                f"every parameter must have a NamedSharding, got {sharding} for params{name}; "
                "place them with jax.device_put(params, NamedSharding(mesh, PartitionSpec(…)))"
            )
        meshes.setdefault(sharding.mesh, name)
    if len(meshes) != 1:
        found = ", ".join(f"{mesh} of params{name}" for mesh, name in meshes.items()) or "no parameter"
        raise CeloError(f"all parameters must be on one mesh, got {found}; give all their shardings one mesh")
    return next(iter(meshes))
