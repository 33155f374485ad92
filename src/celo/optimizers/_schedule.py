"""Celo's scheduler: an LSTM that turns time and loss into one step size for all tensors.

Celo (arXiv 2501.12670), section 3: eta = 0.1 * exp(w . h + b), h the output of an LSTM of 64 units fed with
nine features of time and nine of the loss. The published code runs it once for each tensor, on equal
inputs; the answers are equal, so here it runs once. A hidden layer there maximises over tensors: over
equal rows that is the identity.

None of its inputs says how long a run is, but a step that suits 1,000 steps ruins a run of 20,000: each step
is a share of the parameters' own size, so that undirected steps let that size grow as exp(eta² / 2) a step.
Ours may have one weight more, v (`horizon_w`): eta is multiplied by (num_steps / 1000)^v.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo import _tree as tree
from celo._arguments import check_num_steps, check_state, require_value
from celo._definitions import (
    NUM_LOSS_AVERAGES,
    REFERENCE_HORIZON,
    SCHEDULE_INPUTS,
    SHORTEST_AVERAGE,
    STEP_SIZE_SCALE,
    TIME_CENTRES,
    UNITS,
)
from celo._layout import placed_with
from celo._limits import check_plateau
from celo._nn import lstm_step, truncated_normal_fan_in
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._bind import BoundWeights, WeightsLike, bind

GROUP = "scheduler"
OPTIONAL_THETA = {f"{GROUP}/horizon_w": ()}  # weights that the published scheduler does not have


class LossHistory(NamedTuple):
    """Moving averages of the loss over ten time scales, and the smallest value each has had."""

    means: Array  # [10], not bias-corrected
    minima: Array  # [10], of the bias-corrected means
    step: Array  # int32, losses taken in; those that are not finite are left out


class ScheduleState(NamedTuple):
    """What the scheduler remembers; a few hundred bytes whatever the model's size."""

    step: Array  # int32, steps taken
    num_steps: Array  # int32, the horizon
    sized_for: Array  # int32, the horizon that decides the step's size: `cool_down` leaves it as it was
    losses: LossHistory
    hidden: Array  # [64]
    cell: Array  # [64]

    keeps_time = True  # `with_horizon` and plateaus find it by this


def init_theta(key: Key) -> dict[str, Array]:
    """Fresh weights of the scheduler, 35,649 in all: truncated normal of 1/sqrt(fan in), zero biases
    and initial state."""
    key_mix, key_skip, key_lstm, key_out = jax.random.split(key, 4)
    return {
        "mix_w": truncated_normal_fan_in(key_mix, (SCHEDULE_INPUTS, UNITS), SCHEDULE_INPUTS),
        "mix_b": jnp.zeros((UNITS,), jnp.float32),
        "skip_w": truncated_normal_fan_in(key_skip, (SCHEDULE_INPUTS, UNITS), SCHEDULE_INPUTS),
        "skip_b": jnp.zeros((UNITS,), jnp.float32),
        "lstm_w": truncated_normal_fan_in(key_lstm, (2 * UNITS, 4 * UNITS), 2 * UNITS),
        "lstm_b": jnp.zeros((4 * UNITS,), jnp.float32),
        "out_w": truncated_normal_fan_in(key_out, (UNITS,), UNITS),
        "out_b": jnp.zeros((), jnp.float32),
        "h0": jnp.zeros((UNITS,), jnp.float32),
        "c0": jnp.zeros((UNITS,), jnp.float32),
    }


def init(theta: dict[str, Array], num_steps: Array) -> ScheduleState:
    """The state before the first step of a run of `num_steps` (int32 scalar).

    What comes from the arguments is copied, so that a donated state does not take θ with it.
    """
    return ScheduleState(
        step=jnp.zeros((), jnp.int32),
        num_steps=jnp.array(num_steps, jnp.int32),
        sized_for=jnp.array(num_steps, jnp.int32),
        losses=no_losses(),
        hidden=jnp.array(theta["h0"], jnp.float32),
        cell=jnp.array(theta["c0"], jnp.float32),
    )


def no_losses() -> LossHistory:
    """The history before the first loss."""
    zeros = jnp.zeros((NUM_LOSS_AVERAGES,), jnp.float32)
    return LossHistory(means=zeros, minima=zeros + jnp.inf, step=jnp.zeros((), jnp.int32))


