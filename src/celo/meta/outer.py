"""The outer step: estimate the meta-gradient on all devices, take one AdamW step on θ, many times a call."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo import tree
from celo.errors import CeloError
from celo.meta import ESTIMATORS, hosts
from celo.meta.estimator import GradientEstimator
from celo.meta.recipes import Recipe
from celo.meta.unroll import Unroll
from celo.optimizers import OPTIMIZERS
from celo.tasks import Augmented, Reparametrisation, TaskFamily, make_task
from celo.types import Array, Key, Theta

PARTICLES = "particles"  # the mesh axis that particles are split over


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of meta-training: which optimizer unrolls, and which groups of θ are trained."""

    name: str
    optimizer: str
    trains: tuple[str, ...]
    steps: int
    learning_rate: float


def phases(recipe: Recipe) -> tuple[Phase, ...]:
    """Celo's two phases: the rule by itself, then the scheduler on top of the finished rule."""
    both = (
        Phase("rule", "celo_rule", ("update_rule",), recipe.rule_steps, recipe.rule_learning_rate),
        Phase("scheduler", "celo", ("scheduler",), recipe.scheduler_steps, recipe.scheduler_learning_rate),
    )
    return tuple(phase for phase in both if phase.steps > 0)


class OuterState(NamedTuple):
    """Everything a phase needs to go on, bit for bit."""

    theta: Theta  # the groups in training
    opt_state: optax.OptState
    estimator: Any  # particles; split over devices along the first axis
    key: Key
    step: Array  # int32, outer steps taken in this phase


class Progress(NamedTuple):
    """Means over the outer steps of one call."""

    meta_loss: Array
    task_losses: Array  # [kinds of task], the meta-loss of each
    gradient_norm: Array
    nonfinite: Array
    inner_steps: Array  # cost of an outer step: inner steps of both sides of all particles


def task_family(recipe: Recipe) -> TaskFamily:
    """The recipe's tasks, augmented as it says."""
    family = make_task(recipe.tasks)
    if recipe.augmentation == "none":
        return family
    low, high = recipe.augmentation_low, recipe.augmentation_high
    return Augmented(family, Reparametrisation(recipe.augmentation, low, high))


def _devices(particles: int, kinds: int) -> list[Any]:
    """As many devices as divide the particles; of several processes all, for each must have its share."""
    count, processes = jax.device_count(), jax.process_count()
    if processes > 1 and particles % count:
        raise CeloError(
            f"{particles} particles ({kinds} kinds of task) cannot be split over the {count} devices of "
            f"{processes} processes: choose pairs_per_task so that {count} divides pairs times kinds, or "
            "other devices (JAX_NUM_CPU_DEVICES for each process)"
        )
    return jax.devices()[: math.gcd(particles, count)]


