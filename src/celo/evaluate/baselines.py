"""Hand-made optimizers to compare with, as they come in optax, and the learning rates they are tuned over."""

from collections.abc import Callable
from typing import Any

import optax

MakeBaseline = Callable[[Any, int], optax.GradientTransformation]

# (learning_rate, num_steps) -> transformation. The rate may be traced, so that a grid runs as one program.
BASELINES: dict[str, MakeBaseline] = {
    "sgd": lambda rate, _: optax.sgd(rate),
    "momentum": lambda rate, _: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate, _: optax.adam(rate),
    # Celo knows the horizon; this one does too.
    "adam_cosine": lambda rate, num_steps: optax.adam(optax.cosine_decay_schedule(rate, num_steps)),
    "adamw": lambda rate, _: optax.adamw(rate),
    "nadamw": lambda rate, _: optax.nadamw(rate),
    "rmsprop": lambda rate, _: optax.rmsprop(rate),
    "adagrad": lambda rate, _: optax.adagrad(rate),
    "adabelief": lambda rate, _: optax.adabelief(rate),
    "adafactor": lambda rate, _: optax.adafactor(rate),
    "fromage": lambda rate, _: optax.fromage(rate),
    "lamb": lambda rate, _: optax.lamb(rate),
    "lars": lambda rate, _: optax.lars(rate),
    "lion": lambda rate, _: optax.lion(rate),
    "muon": lambda rate, _: optax.contrib.muon(rate),
    "radam": lambda rate, _: optax.radam(rate),
    "sm3": lambda rate, _: optax.sm3(rate),
    "yogi": lambda rate, _: optax.yogi(rate),
}

# The rates people use without tuning (the defaults of PyTorch and Keras).
DEFAULT_RATES: dict[str, float] = {"adam": 1e-3, "adam_cosine": 1e-3, "adamw": 1e-3}

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # half decades: the grid of a race
PAPER_LEARNING_RATES = (  # the 15 that Celo's paper tunes Adam over
    *(float(f"{digit}e{exponent}") for exponent in range(-7, 0) for digit in (1, 3)),
    1.0,
)
