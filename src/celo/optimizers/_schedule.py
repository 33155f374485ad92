"""Celo's scheduler: an LSTM that turns time and loss into one step size for all tensors.

Celo (arXiv 2501.12670), section 3: eta = 0.1 * exp(w . h + b), h the output of an LSTM of 64 units fed with
nine features of time and nine of the loss. The published code runs it once for each tensor, on equal
inputs; the answers are equal, so here it runs once. A hidden layer there maximises over tensors: over
equal rows that is the identity.

None of its inputs says how long a run is, but a step that suits 1,000 steps ruins a run of 20,000: each step
is a share of the parameters' own size, so that undirected steps let that size grow as exp(eta² / 2) a step.
Ours may have one weight more, v (`horizon_w`): eta is multiplied by (num_steps / 1000)^v.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo._nn import lstm_step, truncated_normal_fan_in
from celo._types import Array, Key

GROUP = "scheduler"
UNITS = 64
TIME_CENTRES = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
NUM_LOSS_AVERAGES = 10
SHORTEST_AVERAGE = 10.0  # steps
NUM_INPUTS = len(TIME_CENTRES) + NUM_LOSS_AVERAGES - 1
STEP_SIZE_SCALE = 0.1
REFERENCE_HORIZON = 1_000.0  # steps: where `horizon_w` changes nothing
OPTIONAL_SHAPES = {"horizon_w": ()}  # weights that the published scheduler does not have


class LossHistory(NamedTuple):
    """Moving averages of the loss over ten time scales, and the smallest value each has had."""

    means: Array  # [10], not bias-corrected
    minima: Array  # [10], of the bias-corrected means
    seen: Array  # int32, how many losses


class ScheduleState(NamedTuple):
    """What the scheduler remembers; a few hundred bytes whatever the model's size."""

    step: Array  # int32, steps taken
    num_steps: Array  # int32, the horizon
    sized_for: Array  # int32, the horizon that decides the step's size: `cool_down` leaves it as it was
    losses: LossHistory
    hidden: Array  # [64]
    cell: Array  # [64]


def init_theta(key: Key) -> dict[str, Array]:
    """Fresh weights of the scheduler, 35,649 in all: truncated normal of 1/sqrt(fan in), zero biases
    and initial state."""
    key_mix, key_skip, key_lstm, key_out = jax.random.split(key, 4)
    return {
        "mix_w": truncated_normal_fan_in(key_mix, (NUM_INPUTS, UNITS), NUM_INPUTS),
        "mix_b": jnp.zeros((UNITS,), jnp.float32),
        "skip_w": truncated_normal_fan_in(key_skip, (NUM_INPUTS, UNITS), NUM_INPUTS),
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
    zeros = jnp.zeros((NUM_LOSS_AVERAGES,), jnp.float32)
    return ScheduleState(
        step=jnp.zeros((), jnp.int32),
        num_steps=jnp.array(num_steps, jnp.int32),
        sized_for=jnp.array(num_steps, jnp.int32),
        losses=LossHistory(means=zeros, minima=zeros + jnp.inf, seen=jnp.zeros((), jnp.int32)),
        hidden=jnp.array(theta["h0"], jnp.float32),
        cell=jnp.array(theta["c0"], jnp.float32),
    )


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


def observe(losses: LossHistory, loss: Array, num_steps: Array) -> tuple[LossHistory, Array]:
    """Takes one loss (scalar) into the averages.

    A loss counts at most as twice the largest average, so a spike cannot drown the others; NaN counts as
    infinite. A loss that is still not finite (the very first one, or -inf) is left out.

    Returns:
      (history, means): the bias-corrected means [10], the very numbers that the minima are taken of.
    """
    rates = 1.0 / half_lives(num_steps)
    loss = jnp.where(jnp.isnan(loss), jnp.inf, loss)
    largest = jnp.max(_corrected(losses.means, rates, losses.seen))
    loss = jnp.minimum(loss, jnp.where(losses.seen == 0, loss, 2.0 * jnp.abs(largest)))
    means = losses.means + -jnp.expm1(-rates) * (loss - losses.means)
    corrected = _corrected(means, rates, losses.seen + 1)
    history = LossHistory(means, jnp.minimum(losses.minima, corrected), losses.seen + 1)
    return jax.tree.map(
        lambda new, old: jnp.where(jnp.isfinite(loss), new, old),
        (history, corrected),
        (losses, _corrected(losses.means, rates, losses.seen)),
    )


def loss_features(means: Array, losses: LossHistory) -> Array:
    """How each average stands against the next slower one, both above the running minimum; shape [9].

    Zero for the first two losses, when all averages are alike.
    """
    faster, slower, least = means[:-1], means[1:], losses.minima[:-1]
    ratio = (faster - least) / jnp.maximum(1e-8, slower - least)
    return jnp.where(losses.seen <= 2, 0.0, jnp.clip(ratio - 1.0, -1.0, 1.0))


def _corrected(means: Array, rates: Array, count: Array) -> Array:
    """Bias-corrected means, mean / (1 - exp(-rate * count)); zero before the first loss."""
    return means / -jnp.expm1(-rates * jnp.maximum(count, 1).astype(jnp.float32))
