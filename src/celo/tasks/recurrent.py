"""Recurrent language models of characters."""

from typing import Literal

import flax.linen as nn

from celo.tasks.module import ModuleFamily, classification
from celo.tasks.objectives import next_character
from celo.tasks.sources import text_windows
from celo.types import Array

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


class CharacterRNN(nn.Module):
    """One recurrent layer between an embedding and a softmax."""

    characters: int
    cell: Literal["lstm", "gru"]
    width: int
    embedding: int

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        """Logits of the next character: int32 [batch, length] -> [batch, length, characters]."""
        del train
        x = nn.Embed(self.characters, self.embedding)(tokens)
        x = nn.RNN(CELLS[self.cell](self.width))(x)
        return nn.Dense(self.characters)(x)


def language_model(
    dataset: str = "kjv",
    *,
    cell: Literal["lstm", "gru"],
    length: int = 32,
    width: int = 64,
    embedding: int = 64,
    batch_size: int = 16,
) -> ModuleFamily:
    """Next characters by `CharacterRNN`."""
    source = text_windows(dataset, length=length, batch_size=batch_size)
    module = CharacterRNN(source.classes, cell, width, embedding)
    return classification(dataset, source, module, next_character)
