"""Tasks: what optimizers are meta-trained and evaluated on.

Here are the contract (`Task`, `TaskFamily`), the registry `TASKS` of all families, and the parts of which to
make your own: a source of batches, a Flax module, a loss. Raw data sets belong in `celo.data`, the suites
that say how tasks are run in `celo.evaluate`. Flax is imported only when a task that needs it is made.
"""

from celo.tasks._augment import Augmented, Reparametrisation
from celo.tasks._base import SPLITS, Task, TaskFamily, value_and_grad
from celo.tasks._losses import (
    ModelLoss,
    colour_error,
    cross_entropy,
    guessing_cap,
    negative_elbo,
    next_character,
    next_token,
    noise_error,
    reconstruction_error,
    squared_error,
)
from celo.tasks._models.patches import convolve, split_patches
from celo.tasks._models.perceptrons import ImageMLP, ImageMLPs
from celo.tasks._models.quadratic import Quadratic, Quadratics
from celo.tasks._module import NOISE, ModuleFamily, ModuleTask, classification, language
from celo.tasks._registry import TASKS, make_task, task_at
from celo.tasks._sources import CELO_DATASETS, Examples, Source, Windows, image_examples, text_windows

__all__ = [
    "CELO_DATASETS",
    "NOISE",
    "SPLITS",
    "TASKS",
    "Augmented",
    "Examples",
    "ImageMLP",
    "ImageMLPs",
    "ModelLoss",
    "ModuleFamily",
    "ModuleTask",
    "Quadratic",
    "Quadratics",
    "Reparametrisation",
    "Source",
    "Task",
    "TaskFamily",
    "Windows",
    "classification",
    "colour_error",
    "convolve",
    "cross_entropy",
    "guessing_cap",
    "image_examples",
    "language",
    "make_task",
    "negative_elbo",
    "next_character",
    "next_token",
    "noise_error",
    "reconstruction_error",
    "split_patches",
    "squared_error",
    "task_at",
    "text_windows",
    "value_and_grad",
]