def advance(theta: dict[str, Array], state: ScheduleState, loss: Array) -> tuple[Array, ScheduleState]:
    """Reads one training loss (scalar) and gives the step size for this step.

    Returns:
      (eta, state): a float32 scalar and the new state.
    """
    losses, means = observe(state.losses, loss, state.num_steps)
    inputs = jnp.concatenate(
        [
            time_features(state.step, state.num_steps),
            loss_features(means, losses),
        ]
    )
    mixed = jax.nn.relu(inputs @ theta["mix_w"] + theta["mix_b"])
    mixed = mixed + inputs @ theta["skip_w"] + theta["skip_b"]
    hidden, cell = lstm_step(mixed, state.hidden, state.cell, theta["lstm_w"], theta["lstm_b"])
    log_eta = jnp.sum(hidden * theta["out_w"]) + theta["out_b"]
    if "horizon_w" in theta:
        log_eta += theta["horizon_w"] * jnp.log(state.sized_for.astype(jnp.float32) / REFERENCE_HORIZON)
    state = state._replace(step=state.step + 1, losses=losses, hidden=hidden, cell=cell)
    return STEP_SIZE_SCALE * jnp.exp(log_eta), state


def scale(
    theta: dict[str, Array], updates: Updates, state: ScheduleState, loss: Array
) -> tuple[Updates, ScheduleState]:
    """Updates times the step size of this step: the one place where rule and schedule meet."""
    check_state(state, ScheduleState)
    eta, state = advance(theta, state, loss)
    return tree.scaled(updates, eta), state


def time_features(step: Array, num_steps: Array) -> Array:
    """tanh(10 (step / num_steps - c)) for nine moments c of training; shape [9]."""
    fraction = step.astype(jnp.float32) / num_steps.astype(jnp.float32)
    return jnp.tanh(10.0 * (fraction - jnp.asarray(TIME_CENTRES, jnp.float32)))


def half_lives(num_steps: Array) -> Array:
    """Time constants of the ten averages, in steps: log-spaced from 10 to the horizon; shape [10]."""
    shortest = jnp.log(jnp.float32(SHORTEST_AVERAGE))
    longest = jnp.log(num_steps.astype(jnp.float32))
    position = jnp.linspace(0.0, 1.0, NUM_LOSS_AVERAGES, dtype=jnp.float32)
    return jnp.exp(shortest + position * (longest - shortest))


Averaging = tuple[Callable[[Array, Array], Array], Callable[[Array], Array]]


def averaging(num_steps: Array) -> Averaging:
    """How ten losses are averaged, as exactly as float32 allows at any horizon.

    Returns:
      (means, loss) -> the means [10] with one loss more; count -> 1 - decay^count [10], what share of a whole
      mean that many losses are.
    """
    rates = 1.0 / half_lives(num_steps)
    return (
        lambda means, loss: means - jnp.expm1(-rates) * (loss - means),
        lambda count: -jnp.expm1(-rates * count),
    )


def published_averaging(num_steps: Array) -> Averaging:
    """`averaging` in the order of the published code, whose rounding weights were trained with.

    In the first steps all averages are nearly equal, and features are quotients of their differences:
    rounding reaches their third digit at a horizon of 1,000, and the first at 1,000,000.
    """
    longest = jnp.log10(num_steps.astype(jnp.float32))
    exponents = jnp.linspace(1.0, longest, NUM_LOSS_AVERAGES, dtype=jnp.float32)
    # A decay that is rounded to 1 would make a mean of nothing.
    decays = jnp.minimum(jnp.exp(-1.0 / jnp.power(10.0, exponents)), 1.0 - 2.0**-24)
    return lambda means, loss: means * decays + loss * (1.0 - decays), lambda count: 1.0 - decays**count


def observe(
    losses: LossHistory, loss: Array, num_steps: Array, averaging: Callable[[Array], Averaging] = averaging
) -> tuple[LossHistory, Array]:
    """Takes one loss (scalar) into the averages.

    A loss counts at most as twice the largest average, so a spike cannot drown the others; NaN counts as
    infinite. A loss that is still not finite (the very first one, or -inf) is left out. For that cap the
    published code corrects the averages' bias with the count after this loss, one too many; weights were
    trained with it, so it stays.

    Returns:
      (history, means): the bias-corrected means [10], the very numbers that the minima are taken of.
    """
    fold, share = averaging(num_steps)

    def corrected(means: Array, count: Array) -> Array:
        """The means without their bias; zero before the first loss."""
        return means / share(jnp.maximum(count, 1).astype(jnp.float32))

    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
    largest = jnp.max(corrected(losses.means, losses.step + 1))
    # Averages that are all 0, as after a first loss of exactly 0, would cap every later loss to 0.
    uncapped = (losses.step == 0) | (largest == 0)
    loss = jnp.minimum(loss, jnp.where(uncapped, loss, 2.0 * jnp.abs(largest)))
    means = fold(losses.means, loss)
    now = corrected(means, losses.step + 1)
    history = LossHistory(means, jnp.minimum(losses.minima, now), losses.step + 1)
    return jax.tree.map(
        lambda new, old: jnp.where(jnp.isfinite(loss), new, old),
        (history, now),
        (losses, corrected(losses.means, losses.step)),
    )


