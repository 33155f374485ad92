"""θ for a transformation: from a bundled name, a file, or θ itself, checked."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from celo import weights as weights_files
from celo._errors import CeloError
from celo._types import Array, Key, Theta
from celo.optimizers import _schedule as scheduler
from celo.optimizers import _update_rule as update_rule

Weights = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]  # bundled name, file, or θ itself

_FRESH: dict[str, Callable[[Key], dict[str, Array]]] = {
    update_rule.GROUP: lambda key: update_rule.UpdateRule().init_theta(key)[update_rule.GROUP],
    scheduler.GROUP: scheduler.init_theta,
}


def load_theta(weights: Weights, groups: tuple[str, ...]) -> Theta:
    """θ with the named groups, from a bundled name, a file or θ itself.

    Raises:
      CeloError: if the file cannot be read, or a group is missing or of other shapes.
    """
    if not isinstance(weights, str | os.PathLike | Mapping):
        raise CeloError(f"weights must be a bundled name, a path or θ itself, got {weights!r}")
    if isinstance(weights, Mapping):
        theta, source = weights, "weights="
    else:
        theta, source = weights_files.load(weights).theta, str(weights)
    theta = {
        group: dict(theta[group]) if isinstance(theta[group], Mapping) else theta[group]
        for group in groups
        if group in theta
    }
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(theta)):
        optional = {
            f"{half.GROUP}/{name}": shape
            for half in (update_rule, scheduler)
            for name, shape in half.OPTIONAL_SHAPES.items()
        }
        found = {name: shape for name, shape in optional.items() if name in weights_files.flatten(theta)}
        weights_files.check_theta(theta, expected_shapes(groups) | found, source=source)
    return jax.tree.map(jnp.asarray, theta)


def expected_shapes(groups: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Flat name -> shape of every weight in the named groups."""
    fresh = {group: jax.eval_shape(_FRESH[group], jax.random.key(0)) for group in groups}
    return {f"{group}/{name}": tuple(leaf.shape) for group in groups for name, leaf in fresh[group].items()}
