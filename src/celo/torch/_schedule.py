"""The learned schedule in PyTorch: `celo.optimizers._schedule` has the mathematics.

Its state is a dict of small tensors, so that it lies in an optimizer's `param_groups` as any option does, and
is saved and restored with them. No step of it waits for the device.
"""

import math

import torch
from torch import Tensor

from celo._definitions import (
    NUM_LOSS_AVERAGES,
    REFERENCE_HORIZON,
    SHORTEST_AVERAGE,
    STEP_SIZE_SCALE,
    TIME_CENTRES,
)

State = dict[str, Tensor]
Theta = dict[str, Tensor]


def init(theta: Theta, num_steps: int, plateau: float | None) -> State:
    """The state before the first step; `clock` stands still from the share `plateau` of the horizon on."""

    def scalar(value: float, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(value, dtype=dtype, device=theta["h0"].device)

    zeros = torch.zeros_like(theta["h0"][:NUM_LOSS_AVERAGES])
    return {
        "clock": scalar(0),
        "num_steps": scalar(num_steps),
        "sized_for": scalar(num_steps),
        "plateau": scalar(math.inf if plateau is None else plateau, torch.float32),
        "loss_means": zeros,
        "loss_minima": zeros + math.inf,
        "losses_seen": scalar(0),
        "hidden": theta["h0"].clone(),
        "cell": theta["c0"].clone(),
    }


def advance(theta: Theta, state: State, loss: Tensor) -> tuple[Tensor, State]:
    """Reads one training loss (float32 scalar): (step size, the new state)."""
    averages, means = _observe(state, loss)
    inputs = torch.cat([_time_features(state), _loss_features(means, averages)])
    mixed = torch.relu(inputs @ theta["mix_w"] + theta["mix_b"]) + inputs @ theta["skip_w"] + theta["skip_b"]
    hidden, cell = _lstm_step(mixed, state["hidden"], state["cell"], theta["lstm_w"], theta["lstm_b"])
    log_eta = (hidden * theta["out_w"]).sum() + theta["out_b"]
    if "horizon_w" in theta:
        log_eta = log_eta + theta["horizon_w"] * torch.log(state["sized_for"].float() / REFERENCE_HORIZON)
    arrived = state["clock"] >= state["plateau"] * state["num_steps"]
    clock = torch.where(arrived, state["clock"], state["clock"] + 1)
    return STEP_SIZE_SCALE * log_eta.exp(), {
        **state,
        **averages,
        "clock": clock,
        "hidden": hidden,
        "cell": cell,
    }


def with_horizon(state: State, num_steps: int) -> State:
    """The state with another horizon; `celo.with_horizon` says what that means."""
    total = torch.full_like(state["num_steps"], num_steps)
    return {**_stretched(state, total), "sized_for": total.clone()}


def cooling_down(state: State, num_steps: int) -> State:
    """The state off its plateau, with `num_steps` steps to its end; `celo.cool_down` says what that means."""
    share_left = (state["num_steps"] - state["clock"]).clamp(min=1).float() / state["num_steps"].float()
    total = torch.round(num_steps / share_left).to(torch.int32)
    return {
        **_stretched(state, total),
        "clock": total - num_steps,
        "plateau": torch.full_like(state["plateau"], math.inf),
    }


def _stretched(state: State, num_steps: Tensor) -> State:
    """Averages read off at the time scales of another horizon."""
    old, new = _half_lives(state["num_steps"]), _half_lives(num_steps)
    seen = state["losses_seen"].clamp(min=1).float()
    means = _read(state["loss_means"] / -torch.expm1(-seen / old), old, new) * -torch.expm1(-seen / new)
    minima = torch.where(
        state["losses_seen"] == 0, state["loss_minima"], _read(state["loss_minima"], old, new)
    )
    return {**state, "num_steps": num_steps, "loss_means": means, "loss_minima": minima}


def _read(values: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """Linear interpolation over the logarithm of time scales, flat outside."""
    order = torch.argsort(old)  # they fall where the horizon is shorter than the shortest average
    x, values, at = old.log()[order], values[order], new.log()
    right = torch.searchsorted(x.contiguous(), at.contiguous()).clamp(1, len(x) - 1)
    left = right - 1
    width = x[right] - x[left]
    share = torch.where(width > 0, (at - x[left]) / torch.where(width > 0, width, 1.0), 0.0).clamp(0, 1)
    return values[left] + share * (values[right] - values[left])


def _half_lives(num_steps: Tensor) -> Tensor:
    """Time constants of the ten averages, in steps."""
    shortest = math.log(SHORTEST_AVERAGE)
    position = torch.linspace(0.0, 1.0, NUM_LOSS_AVERAGES, dtype=torch.float32, device=num_steps.device)
    return torch.exp(shortest + position * (num_steps.float().log() - shortest))


def _time_features(state: State) -> Tensor:
    fraction = state["clock"].float() / state["num_steps"].float()
    # Not from a tensor of the centres: bringing one to the device would wait for it.
    return torch.tanh(10.0 * torch.stack([fraction - centre for centre in TIME_CENTRES]))


def _observe(state: State, loss: Tensor) -> tuple[State, Tensor]:
    """Takes one loss into the averages: (what changes, the bias-corrected means)."""
    seen, old_means = state["losses_seen"], state["loss_means"]
    rates = 1.0 / _half_lives(state["num_steps"])
    loss = loss.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    largest = _corrected(old_means, rates, seen + 1).max()  # the published count, one too many
    loss = torch.minimum(loss, torch.where((seen == 0) | (largest == 0), loss, 2.0 * largest.abs()))
    means = old_means - torch.expm1(-rates) * (loss - old_means)
    corrected = _corrected(means, rates, seen + 1)
    minima = torch.minimum(state["loss_minima"], corrected)
    finite = torch.isfinite(loss)
    averages = {
        "loss_means": torch.where(finite, means, old_means),
        "loss_minima": torch.where(finite, minima, state["loss_minima"]),
        "losses_seen": torch.where(finite, seen + 1, seen),
    }
    return averages, torch.where(finite, corrected, _corrected(old_means, rates, seen))


def _loss_features(means: Tensor, averages: State) -> Tensor:
    faster, slower, least = means[:-1], means[1:], averages["loss_minima"][:-1]
    ratio = (faster - least) / (slower - least).clamp(min=1e-8)
    return torch.where(averages["losses_seen"] <= 2, 0.0, (ratio - 1.0).clamp(-1.0, 1.0))


def _corrected(means: Tensor, rates: Tensor, count: Tensor) -> Tensor:
    return means / -torch.expm1(-rates * count.clamp(min=1))


def _lstm_step(
    x: Tensor, hidden: Tensor, cell: Tensor, weights: Tensor, biases: Tensor
) -> tuple[Tensor, Tensor]:
    gates = torch.cat([x, hidden]) @ weights + biases
    write, candidate, forget, read = gates.chunk(4)
    cell = torch.sigmoid(forget + 1.0) * cell + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(read) * torch.tanh(cell), cell
