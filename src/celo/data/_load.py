"""Load data sets: from the cache, or from the first provider that has the published data.

Fetching may take minutes. What is being done goes to the logger "celo" at level INFO, which the command line
shows.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from celo._errors import CeloError, unknown_name
from celo.data._bundled import TABLES, bundled_table
from celo.data._cache import DamagedCacheError, data_dir, raw_dir, read_arrays, write_arrays
from celo.data._formats import Arrays
from celo.data._pixels import resize_images
from celo.data._providers import DebianPackage
from celo.data._registry import DATASETS, DatasetInfo
from celo.data._splits import Images, Split, Table, Text, split_lines, split_off

_LOG = logging.getLogger("celo")


def load_images(name: str, *, size: int | None = None, grey: bool = False) -> Images:
    """Load an image data set; fetch it first if it is not cached, which may take minutes.

    Test is the official test set; valid is the end of the official train set under a fixed permutation,
    train the rest of it. A resized or grey version is computed once and cached as well.

    Args:
      name: a key of `DATASETS` of the kind "images".
      size: height and width in pixels, averaged over areas; None keeps the native size.
      grey: turn colour into one channel of ITU-R BT.601 luma.

    Returns:
      Splits of x uint8 [N, H, W, C] and y int32 [N].

    Raises:
      CeloError: the name is unknown or no image set, the size no positive integer, or no provider has it.
    """
    info = _info(name, "images")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise CeloError(f"size {size!r} of {name!r}: give a positive number of pixels, or None")
    height, _, channels = info.shape
    to_grey = grey and channels > 1
    as_published = size in (None, height) and not to_grey
    arrays = _raw(info) if as_published else _resized(info, size or height, to_grey)
    train, valid = split_off(arrays["train_x"], arrays["train_y"], info.valid_examples)
    test = Split(arrays["test_x"], arrays["test_y"].astype(np.int32))
    return Images(train, valid, test, info.num_classes)


def load_table(name: str) -> Table:
    """Load a table in its published units; fetch it first if it is in no package of Python and not cached.

    The splits of `TABLES` have eight, one and one tenth of the rows. Of the others, test is the published
    test part, valid the last tenth of the published training part under a fixed permutation.

    Args:
      name: a key of `TABLES`, or of `DATASETS` of the kind "table".

    Raises:
      CeloError: the name is unknown, scikit-learn is missing, or no provider has the table.
    """
    known = [*TABLES, *(key for key, info in DATASETS.items() if info.kind == "table")]
    if name not in known:
        raise unknown_name("table", name, known)
    if name in TABLES:
        return bundled_table(name)
    info = _info(name, "table")
    arrays = _raw(info)
    train_x, test_x = (arrays[key].astype(np.float32) for key in ("train_x", "test_x"))
    train, valid = split_off(train_x, arrays["train_y"], info.valid_examples)
    return Table(train, valid, Split(test_x, arrays["test_y"].astype(np.int32)), info.num_classes)


def load_text(name: str = "kjv") -> Text:
    """Load a text as character tokens; fetch it first if it is not cached.

    The first nine tenths of its lines are train, the next twentieth valid, the last twentieth test. The lines
    of "kjv" are its verses.

    Args:
      name: a key of `DATASETS` of the kind "text".

    Raises:
      CeloError: the name is unknown or no text, or no provider has it.
    """
    info = _info(name, "text")
    text = _raw(info)["text"].tobytes().decode()
    return split_lines(info.lines(text), info.train_examples, info.valid_examples)


def fetch(name: str, *, apt_update: bool = False) -> Path:
    """Make sure that a data set is cached, complete and verified.

    Args:
      name: a key of `DATASETS`.
      apt_update: whether `apt-get update` may be run, as root, where Debian's package lists are missing.

    Returns:
      The cache file, an .npz of the official train and test arrays.

    Raises:
      CeloError: the name is unknown, or no provider has the set; it says what was tried and what would help.
    """
    info = _info(name)
    _raw(info, apt_update)
    return _cache_file(info)


def is_cached(name: str) -> bool:
    """Whether a data set has a cache file; one that is damaged is replaced when it is loaded.

    Raises:
      CeloError: the name is unknown.
    """
    return _cache_file(_info(name)).is_file()


def _info(name: str, kind: str | None = None) -> DatasetInfo:
    known = [key for key, info in DATASETS.items() if kind in (None, info.kind)]
    if name not in known:
        raise unknown_name(f"{kind} data set" if kind else "data set", name, known)
    return DATASETS[name]


def _cache_file(info: DatasetInfo) -> Path:
    return data_dir() / f"{info.name}.npz"


def _cached(path: Path, shapes: Mapping[str, tuple[int, ...]], make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a cache file; computed and written if it is missing or damaged."""
    if path.is_file():
        try:
            return read_arrays(path, shapes)
        except DamagedCacheError as error:
            _LOG.info("%s; making it again", error)
    arrays = {key: np.ascontiguousarray(array) for key, array in make().items()}
    write_arrays(path, arrays)
    return arrays


def _raw(info: DatasetInfo, apt_update: bool = False) -> Arrays:
    return _cached(_cache_file(info), info.array_shapes, lambda: _provide(info, apt_update))


def _resized(info: DatasetInfo, size: int, grey: bool) -> Arrays:
    path = data_dir() / f"{info.name}-{size}x{size}{'-grey' if grey else ''}.npz"
    image = (size, size, 1 if grey else info.shape[2])
    shapes = {key: (s[0], *image) if key.endswith("_x") else s for key, s in info.array_shapes.items()}

    def make() -> Arrays:
        arrays = _raw(info)
        return {
            key: resize_images(array, size, grey=grey) if key.endswith("_x") else array
            for key, array in arrays.items()
        }

    return _cached(path, shapes, make)


def _provide(info: DatasetInfo, apt_update: bool) -> Arrays:
    """The arrays of the first provider whose data are the published ones."""
    folder = raw_dir(info.name)
    failures = []

    def load(part: str) -> Arrays:
        return _raw(_info(part), apt_update)

    for provider in info.providers:
        if isinstance(provider, DebianPackage):
            provider = replace(provider, apt_update=apt_update)
        try:
            arrays = provider.arrays(folder, _LOG.info, load)
            for key, shape in info.array_shapes.items():
                if arrays[key].shape != shape:
                    raise ValueError(f"{key} has the shape {arrays[key].shape}, published is {shape}")
            info.verify(arrays)
        except Exception as error:  # whatever is wrong with one provider, try the next
            failures.append(f"  {provider.title}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            return arrays
    remedies = [f"  {provider.remedy(folder)}" for provider in info.providers]
    head = f"cannot get the data set {info.name!r}; tried, in this order:"
    raise CeloError("\n".join([head, *failures, "any of these would help:", *remedies]))
