"""Groups of parameters by path and shape, to send some of them to another optimizer."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from celo._arguments import check_array
from celo._errors import CeloError
from celo._types import Params

EMBEDDING = r"embed|wte|wpe|pos_emb"
HEAD = r"(^|/)(lm_)?head(/|$)|logits|unembed|classifier"
VECTOR = r"(^|/)(bias|scale|b|norm[^/]*|ln_?\w*|[^/]*_norm)(/|$)"


def label_params(
    params: Params, *, embedding: str = EMBEDDING, head: str = HEAD, vector: str = VECTOR
) -> Params:
    """A label for each tensor, for `optax.partition`: "embedding", "head", "vector" or "matrix".

    Norms and biases are vectors: tensors of fewer than two axes, or of such a name (a stack of biases has
    two axes). Of the others, a path in which `head` is found is one, then `embedding`; the rest are
    matrices, convolutions included.

    >>> import celo, jax.numpy as jnp, optax
    >>> params = {"embed": jnp.ones((50, 8)), "dense": {"kernel": jnp.ones((8, 8)), "bias": jnp.zeros(8)}}
    >>> labels = celo.label_params(params)
    >>> labels
    {'dense': {'bias': 'vector', 'kernel': 'matrix'}, 'embed': 'embedding'}
    >>> tx = optax.partition(
    ...     {"matrix": celo.celo(100), "vector": optax.adam(1e-3), "embedding": optax.adam(1e-3)}, labels
    ... )

    Args:
      params: pytree of arrays, or of their shapes.
      embedding: regular expression, looked for in the lower-cased path ("decoder/embed/kernel").
      head: likewise.
      vector: likewise.

    Returns:
      A pytree like `params`.

    Raises:
      CeloError: if an expression cannot be read.
    """
    is_vector, is_head = _finder("vector", vector), _finder("head", head)
    is_embedding = _finder("embedding", embedding)

    def label(path: tuple, leaf: Any) -> str:
        name = _name(path)
        check_array(f"params{jax.tree_util.keystr(path)}", leaf)
        if jnp.ndim(leaf) < 2 or is_vector(name):
            return "vector"
        if is_head(name):
            return "head"
        return "embedding" if is_embedding(name) else "matrix"

    return jax.tree_util.tree_map_with_path(label, params)


def plan(params: Params, labels: Params) -> str:
    """What `labels` send where, a line a tensor and a line a label: for reading before a long run.

    >>> import celo, jax.numpy as jnp
    >>> params = {"dense": {"kernel": jnp.ones((8, 8)), "bias": jnp.zeros(8)}}
    >>> print(celo.plan(params, celo.label_params(params)))
    vector: 1 tensors, 8 parameters
      dense/bias [8]
    matrix: 1 tensors, 64 parameters
      dense/kernel [8, 8]

    Args:
      params: pytree of arrays, or of their shapes.
      labels: pytree like it, of strings.
    """
    groups: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    tensors = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), label in zip(tensors, jax.tree.leaves(labels), strict=True):
        groups.setdefault(label, []).append((_name(path), jnp.shape(leaf)))
    lines = []
    for label, members in groups.items():
        count = sum(math.prod(shape) for _, shape in members)
        lines.append(f"{label}: {len(members)} tensors, {count:,} parameters")
        lines += [f"  {name} {list(shape)}" for name, shape in members]
    return "\n".join(lines)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").lower()


def _finder(option: str, source: str) -> Callable[[str], object]:
    try:
        return re.compile(source).search
    except re.error as error:
        raise CeloError(f"{option}={source!r} is no regular expression: {error}") from error
