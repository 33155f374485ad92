"""What commands share: flags made from a dataclass of settings, and the choice of kernel and devices."""

import argparse
import dataclasses
import os
import typing
from typing import Any

from rich.console import Console

from celo._errors import CeloError
from celo._provenance import cores

INTERRUPTED = 130  # the shell's exit status for a command ended by SIGINT


def add_fields(parser: Any, config: type) -> None:
    """One option for each field of a dataclass; a tuple takes several values."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, many = hints[field.name], typing.get_origin(hints[field.name]) is tuple
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=typing.get_args(hint)[0] if many else hint,
            nargs="+" if many else None,
            default=None,
            metavar=field.name.split("_")[-1].upper(),
            help=f"{field.metadata['help']} (default: {_text(field.default)})".replace("%", "%%"),
        )


def given(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields that were given on the command line."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(config)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def _text(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def fastest_kernel(console: Console) -> str:
    """The native kernel on a CPU with a compiler, else XLA's; says which and why."""
    import jax

    from celo._kernels import native

    if jax.default_backend() != "cpu":
        return "xla"
    try:
        native.load()
    except CeloError as error:
        console.print(f"kernel:  xla ({error})", markup=False)
        return "xla"
    console.print("kernel:  native")
    return "native"


def one_device_per_core() -> None:
    """Makes JAX see one CPU device a core, unless JAX_NUM_CPU_DEVICES says otherwise.

    Particles on devices of their own run twice as fast as particles sharing one device's threads. It must
    be called before JAX computes anything.
    """
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cores())
