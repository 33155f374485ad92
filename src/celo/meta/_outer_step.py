"""The outer step: estimate the meta-gradient on all devices, take one AdamW step on θ, many times a call."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from celo import _tree as tree
from celo._errors import CeloError
from celo._types import Array, Key, Theta
from celo.meta import _hosts as hosts
from celo.meta._estimators import ESTIMATORS, Resuming
from celo.meta._estimators.base import GradientEstimator
from celo.meta._expert import Expert
from celo.meta._objective import Objective
from celo.meta._phases import Phase
from celo.meta._recipes import Recipe
from celo.meta._unroll import Unroll
from celo.tasks._base import TaskFamily

PARTICLES = "particles"  # the mesh axis that particles are split over


class OuterState(NamedTuple):
    """Everything a phase needs to go on, bit for bit."""

    theta: Theta  # the groups in training
    average: Theta  # moving average of θ, what the phase ends with
    opt_state: optax.OptState
    estimators: tuple[Any, ...]  # each family's particles; split over devices along the first axis
    key: Key
    step: Array  # int32, outer steps taken in this phase


class OuterMetrics(NamedTuple):
    """Means over the outer steps of one call; float32 scalars but for `task_losses`."""

    meta_loss: Array  # mean cost: what is lowered
    task_losses: Array  # [kinds of task], mean training losses, family by family
    gradient_norm: Array  # before clipping
    gradient_square: Array  # squared norm, before clipping
    pair_square: Array  # mean over pairs of the squared norm of what each would say alone
    nonfinite: Array  # fraction of inner steps whose loss was not finite
    inner_steps: Array  # cost of an outer step: inner steps of both sides of all particles


def outer_optimizer(recipe: Recipe, phase: Phase) -> optax.GradientTransformation:
    """What moves θ: AdamW on clipped meta-gradients, its rate a warm-up and then a cosine."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if recipe.warmup_steps else phase.learning_rate,
        peak_value=phase.learning_rate,
        warmup_steps=recipe.warmup_steps,
        decay_steps=max(recipe.warmup_steps + 1, phase.steps),
        end_value=recipe.learning_rate_end,
    )
    return optax.chain(
        optax.clip_by_global_norm(recipe.gradient_clip),
        # Scalars of θ are a gain, a power and the logarithm of a floor: zero is no neutral value for them.
        optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=_has_axes),
    )


def _has_axes(theta: Theta) -> Any:
    return jax.tree.map(lambda weight: jnp.ndim(weight) > 0, theta)


def _devices(particles: Sequence[int]) -> list[Any]:
    """As many devices as divide each family's particles; of several processes all: each needs its share."""
    count, processes = jax.device_count(), jax.process_count()
    if processes > 1 and any(number % count for number in particles):
        raise CeloError(
            f"{' and '.join(map(str, particles))} particles cannot be split over the {count} devices "
            f"of {processes} processes: choose pairs_per_task so that {count} divides pairs times kinds of "
            "task, or other devices (JAX_NUM_CPU_DEVICES for each process)"
        )
    return jax.devices()[: math.gcd(*particles, count)]


