"""The learned schedule in PyTorch: `celo.optimizers._schedule` has the mathematics.

Its state is a dict of small tensors, so that it lies in an optimizer's `param_groups` as any option does, and
is saved and restored with them. No step of it waits for the device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from celo._definitions import (
    NUM_LOSS_AVERAGES,
    REFERENCE_HORIZON,
    SHORTEST_AVERAGE,
    STEP_SIZE_SCALE,
    TIME_CENTRES,
)
from celo._limits import check_plateau, check_steps

State = dict[str, Tensor]
Theta = dict[str, Tensor]
# (means, loss) -> the means with one loss more; count -> what share of a whole mean that many losses are.
Folding = tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]
Averaging = Callable[[Tensor], Folding]  # of a horizon


def init(theta: Theta, num_steps: int, plateau: float | None) -> State:
    """The state before the first step.

    Raises:
      CeloError: as `init_clock`.
    """
    clock = init_clock(num_steps, plateau)
    return {
        **clock,
        "sized_for": clock["num_steps"].clone(),
        "hidden": theta["h0"].clone(),
        "cell": theta["c0"].clone(),
    }


def init_clock(num_steps: int, plateau: float | None) -> State:
    """What of it keeps time and losses; `clock` stands still from the share `plateau` of the horizon on.

    Raises:
      CeloError: if `num_steps` is no positive whole number, or `plateau` no share.
    """
    if plateau is not None:
        check_plateau(plateau)

    def scalar(value: float, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(value, dtype=dtype, device="cpu")

    zeros = torch.zeros(NUM_LOSS_AVERAGES, dtype=torch.float32, device="cpu")
    return {
        "clock": scalar(0),
        "num_steps": scalar(check_steps(num_steps)),
        "plateau": scalar(math.inf if plateau is None else plateau, torch.float32),
        "loss_means": zeros,
        "loss_minima": zeros + math.inf,
        "losses_seen": scalar(0),
    }


def advance(theta: Theta, state: State, loss: Tensor) -> tuple[Tensor, State]:
    """Reads one training loss (float32 scalar): (step size, the new state)."""
    inputs, kept = listen(state, loss)
    mixed = torch.relu(inputs @ theta["mix_w"] + theta["mix_b"]) + inputs @ theta["skip_w"] + theta["skip_b"]
    hidden, cell = lstm_step(mixed, state["hidden"], state["cell"], theta["lstm_w"], theta["lstm_b"])
    log_eta = (hidden * theta["out_w"]).sum() + theta["out_b"]
    if "horizon_w" in theta:
        log_eta = log_eta + theta["horizon_w"] * torch.log(state["sized_for"].float() / REFERENCE_HORIZON)
    return STEP_SIZE_SCALE * log_eta.exp(), {**kept, "hidden": hidden, "cell": cell}


def averaging(num_steps: Tensor) -> Folding:
    """How losses are averaged, as exactly as float32 allows at any horizon."""
    rates = 1.0 / _half_lives(num_steps)
    return (
        lambda means, loss: means - torch.expm1(-rates) * (loss - means),
        lambda count: -torch.expm1(-rates * count),
    )


def published_averaging(num_steps: Tensor) -> Folding:
    """`averaging` in the order of the published code, whose rounding weights were trained with."""
    position = _positions(num_steps.device)
    exponents = (1.0 - position) + position * num_steps.float().log10()
    # A decay that is rounded to 1 would make a mean of nothing.
    decays = torch.exp(-1.0 / torch.pow(10.0, exponents)).clamp(max=1.0 - 2.0**-24)
    return lambda means, loss: means * decays + loss * (1.0 - decays), lambda count: 1.0 - decays**count


def listen(state: State, loss: Tensor, averaging: Averaging = averaging) -> tuple[Tensor, State]:
    """(what an LSTM hears of time and of losses [18], the state after this loss, one step later)."""
    averages, means = _observe(state, loss, averaging)
    inputs = torch.cat([_time_features(state), _loss_features(means, averages)])
    arrived = state["clock"] >= state["plateau"] * state["num_steps"]
    return inputs, {
        **state,
        **averages,
        "clock": torch.where(arrived, state["clock"], state["clock"] + 1),
    }


def with_horizon(state: State, num_steps: int) -> State:
    """The state with another horizon; `celo.with_horizon` says what that means."""
    total = torch.full_like(state["num_steps"], num_steps)
    sized_for = {"sized_for": total.clone()} if "sized_for" in state else {}
    return {**_stretched(state, total), **sized_for}


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
    position = _positions(num_steps.device)
    return torch.exp(shortest + position * (num_steps.float().log() - shortest))


def _positions(device: torch.device) -> Tensor:
    """From 0 to 1, one for each average."""
    return torch.linspace(0.0, 1.0, NUM_LOSS_AVERAGES, dtype=torch.float32, device=device)


def _time_features(state: State) -> Tensor:
    fraction = state["clock"].float() / state["num_steps"].float()
    # Not from a tensor of the centres: bringing one to the device would wait for it.
    return torch.tanh(10.0 * torch.stack([fraction - centre for centre in TIME_CENTRES]))


def _observe(state: State, loss: Tensor, averaging: Averaging) -> tuple[State, Tensor]:
    """Takes one loss into the averages: (what changes, the bias-corrected means)."""
    fold, share = averaging(state["num_steps"])

    def corrected(means: Tensor, count: Tensor) -> Tensor:
        return means / share(count.clamp(min=1))

    seen, old_means = state["losses_seen"], state["loss_means"]
    loss = loss.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    largest = corrected(old_means, seen + 1).max()  # the published count, one too many
    loss = torch.minimum(loss, torch.where((seen == 0) | (largest == 0), loss, 2.0 * largest.abs()))
    means = fold(old_means, loss)
    now = corrected(means, seen + 1)
    minima = torch.minimum(state["loss_minima"], now)
    finite = torch.isfinite(loss)
    averages = {
        "loss_means": torch.where(finite, means, old_means),
        "loss_minima": torch.where(finite, minima, state["loss_minima"]),
        "losses_seen": torch.where(finite, seen + 1, seen),
    }
    return averages, torch.where(finite, now, corrected(old_means, seen))


def _loss_features(means: Tensor, averages: State) -> Tensor:
    faster, slower, least = means[:-1], means[1:], averages["loss_minima"][:-1]
    ratio = (faster - least) / (slower - least).clamp(min=1e-8)
    return torch.where(averages["losses_seen"] <= 2, 0.0, (ratio - 1.0).clamp(-1.0, 1.0))


def lstm_step(
    x: Tensor, hidden: Tensor, cell: Tensor, weights: Tensor, biases: Tensor
) -> tuple[Tensor, Tensor]:
    """(hidden, cell) after the input x, all [..., units]; gates are in the published order."""
    gates = torch.cat([x, hidden], dim=-1) @ weights + biases
    write, candidate, forget, read = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget + 1.0) * cell + torch.sigmoid(write) * torch.tanh(candidate)
    return torch.sigmoid(read) * torch.tanh(cell), cell
