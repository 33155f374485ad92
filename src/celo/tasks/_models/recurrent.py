"""Recurrent language models: LSTM and GRU."""

from typing import Literal

import flax.linen as nn

from celo._types import Array
from celo.tasks._module import ModuleFamily, language
from celo.tasks._sources import text_windows

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


class LanguageRNN(nn.Module):
    """One recurrent layer between an embedding and a softmax."""

    vocabulary: int
    cell: Literal["lstm", "gru"]
    width: int
    embedding: int

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        """Logits of the next token: int32 [batch, length] -> [batch, length, vocabulary]."""
        del train
        x = nn.Embed(self.vocabulary, self.embedding)(tokens)
        x = nn.RNN(CELLS[self.cell](self.width))(x)
        return nn.Dense(self.vocabulary)(x)


def language_model(
    dataset: str = "kjv",
    *,
    cell: Literal["lstm", "gru"],
    length: int = 32,
    width: int = 64,
    embedding: int = 64,
    batch_size: int = 16,
) -> ModuleFamily:
    """Next-token prediction by `LanguageRNN`."""
    source = text_windows(dataset, length=length, batch_size=batch_size)
    module = LanguageRNN(source.classes, cell, width, embedding)
    return language(dataset, source, module)
