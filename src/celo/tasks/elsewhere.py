"""Tasks named by where they are, "package.module:attribute": a user's own, and those that need Flax."""

import importlib

from celo.errors import CeloError, unknown_name
from celo.tasks.base import TaskFamily


def task_at(place: str, *args, **settings) -> TaskFamily:
    """The task family at `place`, imported only now: a TaskFamily, or what makes one of the arguments.

    Raises:
      CeloError: if the place is not written so, there is no such module or attribute, or it is no task.
    """
    module_name, colon, attribute = place.partition(":")
    if not (module_name and colon and attribute):
        raise CeloError(f"task {place!r}: write a task of your own as package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "flax":
            raise CeloError(f"task {place!r} needs flax: pip install 'celo[suite]'") from error
        if f"{module_name}.".startswith(f"{missing}."):
            raise CeloError(f"task {place!r}: there is no module {missing!r} on the Python path") from error
        raise
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown_name(f"attribute of {module_name}", attribute, public)
    found = getattr(module, attribute)
    if not isinstance(found, TaskFamily) and callable(found):
        found = found(*args, **settings)
    if not isinstance(found, TaskFamily):
        raise CeloError(f"task {place!r} is a {type(found).__name__}: name a TaskFamily or what makes one")
    return found