def loss_features(means: Array, losses: LossHistory) -> Array:
    """How each average stands against the next slower one, both above the running minimum; shape [9].

    Zero for the first two losses, when all averages are alike.
    """
    faster, slower, least = means[:-1], means[1:], losses.minima[:-1]
    ratio = (faster - least) / jnp.maximum(1e-8, slower - least)
    return jnp.where(losses.step <= 2, 0.0, jnp.clip(ratio - 1.0, -1.0, 1.0))


class _Scheduler:
    """What `bind` asks of an optimizer, for the scheduler by itself."""

    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = OPTIONAL_THETA

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights under their group."""
        return {GROUP: init_theta(key)}


def scale_by_celo_schedule(
    num_steps: int, weights: WeightsLike = "celo", *, plateau: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """Celo's learned schedule alone: multiplies updates by one step size read from time and loss.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = optax.chain(optax.adam(1e-3), celo.scale_by_celo_schedule(num_steps=100))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params, value=jnp.ones(()))

    Args:
      num_steps: the steps that training will take; going on afterwards is allowed.
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      plateau: a share of the horizon (0.5) at which time stands still until `celo.cool_down` is called on
        the state: for runs of unknown length.

    Raises:
      CeloError: for a wrong `num_steps` or `plateau`, or weights that do not fit; in `update`, for a missing
        loss.
    """
    return scale_by_schedule(num_steps, bind(weights, _Scheduler()), plateau)


def scale_by_schedule(
    num_steps: Any, weights: BoundWeights, plateau: float | None
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_celo_schedule` of weights that have been read."""
    theta = weights.theta[GROUP]
    horizon = check_num_steps(num_steps)
    weights.check_horizon(horizon)

    def init_fn(params: Params) -> ScheduleState:
        return placed_with(params, init(theta, jnp.asarray(horizon, jnp.int32)))

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra_args
        return scale(theta, updates, state, require_value(value))

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return tx if plateau is None else hold_plateau(tx, plateau)


class PlateauState(NamedTuple):
    """A learned schedule whose clock stands still from some share of the horizon on."""

    schedule: OptState  # the `step` of what keeps time in it is the clock, not the number of steps taken
    share: Array  # float32; infinite once the schedule may run to its end


def hold_plateau(
    schedule: optax.GradientTransformationExtraArgs, share: float | Array
) -> optax.GradientTransformationExtraArgs:
    """A learned schedule that stops its clock at a share of the horizon until `cool_down` lets it go on.

    Args:
      schedule: `scale_by_celo_schedule(num_steps)`, or an optimizer whose state keeps time.
      share: from 0 to 1.

    Raises:
      CeloError: if `share` is not between 0 and 1.
    """
    if not isinstance(share, jax.Array):
        check_plateau(share)

    def init_fn(params: Params) -> PlateauState:
        state = PlateauState(schedule.init(params), jnp.array(share, jnp.float32))
        return placed_with(params, state)

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, PlateauState]:
        def held(before: Any, after: Any) -> Any:
            end = state.share * before.num_steps.astype(jnp.float32)
            arrived = before.step.astype(jnp.float32) >= end
            return after._replace(step=jnp.where(arrived, before.step, after.step))

        check_state(state, PlateauState)
        updates, after = schedule.update(updates, state.schedule, params, **extra_args)
        return updates, PlateauState(map_clocks(held, state.schedule, after), state.share)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def map_clocks(function: Callable[..., Any], state: OptState, *others: OptState) -> OptState:
    """The last of some states of one structure, its parts that keep time replaced.

    Such a part is a named tuple with `step`, `num_steps` and perhaps `losses` that says so by `keeps_time`.

    Args:
      function: of that part of each state.
      state: any pytree.
      others: like it.
    """

    def keeps_time(node: Any) -> bool:
        return getattr(node, "keeps_time", False)

    def replaced(*nodes: Any) -> Any:
        return function(*nodes) if keeps_time(nodes[0]) else nodes[-1]

    return jax.tree.map(replaced, state, *others, is_leaf=keeps_time)
