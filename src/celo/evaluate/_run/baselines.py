"""Baselines: hand-made optimizers to compare with, as they come in optax; and SOAP of `celo.transforms`.

Shampoo is missing: optax has none, and the package optax-shampoo has not changed since 2022. So is PSGD Kron:
neither distributed-kron 2.0.0 nor psgd-jax 0.2.9 can be imported beside JAX 0.10.2 and optax 0.2.8.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import optax
from optax import contrib

from celo import transforms
from celo._types import OptState, Params

MakeBaseline = Callable[[Any, int], optax.GradientTransformation]
WARMUP = 0.05  # share of the steps

# learning_rate -> transformation, all else as the function has it unless it is written here.
_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
    "adamw": optax.adamw,
    "nadamw": optax.nadamw,
    "rmsprop": optax.rmsprop,
    "adagrad": optax.adagrad,
    "adabelief": optax.adabelief,
    "adafactor": optax.adafactor,
    "ademamix": contrib.ademamix,
    "fromage": optax.fromage,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lion": optax.lion,
    "muon": contrib.muon,
    "muon_moonlight": partial(contrib.muon, consistent_rms=0.2),  # arXiv 2502.16982
    "prodigy": contrib.prodigy,
    "radam": optax.radam,
    "schedule_free_adamw": contrib.schedule_free_adamw,
    "sm3": optax.sm3,
    "soap": transforms.soap,
    "yogi": optax.yogi,
}
_FACES = (optax, contrib, transforms)  # where users find these functions
_SUFFIX = "_cosine"
_OWN_WARMUP = ("schedule_free_adamw",)  # told in steps, in the place of a schedule


def _plain(name: str) -> MakeBaseline:
    """The optimizer with a constant rate, except for a warm-up of its own."""
    make = _OPTIMIZERS[name]
    if name in _OWN_WARMUP:
        return lambda rate, num_steps: make(rate, warmup_steps=round(WARMUP * num_steps))
    return lambda rate, _: make(rate)


def _cosine(make: MakeBaseline) -> MakeBaseline:
    """The same under a linear warm-up and a cosine to zero: its update, times a factor for each step."""

    def scheduled(rate: Any, num_steps: int) -> optax.GradientTransformation:
        warmup = max(1, round(WARMUP * num_steps))
        factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(warmup + 1, num_steps))
        return optax.chain(make(rate, num_steps), optax.scale_by_schedule(factor))

    return scheduled


# (learning_rate, num_steps) -> transformation. The rate may be traced: all rates are one program.
BASELINES: dict[str, MakeBaseline] = {
    **{name: _plain(name) for name in _OPTIMIZERS},
    **{f"{name}{_SUFFIX}": _cosine(_plain(name)) for name in _OPTIMIZERS if name not in _OWN_WARMUP},
}
"""Hand-made optimizers by name: (learning_rate, num_steps) -> an optax transformation."""


def definition(name: str) -> dict[str, Any]:
    """What a baseline is, for the record: the function, all its settings, the schedule."""
    make = _OPTIMIZERS[name.removesuffix(_SUFFIX)]
    given = make.keywords if isinstance(make, partial) else {}
    function = make.func if isinstance(make, partial) else make
    defaults = {key: one.default for key, one in inspect.signature(function).parameters.items()}
    settings = {**defaults, **given}
    del settings["learning_rate"]
    if name in _OWN_WARMUP:
        settings["warmup_steps"] = f"{WARMUP:.0%} of the steps"
    text = ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in settings.items())
    cosine = f"linear warm-up over {WARMUP:.0%} of the steps, then a cosine to 0"
    schedule = cosine if name.endswith(_SUFFIX) else "constant"
    [package] = [face for face in _FACES if getattr(face, function.__name__, None) is function]
    return {"optimizer": f"{package.__name__}.{function.__name__}", "settings": text, "schedule": schedule}


# Optimizers whose answer is not the point at which they take gradients: (state, params) -> params.
ANSWERS: dict[str, Callable[[OptState, Params], Params]] = {
    "schedule_free_adamw": contrib.schedule_free_eval_params,
}
