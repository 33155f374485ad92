"""Run by test_hosts.py on 8 devices: one recipe on several numbers of them, and the program's collectives.

Its arguments are a folder and those numbers, 1 and 2 among them. Writes into the folder: start-N.npz,
middle-N.npz and end-N.npz, checkpoints of a run on N devices; resumed-N.npz, the end of the 2-device run
resumed from its middle on N other devices; and program-N-P.hlo, the compiled outer steps with P pairs on N
devices: with 8, and on all 8 devices with 16, too.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from celo.meta import _checkpoint as checkpoint
from celo.meta import _outer_step as outer
from celo.meta._phases import phases
from celo.meta._recipes import Recipe
from celo.optimizers import Celo
from celo.tasks import Task, TaskFamily
from celo.tasks._models.quadratic import Quadratic, Quadratics

STEPS = 10  # to the middle, and from there to the end
RECIPE = Recipe(
    rule_steps=2 * STEPS,
    pairs_per_task=8,
    truncation_length=5,
    horizon_min=5,
    horizon_max=20,
    rule_learning_rate=1e-3,
    scheduler_learning_rate=1e-3,
)


STILL = Quadratics()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shaken(Task):
    """A quadratic whose minimum is elsewhere in each batch, so that other data would lead elsewhere."""

    still: Quadratic

    def init(self, key):
        return self.still.init(key)

    def loss(self, params, model_state, key, batch):
        return self.still.loss({"x": params["x"] + batch}, model_state, key, ())


@dataclasses.dataclass(frozen=True)
class ShakenQuadratics(TaskFamily):
    loss_cap: float = 1e6
    members: tuple[str, ...] = ("quadratic",)

    def sample(self, key, member):
        return Shaken(STILL.sample(key, member))

    def draw(self, key, count):
        return jax.random.normal(key, (count, STILL.dim), jax.numpy.float32)

    def batch(self, task, split, draw):
        return draw


def program_on(count, recipe=RECIPE):
    outer._devices = lambda particles: jax.devices()[:count]
    return outer.PhaseProgram(recipe, phases(recipe)[0], (ShakenQuadratics(),), "xla")


def main(folder, counts):
    theta, key = Celo().init_theta(jax.random.key(0)), jax.random.key(1)
    programs = {count: program_on(count) for count in counts}
    for count, program in programs.items():
        state, frozen = program.init(theta, key)
        checkpoint.save(folder / f"start-{count}.npz", (state, frozen), {})
        for name in ("middle", "end"):
            state, _ = program.advance(state, frozen, STEPS)
            checkpoint.save(folder / f"{name}-{count}.npz", (state, frozen), {})
    for count, program in programs.items():
        if count == 2:
            continue
        saved = checkpoint.load(folder / "middle-2.npz", program.shapes(theta, key))
        state, frozen = program.place(*saved)
        state, _ = program.advance(state, frozen, STEPS)
        checkpoint.save(folder / f"resumed-{count}.npz", (state, frozen), {})
    compiled = {(count, 8): program for count, program in programs.items() if count > 1}
    if 8 in programs:
        compiled[8, 16] = program_on(8, dataclasses.replace(RECIPE, pairs_per_task=16))
    for (count, pairs), program in compiled.items():
        lowered = program._advance.lower(*program.init(theta, key), np.int32(1))
        (folder / f"program-{count}-{pairs}.hlo").write_text(lowered.compile().as_text())


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    main(Path(sys.argv[1]), [int(count) for count in sys.argv[2:]])
