"""Made-up data in the shapes of the sets that would have to be downloaded, which are listed here."""

import numpy as np

from celo.data import Images, Split, Table, Text, Tokens, load_table

SHAPES = {
    **{"digits": (8, 1), "mnist": (28, 1), "fashion_mnist": (28, 1), "mnist_on_cifar10": (28, 1)},
    **{"cifar10": (32, 3), "cifar100": (32, 3), "svhn": (32, 3)},
}
CLASSES = {"cifar100": 100}  # of others 10
TABLES = {"letters": (16, 26), "satellite": (36, 6)}  # features, classes
CHARACTERS = {"kjv": 63, "austen": 81, "moby_dick": 83, "state_of_the_union": 87}


def images(name, *, size=None, grey=False):
    """Ten pictures, each copied with noise: a class can be told, and none of two splits are the same."""
    side, channels = SHAPES[name]
    side, channels = size or side, 1 if grey else channels
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (10, side, side, channels))

    def split(count):
        y = np.arange(count, dtype=np.int32) % 10
        return Split((pictures[y] + rng.integers(0, 55, (count, *pictures.shape[1:]))).astype(np.uint8), y)

    return Images(split(200), split(50), split(50), CLASSES.get(name, 10))


def table(name):
    """A row a class, each copied with noise; the tables inside scikit-learn as they are."""
    if name not in TABLES:
        return load_table(name)
    features, classes = TABLES[name]
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 12, (classes, features))

    def split(count):
        y = np.arange(count, dtype=np.int32) % classes
        return Split((rows[y] + rng.integers(0, 4, (count, features))).astype(np.float32), y)

    return Table(split(20 * classes), split(5 * classes), split(5 * classes), classes)


def text(name):
    """Every third character is followed by its successor."""
    return Text(*_triples(), "".join(map(chr, range(64, 64 + CHARACTERS[name]))))


def tokens(name):
    """The same in word pieces, of as many as published."""
    del name
    return Tokens(*_triples(), 32_100)


def _triples():
    rng = np.random.default_rng(0)

    def part(count):
        first = rng.integers(0, 61, count)
        return np.stack([first, first + 1, first + 2], axis=1).reshape(-1).astype(np.uint8)

    return part(2000), part(500), part(500)


def install(patch):
    """Make every task read these; `patch` is a MonkeyPatch."""
    patch.setattr("celo.tasks._sources.load_images", images)
    patch.setattr("celo.tasks._models.perceptrons.load_table", table)
    patch.setattr("celo.tasks._sources.load_text", text)
    patch.setattr("celo.tasks._sources.load_tokens", tokens)
