"""Every type alias of the library, with one line of meaning."""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
Key = jax.Array  # a random key; used once, then split or dropped
Params = Any  # pytree of arrays: the weights of the inner problem
Updates = Any  # pytree like Params: what is added to them in one step
Theta = dict[str, dict[str, Array]]  # weights of a learned optimizer; flat names "group/name"
OptState = Any  # pytree of arrays: what an optimizer remembers between steps
ModelState = Any  # pytree of arrays a model changes in its forward pass (batch statistics); () if none
Batch = Any  # pytree of arrays: one mini-batch of data

# What a long function tells of its progress: (what is going on, done, total, a note); None tells nobody.
# Lines of the note after the first are details.
Progress = Callable[[str, int, int, str], None]
