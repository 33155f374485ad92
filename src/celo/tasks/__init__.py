"""Tasks, one family a file, and their registry: a new task is one file and one line here."""

from collections.abc import Callable
from functools import partial

from celo.errors import unknown_name
from celo.tasks.augment import Augmented, Reparametrisation
from celo.tasks.base import Task, TaskFamily
from celo.tasks.quadratic import Quadratics
from celo.tasks.vision import CELO_DATASETS, ImageMLPs

TASKS: dict[str, Callable[..., TaskFamily]] = {
    "celo_image_mlps": ImageMLPs,  # the meta-training set: all four image sets at 8x8, 64-32-10
    **{f"{name}_8x8_mlp32": partial(ImageMLPs, (name,)) for name in (*CELO_DATASETS, "svhn")},
    "digits_mlp128x128": partial(ImageMLPs, ("digits",), hidden=(128, 128)),
    "fashion_mnist_mlp128x128": partial(
        ImageMLPs, ("fashion_mnist",), size=28, hidden=(128, 128), batch_size=128
    ),
    "quadratic": Quadratics,
}


def make_task(name: str, **settings) -> TaskFamily:
    """The task family registered under `name`; settings are those of its constructor.

    Raises:
      CeloError: if there is no such task, or its data cannot be had.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name](**settings)


__all__ = [
    "CELO_DATASETS",
    "TASKS",
    "Augmented",
    "ImageMLPs",
    "Quadratics",
    "Reparametrisation",
    "Task",
    "TaskFamily",
    "make_task",
]