class PhaseProgram:
    """The compiled computations of one phase.

    Groups of θ outside `phase.trains`, and weights that are settings, are frozen: they are an argument,
    neither perturbed, nor updated, nor decayed. Each family of tasks has particles of its own,
    `pairs_per_task` for each of its kinds, and an estimator; the meta-gradient is the mean over all
    particles. Particles are split over as many devices as divide their numbers, of all processes; only
    θ-sized sums and a few scalars cross devices.

    Raises:
      CeloError: if there are several processes and their devices do not divide the particles.
    """

    def __init__(self, recipe: Recipe, phase: Phase, families: Sequence[TaskFamily], kernel: str = "auto"):
        self.recipe, self.phase, self.families = recipe, phase, tuple(families)
        self._optimizer = phase.optimizer(kernel=kernel)
        self._particles = tuple(recipe.pairs_per_task * len(family.members) for family in families)
        self.mesh = Mesh(_devices(self._particles), (PARTICLES,))
        self._outer_optimizer = outer_optimizer(recipe, phase)
        whole, split = PartitionSpec(), PartitionSpec(PARTICLES)
        self._specs: Any = OuterState._make((whole, whole, whole, split, whole, whole))
        metric_specs: Any = OuterMetrics._make((whole,) * len(OuterMetrics._fields))

        def shardings(specs: Any) -> Any:  # explicit, or results on one device come back differently placed
            return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

        self._shardings = shardings(self._specs)
        self._whole, self._split_up = shardings(whole), shardings(split)
        self._init_particles = jax.jit(
            jax.shard_map(
                self._estimator_states,
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
                out_specs=(self._specs, metric_specs),
                check_vma=False,
            ),
            donate_argnums=0,
            out_shardings=shardings((self._specs, metric_specs)),
        )

    def init(self, theta: Theta, key: Key) -> tuple[OuterState, Theta]:
        """(state, frozen): the beginning of the phase from a whole θ, and what it leaves alone."""
        trained, frozen = self._split(theta)
        key_particles, key = jax.random.split(key)
        indices = tuple(jnp.arange(count, dtype=jnp.int32) for count in self._particles)
        everywhere = hosts.place((trained, frozen, key_particles), self._whole)
        state = OuterState(
            theta=trained,
            average=trained,
            opt_state=self._outer_optimizer.init(trained),
            estimators=self._init_particles(*everywhere, hosts.place(indices, self._split_up)),
            key=key,
            step=jnp.zeros((), jnp.int32),
        )
        return self.place(state, frozen)

    def shapes(self, theta: Theta, key: Key) -> tuple[OuterState, Theta]:
        """What `init` returns, as shapes and dtypes: the template a checkpoint is read into."""
        trained, frozen = self._split(theta)
        indices = tuple(jax.ShapeDtypeStruct((count,), jnp.int32) for count in self._particles)
        state = OuterState(
            theta=jax.eval_shape(lambda: trained),
            average=jax.eval_shape(lambda: trained),
            opt_state=jax.eval_shape(self._outer_optimizer.init, trained),
            estimators=jax.eval_shape(self._estimator_states, trained, frozen, key, indices),
            key=jax.eval_shape(lambda: key),
            step=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
        )
        return state, jax.eval_shape(lambda: frozen)

    def place(self, state: OuterState, frozen: Theta) -> tuple[OuterState, Theta]:
        """State and frozen weights on this program's devices, wherever they came from."""
        return hosts.place((state, frozen), (self._shardings, self._whole))

    def advance(self, state: OuterState, frozen: Theta, count: int) -> tuple[OuterState, OuterMetrics]:
        """`count` outer steps. The state given is consumed."""
        return self._advance(state, frozen, np.asarray(count, np.int32))

    def _split(self, theta: Theta) -> tuple[Theta, Theta]:
        """(trained, frozen) parts of a whole θ."""

        def part(trains: bool) -> Theta:
            groups = {
                group: {
                    name: weight
                    for name, weight in weights.items()
                    if trains
                    == (group in self.phase.trains and f"{group}/{name}" not in self._optimizer.fixed_theta)
                }
                for group, weights in theta.items()
            }
            return {group: weights for group, weights in groups.items() if weights}

        return part(True), part(False)

    @property
    def pairs(self) -> int:
        """Pairs of inner problems that a meta-gradient is the mean over, of all families and devices."""
        return sum(self._particles)

    def _expert(self, step: Array) -> Expert | None:
        """The expert with the share that it has at an outer step of the phase."""
        if not self.phase.expert_steps:
            return None
        left = jnp.maximum(0.0, 1.0 - step.astype(jnp.float32) / self.phase.expert_steps)
        return Expert(self.recipe.expert_share * left, self.recipe.expert_learning_rate)

    def _estimator(self, family: TaskFamily, frozen: Theta, step: Array) -> GradientEstimator:
        recipe = self.recipe
        problem = Unroll(
            family=family,
            optimizer=self._optimizer,
            truncation_length=recipe.truncation_length,
            horizon_min=recipe.horizon_min,
            horizon_max=recipe.horizon_max,
            horizon_power=recipe.horizon_power,
            objective=Objective(recipe.objective, recipe.lateness),
            frozen=frozen,
            expert=self._expert(step),
        )
        estimator: Any = ESTIMATORS[recipe.estimator](problem, recipe.truncation_length, recipe.std)
        if recipe.resume_slots:
            return Resuming(estimator, recipe.resume_slots, recipe.resume_share)
        return estimator

    def _estimator_states(
        self, theta: Theta, frozen: Theta, key: Key, indices: tuple[Array, ...]
    ) -> tuple[Any, ...]:
        first = jnp.zeros((), jnp.int32)
        return tuple(
            self._estimator(family, frozen, first).init(theta, jax.random.fold_in(key, number), index)
            for number, (family, index) in enumerate(zip(self.families, indices, strict=True))
        )

    def _mean(self, of_families: list[Any]) -> Any:
        """The mean over families, of which each counts as much as it has particles."""
        shares = [count / self.pairs for count in self._particles]
        return jax.tree.map(lambda *xs: sum(s * x for s, x in zip(shares, xs, strict=True)), *of_families)

    def _average(self, average: Theta, theta: Theta, step: Array) -> Theta:
        """The moving average after one more θ; a young one forgets its beginning faster."""
        decay = jnp.minimum(self.recipe.average_decay, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda a, t: decay * a + (1.0 - decay) * t, average, theta)

    def _outer_steps(self, state: OuterState, frozen: Theta, count: Array) -> tuple[OuterState, OuterMetrics]:
        """Runs on each device with its share of the particles."""

        def one(_: Array, carry: tuple[OuterState, OuterMetrics]) -> tuple[OuterState, OuterMetrics]:
            state, total = carry
            estimators = [self._estimator(family, frozen, state.step) for family in self.families]
            key, key_estimate = jax.random.split(state.key)
            results = [
                estimator.estimate(state.theta, particles, jax.random.fold_in(key_estimate, number))
                for number, (estimator, particles) in enumerate(
                    zip(estimators, state.estimators, strict=True)
                )
            ]
            estimates = [estimate for estimate, _ in results]
            means = self._mean([(e.meta_loss, e.gradient, e.nonfinite, e.pair_square) for e in estimates])
            meta_loss, gradient, nonfinite, pair_square = jax.lax.pmean(means, PARTICLES)
            updates, opt_state = self._outer_optimizer.update(gradient, state.opt_state, state.theta)
            theta: Theta = jax.tree.map(jnp.add, state.theta, updates)
            average = self._average(state.average, theta, state.step)
            kind_losses = nothing.task_losses.at[kinds].add(
                jnp.concatenate([estimate.particle_losses for estimate in estimates])
            )
            norm = tree.norm(gradient)
            inner_steps = sum((estimate.inner_steps for estimate in estimates), zero)
            now = OuterMetrics(
                meta_loss, kind_losses, norm, jnp.square(norm), pair_square, nonfinite, inner_steps
            )
            particles = tuple(particles for _, particles in results)
            state = OuterState(theta, average, opt_state, particles, key, state.step + 1)  # type: ignore[arg-type]
            return state, jax.tree.map(jnp.add, total, now)

        zero = jnp.zeros((), jnp.float32)
        kinds, count_kinds = [], 0  # of each particle
        for family, particles in zip(self.families, state.estimators, strict=True):
            kinds.append(count_kinds + particles.number % len(family.members))
            count_kinds += len(family.members)
        kinds = jnp.concatenate(kinds)
        no_losses = jnp.zeros((count_kinds,), jnp.float32)
        nothing = OuterMetrics(zero, no_losses, zero, zero, zero, zero, zero)
        state, total = jax.lax.fori_loop(0, count, one, (state, nothing))
        task_losses, inner_steps = jax.lax.psum((total.task_losses, total.inner_steps), PARTICLES)
        total = total._replace(task_losses=task_losses / self.recipe.pairs_per_task, inner_steps=inner_steps)
        return state, jax.tree.map(lambda x: x / count.astype(jnp.float32), total)
