"""Hand-made optimizers to compare with, as they come in optax, and the learning rates they are tuned over.

Not to be had in optax: Shampoo and SOAP.
"""

from collections.abc import Callable
from typing import Any

import optax
from optax import contrib

from celo.types import OptState, Params

MakeBaseline = Callable[[Any, int], optax.GradientTransformation]
WARMUP = 0.05  # share of the steps

# (learning_rate, num_steps) -> transformation. The rate may be traced, so that a grid runs as one program.
_CONSTANT: dict[str, MakeBaseline] = {
    "sgd": lambda rate, _: optax.sgd(rate),
    "momentum": lambda rate, _: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate, _: optax.adam(rate),
    "adamw": lambda rate, _: optax.adamw(rate),
    "nadamw": lambda rate, _: optax.nadamw(rate),
    "rmsprop": lambda rate, _: optax.rmsprop(rate),
    "adagrad": lambda rate, _: optax.adagrad(rate),
    "adabelief": lambda rate, _: optax.adabelief(rate),
    "adafactor": lambda rate, _: optax.adafactor(rate),
    "ademamix": lambda rate, _: contrib.ademamix(rate),
    "fromage": lambda rate, _: optax.fromage(rate),
    "lamb": lambda rate, _: optax.lamb(rate),
    "lars": lambda rate, _: optax.lars(rate),
    "lion": lambda rate, _: optax.lion(rate),
    "muon": lambda rate, _: contrib.muon(rate),
    "prodigy": lambda rate, _: contrib.prodigy(rate),
    "radam": lambda rate, _: optax.radam(rate),
    "schedule_free_adamw": lambda rate, num_steps: contrib.schedule_free_adamw(
        rate, warmup_steps=round(WARMUP * num_steps)
    ),
    "sm3": lambda rate, _: optax.sm3(rate),
    "yogi": lambda rate, _: optax.yogi(rate),
}
_NO_SCHEDULE = ("schedule_free_adamw",)  # it is what the name says


def _cosine(make: MakeBaseline) -> MakeBaseline:
    """The same under a linear warm-up and a cosine to zero: its update, times a factor for each step."""

    def scheduled(rate: Any, num_steps: int) -> optax.GradientTransformation:
        warmup = max(1, round(WARMUP * num_steps))
        factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(warmup + 1, num_steps))
        return optax.chain(make(rate, num_steps), optax.scale_by_schedule(factor))

    return scheduled


BASELINES: dict[str, MakeBaseline] = {
    **_CONSTANT,
    **{f"{name}_cosine": _cosine(make) for name, make in _CONSTANT.items() if name not in _NO_SCHEDULE},
}

# Optimizers whose answer is not the point at which they take gradients: (state, params) -> params.
ANSWERS: dict[str, Callable[[OptState, Params], Params]] = {
    "schedule_free_adamw": contrib.schedule_free_eval_params,
}

# The rates people use without tuning (the defaults of PyTorch and Keras).
DEFAULT_RATES: dict[str, float] = {"adam": 1e-3, "adam_cosine": 1e-3, "adamw": 1e-3}

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # half decades: the grid of a race
PAPER_LEARNING_RATES = (  # the 15 that Celo's paper tunes Adam over
    *(float(f"{digit}e{exponent}") for exponent in range(-7, 0) for digit in (1, 3)),
    1.0,
)
