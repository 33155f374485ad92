"""What users pass to optimizers and their updates, checked: horizon, parameters, loss."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from celo._errors import CeloError
from celo._limits import check_steps
from celo._types import Array, Params


def check_num_steps(num_steps: Any) -> Any:
    """`num_steps` as it came, if it is a positive whole number or a traced integer scalar."""
    if isinstance(num_steps, jax.Array):
        if num_steps.shape != () or not jnp.issubdtype(num_steps.dtype, jnp.integer):
            raise CeloError(
                f"num_steps must be a scalar integer, got {num_steps.dtype}{list(num_steps.shape)}; "
                "pass the number of training steps"
            )
        if isinstance(num_steps, Tracer):
            return num_steps
        num_steps = int(num_steps)
    return check_steps(num_steps)


def require_params(params: Params | None) -> Params:
    """The parameters, or the error optax gives when a transformation misses them."""
    if params is None:
        raise CeloError(
            "this optimizer reads the parameters, got params=None; "
            "call update(grads, state, params, value=loss)"
        )
    return params


def require_value(value: Any) -> Array:
    """The loss as a float32 scalar.

    Raises:
      CeloError: if it is missing or not a scalar.
    """
    if value is None:
        raise CeloError(
            "this optimizer reads the training loss, got value=None; "
            "call update(grads, state, params, value=loss). Inside optax.chain, optax.MultiSteps drops "
            "`value`: keep it outermost, or use celo.accumulate. Where there is no loss, use "
            "celo.celo_rule(learning_rate)"
        )
    value = jnp.asarray(value)
    if value.shape != ():
        raise CeloError(f"value must be the scalar training loss, got shape {value.shape}; pass its mean")
    return value.astype(jnp.float32)


def check_shapes(params: Params, others: Params, what: str) -> None:
    """CeloError unless each of `others` has its parameter's shape: some would broadcast without a word."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    for (path, param), other in zip(leaves, treedef.flatten_up_to(others), strict=True):
        if jnp.shape(other) != jnp.shape(param):
            raise CeloError(
                f"params{jax.tree_util.keystr(path)} has shape {jnp.shape(param)}, and {what} "
                f"{jnp.shape(other)}: they must be the same. Pass what belongs to these parameters, or "
                "begin with tx.init(params)"
            )


def check_state(state: Any, kind: type) -> None:
    """CeloError unless `state` is of the type that `init` gave it; checkpoints may come back as dicts."""
    if not isinstance(state, kind):
        raise CeloError(
            f"the optimizer's state must be {kind.__name__}, got {type(state).__name__}: a checkpoint that "
            "is restored without a target becomes dicts and lists. Restore it into tx.init(params), as "
            "flax.serialization.from_bytes(tx.init(params), data) does, or Orbax with that as its target"
        )


def check_floating(params: Params) -> None:
    """CeloError for a parameter that is not a real floating-point array."""
    for leaf in jax.tree.leaves(params):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(leaf).__name__ if dtype is None else f"{dtype}{list(leaf.shape)}"
            raise CeloError(
                f"parameters must be real floating-point arrays, got {got}; "
                "leave others out with optax.masked"
            )


def check_rows(state: Array, shape: tuple[int, int]) -> None:
    """CeloError unless an LSTM's state has this shape, [tensors, units]: it was made for other parameters."""
    if state.shape != shape:
        raise CeloError(
            f"the LSTM's state has shape {state.shape}, and {shape} belongs to these parameters and weights: "
            "tensors, and units. Begin with tx.init(params), or restore what belongs to the state"
        )
