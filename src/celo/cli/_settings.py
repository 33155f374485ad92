"""What commands share: options made from a dataclass of settings, modules of the user's own, and devices."""

import argparse
import dataclasses
import logging
import os
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celo._errors import CeloError
from celo._import_path import import_modules
from celo._provenance import cores

INTERRUPTED = 130  # the shell's exit status for a command ended by SIGINT


def add_fields(parser: Any, config: type, aliases: Mapping[str, str] | None = None) -> None:
    """One option for each field of a dataclass; a tuple takes several values.

    Args:
      parser: an argument parser or group.
      config: the dataclass, each field with its help in the metadata.
      aliases: field -> another spelling of its option.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, many = hints[field.name], typing.get_origin(hints[field.name]) is tuple
        names = [option(field.name), *([aliases[field.name]] if aliases and field.name in aliases else [])]
        help_text = f"{field.metadata['help']}{_default(field.default)}".replace("%", "%%")
        if hint is bool:
            switch = argparse.BooleanOptionalAction
            parser.add_argument(*names, dest=field.name, action=switch, default=None, help=help_text)
            continue
        parser.add_argument(
            *names,
            dest=field.name,
            type=typing.get_args(hint)[0] if many else hint,
            nargs="+" if many else None,
            default=None,
            metavar="N" if hint in (int, float) else field.name.split("_")[-1].upper(),
            help=help_text,
        )


def given(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields that were given on the command line."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(config)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def _default(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f" (default: {text})" if text else ""


def option(name: str) -> str:
    """rule_steps -> --rule-steps."""
    return f"--{name.replace('_', '-')}"


@contextmanager
def speaking_of_options(*names: str) -> Iterator[None]:
    """Has the library's errors, which speak of arguments, speak of the options that these names are."""
    try:
        yield
    except CeloError as error:
        raise CeloError(as_options(str(error), *names)) from error


def as_options(text: str, *names: str) -> str:
    """The text with each of these names as the option it is: rule_steps -> --rule-steps."""
    return re.sub(rf"\b({'|'.join(map(re.escape, names))})\b", lambda match: option(match[0]), text)


def add_import(parser: Any) -> None:
    """The option by which a command learns of optimizers and tasks of one's own."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module first, which registers optimizers or tasks of your own; may be repeated",
    )


def import_own(modules: Sequence[str]) -> None:
    """Imports modules given by `--import`; from here on the current folder is on the Python path.

    Raises:
      CeloError: if there is no such module.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise CeloError(f"the current folder is gone ({error.strerror}); change to another") from error
    if here not in sys.path:
        sys.path.insert(0, here)
    import_modules(modules)


def one_device_per_core() -> None:
    """Makes JAX see one CPU device for each core, unless JAX_NUM_CPU_DEVICES says otherwise.

    Particles on devices of their own run twice as fast as particles that share the threads of one. Where JAX
    has computed already, as in a notebook, its devices stay as they are.
    """
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ and jax.config.jax_num_cpu_devices != cores():  # pyright: ignore
        try:
            jax.config.update("jax_num_cpu_devices", cores())
        except RuntimeError:
            logging.getLogger("celo").info(
                "JAX has computed already, so this runs on its %d device(s); to use all cores, set "
                "JAX_NUM_CPU_DEVICES=%d before",
                jax.device_count(),
                cores(),
            )
