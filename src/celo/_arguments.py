"""What users pass to optimizers and their updates, checked: horizon, parameters, gradients, loss."""

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from celo._errors import CeloError
from celo._limits import check_steps
from celo._types import Array, Params, Updates


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


def check_array(name: str, leaf: Any) -> None:
    """CeloError for what is neither an array, nor its shape, nor a number."""
    if _dtype(leaf) is None:
        raise CeloError(
            f"{name} is no array, got {reprlib.repr(leaf)}; give the arrays alone, of an Equinox model "
            "eqx.filter(model, eqx.is_inexact_array), or leave it out with optax.masked"
        )


def check_parameters(params: Params) -> None:
    """CeloError for a leaf that is no real floating-point array or number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = f"params{jax.tree_util.keystr(path)}"
        check_array(name, leaf)
        dtype = _dtype(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise CeloError(
                f"parameters must be real, and {name} is {dtype}{list(jnp.shape(leaf))}; let the rule see "
                "two parts: optax.chain(optax.contrib.split_real_and_imaginary(celo.scale_by_celo_rule()), "
                "celo.scale_by_celo_schedule(num_steps))"
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise CeloError(
                f"parameters must be real floating-point arrays, and {name} is "
                f"{dtype}{list(jnp.shape(leaf))}; leave others out with optax.masked, or, of an Equinox "
                "model, with eqx.filter(model, eqx.is_inexact_array)"
            )


def check_gradients(params: Params, grads: Updates) -> None:
    """CeloError for a gradient of another shape than its parameter's, or of no real numbers."""
    check_shapes(params, grads, "its gradient")
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        dtype = _dtype(leaf)
        if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
            raise CeloError(
                f"the gradient of params{jax.tree_util.keystr(path)} must be real numbers, got {dtype}; "
                "leave what has no real gradient out with optax.masked"
            )


def _dtype(leaf: Any) -> Any:
    """The dtype that JAX gives to an array, its shape or a number; None for anything else."""
    if isinstance(leaf, bool | int | float | complex):
        return jnp.result_type(leaf)
    return getattr(leaf, "dtype", None)


def where_given(grads: Updates, tree: Any) -> Any:
    """`tree`, shaped like the parameters, with None where the gradient is None: what is not trained.

    An Equinox model has functions among its leaves, and no gradient for them.
    """
    return jax.tree.map(lambda g, part: None if g is None else part, grads, tree, is_leaf=_is_none)


def filled(new: Any, old: Any) -> Any:
    """`new`, what is None in it taken from `old`."""
    return jax.tree.map(lambda n, o: o if n is None else n, new, old, is_leaf=_is_none)


def _is_none(node: Any) -> bool:
    return node is None


def as_arrays(tree: Any) -> Any:
    """Numbers and NumPy's arrays among the leaves as JAX's; they may be of narrower dtypes.

    Shapes, functions and gradients of integers (float0) stay: they are used or refused by name elsewhere.
    """

    def array(leaf: Any) -> Any:
        numbers = isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic)
        return jnp.asarray(leaf) if numbers and getattr(leaf, "dtype", None) != jax.dtypes.float0 else leaf

    return jax.tree.map(array, tree)


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


def check_rows(state: Array, shape: tuple[int, int]) -> None:
    """CeloError unless an LSTM's state has this shape, [tensors, units]: it was made for other parameters."""
    if state.shape != shape:
        raise CeloError(
            f"the LSTM's state has shape {state.shape}, and {shape} belongs to these parameters and weights: "
            "tensors, and units. Begin with tx.init(params), or restore what belongs to the state"
        )
