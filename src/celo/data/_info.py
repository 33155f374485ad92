"""What the library knows of a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from celo.data._formats import Arrays
from celo.data._providers import Provider
from celo.data._splits import every_line


@dataclass(frozen=True)
class DatasetInfo:
    """A registered data set.

    `shape` is that of one example, (H, W, C), or (bytes,) of a whole text; `examples` counts images or
    lines. `verify` raises ValueError if arrays are not what was published. `lines` gives those lines of a
    text that are read, without what ends them.
    """

    name: str
    kind: Literal["images", "text"]
    title: str
    num_classes: int
    shape: tuple[int, ...]
    train_examples: int
    valid_examples: int
    test_examples: int
    licence: str
    source: str
    verify: Callable[[Arrays], None]
    providers: tuple[Provider, ...]
    lines: Callable[[str], list[str]] = every_line

    @property
    def examples(self) -> int:
        """All examples of the three splits."""
        return self.train_examples + self.valid_examples + self.test_examples

    @property
    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the uint8 arrays in its cache file; validation is still part of train."""
        if self.kind == "text":
            return {"text": self.shape}
        train = self.train_examples + self.valid_examples
        return {
            "train_x": (train, *self.shape),
            "train_y": (train,),
            "test_x": (self.test_examples, *self.shape),
            "test_y": (self.test_examples,),
        }
