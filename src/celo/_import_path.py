"""What users name by where it is, "package.module:attribute": tasks and optimizers of their own."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celo._errors import CeloError, in_a_line, unknown_name


def import_modules(names: Sequence[str]) -> None:
    """Imports modules that register optimizers, tasks or estimators of one's own.

    Raises:
      CeloError: if there is no such module on the Python path, or it fails as it is imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise CeloError(f"module {name!r} needs {error.name!r}, which is not installed") from error
            raise CeloError(
                f"there is no module {name!r} on the Python path; run in its folder, or set PYTHONPATH"
            ) from error
        except Exception as error:
            raise CeloError(
                f"module {name!r} cannot be imported: {in_a_line(error, (top_level(name),))}"
            ) from error


def attribute_at(place: str, what: str) -> Any:
    """The attribute at `place`, its module imported only now.

    Args:
      place: "package.module:attribute".
      what: "task" or the like, for messages.

    Raises:
      CeloError: if the place is not written so, there is no such module or attribute, or the module fails as
        it is imported.
    """
    module_name, colon, attribute = place.partition(":")
    if not (module_name and colon and attribute):
        raise CeloError(f"{what} {place!r}: write one of your own as package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "flax":
            raise CeloError(f"{what} {place!r} needs flax: pip install 'celo[suite]'") from error
        if f"{module_name}.".startswith(f"{missing}."):
            raise CeloError(f"{what} {place!r}: there is no module {missing!r} on the Python path") from error
        raise CeloError(f"{what} {place!r} needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise CeloError(
            f"{what} {place!r}: its module cannot be imported: {in_a_line(error, (top_level(place),))}"
        ) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown_name(f"attribute of {module_name}", attribute, public)
    return getattr(module, attribute)


def top_level(place: str) -> str:
    """The package, or the module outside of any, that a place or a module's name begins with."""
    return place.partition(":")[0].partition(".")[0]


def definition(place: str) -> str:
    """In words, file and line of the function or class at `place`; nothing where that is not known."""
    module = sys.modules.get(place.partition(":")[0])
    found: Any = getattr(module, place.partition(":")[2], None)
    try:
        found = inspect.unwrap(found)
        return f"defined at {inspect.getsourcefile(found)}:{inspect.getsourcelines(found)[1]}"
    except (TypeError, OSError):
        return ""


def source_sha256(place: str) -> str | None:
    """Of the file of the module at `place`, so that a changed one is noticed; None where there is none.

    What else that module imports is not looked at.
    """
    try:
        spec = importlib.util.find_spec(place.partition(":")[0])
    except ImportError:  # of the package it is in
        return None
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else None
