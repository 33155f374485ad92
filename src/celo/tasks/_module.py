"""Tasks made of three parts: where batches come from, a Flax linen module, and what it is trained for.

Nothing here imports Flax: a module is called through `lazy_init` and `apply`, functions of plain dicts.
"""

import dataclasses
from typing import Any

import jax

from celo._types import Array, Batch, Key, ModelState, Params
from celo.data import CORPORA
from celo.tasks._base import Task, TaskFamily
from celo.tasks._objectives import Objective, guessing_cap, next_character, next_token
from celo.tasks._sources import Source

NOISE = "noise"  # the one stream of random numbers of a module, in training and in evaluation
STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModuleTask(Task):
    """Training one module for one objective. It has no leaves: all tasks of the family are alike.

    The module is called as `module(inputs, train)`; what it keeps beside its parameters (batch statistics)
    is the model state.
    """

    module: Any = dataclasses.field(metadata=STATIC)
    objective: Objective = dataclasses.field(metadata=STATIC)
    inputs: jax.ShapeDtypeStruct = dataclasses.field(metadata=STATIC)

    def init(self, key: Key) -> tuple[Params, ModelState]:
        """The module's own initialisation: ({module: {parameter: …}}, {collection: …} or ())."""
        key_params, key_noise = jax.random.split(key)
        keys = {"params": key_params, NOISE: key_noise}
        variables = dict(self.module.lazy_init(keys, self.inputs, train=False))
        return variables.pop("params"), variables or ()

    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """The objective in training: batch statistics of the batch, dropout."""
        state = dict(model_state)
        outputs, state = self.module.apply(
            {"params": params, **state}, batch[0], train=True, rngs={NOISE: key}, mutable=list(state)
        )
        loss, metrics = self.objective(outputs, batch)
        return loss, (state or (), metrics)

    def evaluate(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """The objective outside of training: averaged batch statistics, no dropout."""
        variables = {"params": params, **dict(model_state)}
        return self.objective(self.module.apply(variables, batch[0], train=False, rngs={NOISE: key}), batch)


class ModuleFamily(TaskFamily):
    """The family of one `ModuleTask`; its only member is called after the data set.

    Args:
      dataset: its name.
      source: where batches come from.
      module: a Flax linen module, called as `module(inputs, train)`; dropout and the like take random
        numbers from the stream "noise".
      objective: one of `celo.tasks._objectives`, or a function like them.
      loss_cap: as for every family.
    """

    def __init__(self, dataset: str, source: Source, module: Any, objective: Objective, loss_cap: float):
        self.members, self.loss_cap = (dataset,), loss_cap
        self.source, self.module, self.objective = source, module, objective

    def sample(self, key: Key, member: Array) -> ModuleTask:
        """The task; there is but one."""
        del key, member
        return ModuleTask(self.module, self.objective, self.source.inputs)

    def draw(self, key: Key, count: int) -> Array:
        """As the source draws."""
        return self.source.draw(key, count)

    def batch(self, task: ModuleTask, split: str, draw: Array) -> Batch:
        """The source's (inputs, targets)."""
        del task
        return self.source.batch(split, draw)


def language(dataset: str, source: Source, module: Any) -> ModuleFamily:
    """A family whose targets are the next word pieces of a corpus or characters of a text."""
    return classification(dataset, source, module, next_token if dataset in CORPORA else next_character)


def classification(dataset: str, source: Source, module: Any, objective: Objective) -> ModuleFamily:
    """A family whose targets are classes, so that the loss of guessing is known."""
    return ModuleFamily(dataset, source, module, objective, guessing_cap(source.classes))
