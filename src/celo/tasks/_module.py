"""Tasks made of three parts: a source of batches, a Flax linen module, and a loss.

Nothing here imports Flax: a module is called through `lazy_init` and `apply`, functions of plain dicts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from celo._types import Array, Batch, Key, ModelState, Params
from celo.data._corpora import CORPORA
from celo.tasks._base import Task, TaskFamily
from celo.tasks._losses import ModelLoss, guessing_cap, next_character, next_token
from celo.tasks._sources import Source

NOISE = "noise"  # the only stream of random numbers of a module, in training and in evaluation
"""The name of the stream of random numbers that modules may use."""
STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModuleTask(Task):
    """Training one module on one data set. Tasks on the same set are identical.

    The module is called as `module(inputs, train)`; what it keeps besides its parameters (batch statistics)
    is the model state.
    """

    member: Array  # int32 scalar, index of the family's data set
    module: Any = dataclasses.field(metadata=STATIC)
    model_loss: ModelLoss = dataclasses.field(metadata=STATIC)
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
        """The loss in training: statistics of this batch, dropout."""
        state = dict(model_state)
        outputs, state = self.module.apply(
            {"params": params, **state}, batch[0], train=True, rngs={NOISE: key}, mutable=list(state)
        )
        loss, metrics = self.model_loss(outputs, batch)
        return loss, (state or (), metrics)

    def evaluate(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """The loss outside of training: averaged batch statistics, no dropout."""
        variables = {"params": params, **dict(model_state)}
        outputs = self.module.apply(variables, batch[0], train=False, rngs={NOISE: key})
        return self.model_loss(outputs, batch)


class ModuleFamily(TaskFamily):
    """One module on one or several data sets; each set is a member.

    Args:
      members: name of the data set; names of all of them, in the order of the source, where it has several.
      source: where batches come from.
      module: a Flax linen module, called as `module(inputs, train)`; dropout and the like take random
        numbers from the stream `NOISE`.
      model_loss: one of the losses in `celo.tasks`, or a function like them.
      loss_cap: see `TaskFamily`.
    """

    def __init__(
        self,
        members: str | Sequence[str],
        source: Source,
        module: Any,
        model_loss: ModelLoss,
        loss_cap: float,
    ):
        self.members = (members,) if isinstance(members, str) else tuple(members)
        self.source, self.module, self.model_loss, self.loss_cap = source, module, model_loss, loss_cap

    def sample(self, key: Key, member: Array) -> ModuleTask:
        """The module's task on data set `member`."""
        del key
        return ModuleTask(jnp.asarray(member, jnp.int32), self.module, self.model_loss, self.source.inputs)

    def draw(self, key: Key, count: int) -> Array:
        """The source's draws."""
        return self.source.draw(key, count)

    def batch(self, task: ModuleTask, split: str, draw: Array) -> Batch:
        """The source's (inputs, targets) of the task's data set."""
        return self.source.batch(split, draw, task.member)


def classification(dataset: str, source: Source, module: Any, model_loss: ModelLoss) -> ModuleFamily:
    """A family whose targets are classes, so that the cost of guessing sets its loss cap."""
    return ModuleFamily(dataset, source, module, model_loss, guessing_cap(source.classes))


def language(dataset: str, source: Source, module: Any) -> ModuleFamily:
    """A family whose targets are the next word pieces of a corpus or the next characters of a text."""
    return classification(dataset, source, module, next_token if dataset in CORPORA else next_character)