class PhaseProgram:
    """The compiled computations of one phase.

    Groups of θ outside `phase.trains` are frozen: they are an argument, neither perturbed, nor updated,
    nor decayed. Particles are split over as many devices as divide their number, of all processes; only
    θ-sized sums and a few scalars cross devices.

    Raises:
      CeloError: if there are several processes and their devices do not divide the particles.
    """

    def __init__(self, recipe: Recipe, phase: Phase, family: TaskFamily, kernel: str = "xla"):
        self.recipe, self.phase, self.family = recipe, phase, family
        self._optimizer = OPTIMIZERS[phase.optimizer](kernel=kernel)
        self.num_particles = recipe.pairs_per_task * len(family.members)
        self.mesh = Mesh(_devices(self.num_particles, len(family.members)), (PARTICLES,))
        schedule = optax.cosine_decay_schedule(
            phase.learning_rate, max(1, phase.steps), recipe.learning_rate_end / phase.learning_rate
        )
        self._outer_optimizer = optax.chain(
            optax.clip_by_global_norm(recipe.gradient_clip),
            optax.adamw(schedule, weight_decay=recipe.weight_decay),
        )
        whole, split = PartitionSpec(), PartitionSpec(PARTICLES)
        self._specs: Any = OuterState._make((whole, whole, split, whole, whole))
        progress_specs: Any = Progress._make((whole, whole, whole, whole, whole))

        def shardings(specs: Any) -> Any:  # explicit, or results on one device come back differently placed
            return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

        self._shardings = shardings(self._specs)
        self._whole, self._split_up = shardings(whole), shardings(split)
        self._init_particles = jax.jit(
            jax.shard_map(
                self._estimator_state,
                mesh=self.mesh,
                in_specs=(whole, whole, whole, split),
                out_specs=split,
                check_vma=False,
            )
        )
        self._advance = jax.jit(
            jax.shard_map(
                self._outer_steps,
                mesh=self.mesh,
                in_specs=(self._specs, whole, whole),
                out_specs=(self._specs, progress_specs),
                check_vma=False,
            ),
            donate_argnums=0,
            out_shardings=shardings((self._specs, progress_specs)),
        )

    def init(self, theta: Theta, key: Key) -> tuple[OuterState, Theta]:
        """(state, frozen): the beginning of the phase from a whole θ, and the groups it leaves alone."""
        trained, frozen = self._split(theta)
        key_particles, key = jax.random.split(key)
        index = jnp.arange(self.num_particles, dtype=jnp.int32)
        everywhere = hosts.place((trained, frozen, key_particles), self._whole)
        state = OuterState(
            theta=trained,
            opt_state=self._outer_optimizer.init(trained),
            estimator=self._init_particles(*everywhere, hosts.place(index, self._split_up)),
            key=key,
            step=jnp.zeros((), jnp.int32),
        )
        return self.place(state, frozen)

    def shapes(self, theta: Theta, key: Key) -> tuple[OuterState, Theta]:
        """What `init` returns, as shapes and dtypes: the template a checkpoint is read into."""
        trained, frozen = self._split(theta)
        index = jax.ShapeDtypeStruct((self.num_particles,), jnp.int32)
        state = OuterState(
            theta=jax.eval_shape(lambda: trained),
            opt_state=jax.eval_shape(self._outer_optimizer.init, trained),
            estimator=jax.eval_shape(self._estimator_state, trained, frozen, key, index),
            key=jax.eval_shape(lambda: key),
            step=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
        )
        return state, jax.eval_shape(lambda: frozen)

    def place(self, state: OuterState, frozen: Theta) -> tuple[OuterState, Theta]:
        """State and frozen groups on this program's devices, wherever they came from."""
        return hosts.place((state, frozen), (self._shardings, self._whole))

    def advance(self, state: OuterState, frozen: Theta, count: int) -> tuple[OuterState, Progress]:
        """`count` outer steps. The state given is consumed."""
        return self._advance(state, frozen, np.asarray(count, np.int32))

    def _split(self, theta: Theta) -> tuple[Theta, Theta]:
        """(trained, frozen) groups of a whole θ."""
        trained = {group: theta[group] for group in self.phase.trains}
        return trained, {group: theta[group] for group in theta if group not in trained}

    def _estimator(self, frozen: Theta) -> GradientEstimator:
        recipe = self.recipe
        problem = Unroll(
            family=self.family,
            optimizer=self._optimizer,
            truncation_length=recipe.truncation_length,
            horizon_min=recipe.horizon_min,
            horizon_max=recipe.horizon_max,
            frozen=frozen,
        )
        return ESTIMATORS[recipe.estimator](problem, recipe.truncation_length, recipe.std)

    def _estimator_state(self, theta: Theta, frozen: Theta, key: Key, index: Array) -> Any:
        return self._estimator(frozen).init(theta, key, index)

    def _outer_steps(self, state: OuterState, frozen: Theta, count: Array) -> tuple[OuterState, Progress]:
        """Runs on each device with its share of the particles."""
        estimator = self._estimator(frozen)

        def one(_: Array, carry: tuple[OuterState, Progress]) -> tuple[OuterState, Progress]:
            state, total = carry
            key, key_estimate = jax.random.split(state.key)
            estimate, particles = estimator.estimate(state.theta, state.estimator, key_estimate)
            meta_loss, gradient, nonfinite = jax.lax.pmean(
                (estimate.meta_loss, estimate.gradient, estimate.nonfinite), PARTICLES
            )
            updates, opt_state = self._outer_optimizer.update(gradient, state.opt_state, state.theta)
            theta = optax.apply_updates(state.theta, updates)
            kind_losses = nothing.task_losses.at[kinds].add(estimate.particle_losses)
            norm = tree.norm(gradient)
            now = Progress(meta_loss, kind_losses, norm, nonfinite, estimate.inner_steps)
            state = OuterState(theta, opt_state, particles, key, state.step + 1)  # type: ignore[arg-type]
            return state, jax.tree.map(jnp.add, total, now)

        zero = jnp.zeros((), jnp.float32)
        kinds = state.estimator.number % len(self.family.members)
        no_losses = jnp.zeros((len(self.family.members),), jnp.float32)
        nothing = Progress(zero, no_losses, zero, zero, zero)
        state, total = jax.lax.fori_loop(0, count, one, (state, nothing))
        task_losses, inner_steps = jax.lax.psum((total.task_losses, total.inner_steps), PARTICLES)
        total = total._replace(task_losses=task_losses / self.recipe.pairs_per_task, inner_steps=inner_steps)
        return state, jax.tree.map(lambda x: x / count.astype(jnp.float32), total)
