"""Tasks named by where they are, "package.module:attribute": a user's own, and those that need Flax."""

from celo._errors import CeloError
from celo._import_path import attribute_at
from celo.tasks._base import TaskFamily


def task_at(place: str, *args, **settings) -> TaskFamily:
    """The task family at `place`, imported only now: a TaskFamily, or what makes one of the arguments.

    Raises:
      CeloError: if the place is not written so, there is no such module or attribute, or it is no task.
    """
    found = attribute_at(place, "task")
    if not isinstance(found, TaskFamily) and callable(found):
        found = found(*args, **settings)
    if not isinstance(found, TaskFamily):
        raise CeloError(f"task {place!r} is a {type(found).__name__}: name a TaskFamily or what makes one")
    return found
