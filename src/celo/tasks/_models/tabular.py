"""Small tables: perceptrons with dropout, without which a few hundred rows would soon be learned by heart."""

import math

import numpy as np

from celo.data import load_table
from celo.tasks._base import SPLITS
from celo.tasks._models.perceptrons import Perceptron
from celo.tasks._module import ModuleFamily
from celo.tasks._objectives import cross_entropy, squared_error
from celo.tasks._sources import Examples


def perceptron(
    dataset: str, *, hidden: tuple[int, ...] = (64, 64), dropout: float = 0.5, batch_size: int = 64
) -> ModuleFamily:
    """Classification or regression, as the table has it; standardised by its training rows.

    The loss is capped at four times that of guessing, which is 1 in a regression.

    Raises:
      CeloError: if the table is unknown or cannot be had.
    """
    table = load_table(dataset)
    x, y = table.train
    splits = {split: getattr(table, split) for split in SPLITS}
    if not table.num_classes:
        splits = {
            split: part._replace(y=((part.y - y.mean(0)) / y.std(0)).astype(np.float32))
            for split, part in splits.items()
        }
    source = Examples(splits, table.num_classes, batch_size, x.mean(0), 1 / x.std(0))
    module = Perceptron(hidden, table.num_classes or y.shape[1], dropout=dropout)
    if table.num_classes:
        return ModuleFamily(dataset, source, module, cross_entropy, 4 * math.log(table.num_classes))
    return ModuleFamily(dataset, source, module, squared_error, loss_cap=4.0)
