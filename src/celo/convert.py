"""Published weights (official theta.state, flax msgpack; PyLO's safetensors) to our files and back.

A table (`LAYOUTS`) places every number of an official file; both directions follow it. The numbers that the
published code never uses are kept beside θ, so that the way back restores the official file byte for byte.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from celo import weights
from celo._errors import CeloError, unknown_name
from celo._files import read_file, write_file
from celo._published import adafac_mlp, nn_adam, pylo, rnn_mlp, velo
from celo._published import celo as celo_layouts
from celo._published import celo2 as celo2_layouts
from celo._published.layout import (
    OFFICIAL,
    Layout,
    Piece,
    Shapes,
    beside_weights,
    decode,
    encode,
)

STATE_SUFFIX = ".state"
"""How the name of a published weights file ends."""

__all__ = ["LAYOUTS", "STATE_SUFFIX", "convert", "read_official", "to_official"]

LAYOUTS: tuple[Layout, ...] = (
    celo_layouts.CELO,
    celo_layouts.CELO_ADAM,
    celo2_layouts.CELO2_LAYOUT,
    celo2_layouts.CELO2_BASE_LAYOUT,
    adafac_mlp.ADAFAC_MLP,
    adafac_mlp.MULO,
    nn_adam.NN_ADAM,
    rnn_mlp.RNN_MLP,
    velo.VELO_S,
    velo.VELO_4000,
    velo.VELO,
)
"""Where every number of a published file goes: one layout for each architecture, in each published size."""
_File = str | os.PathLike[str]


def read_official(
    path: _File, architecture: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Read an official theta.state of an architecture in `LAYOUTS`.

    Args:
      path: the file.
      architecture: as in `convert`.

    Returns:
      θ (nested dict of float32 arrays), the unused arrays by name, and the architecture.

    Raises:
      CeloError: the file is missing, damaged, or holds other names, shapes, dtypes or non-finite numbers.
    """
    data = read_file(path, weights.MAX_BYTES)
    theta, unused, layout = _decode([data], os.fspath(path), LAYOUTS, architecture)
    return theta, unused, layout.architecture


def to_official(
    theta: Mapping[str, Any], unused: Mapping[str, np.ndarray], path: str | os.PathLike[str]
) -> str:
    """Write θ in the official form and return the SHA-256 of the file.

    Args:
      theta: θ of an architecture in `LAYOUTS`, which is told by its names.
      unused: as `read_official` returned it, or empty: the official file then has zeros there.
      path: where to write.

    Raises:
      CeloError: θ or `unused` do not fit, or the file cannot be written.
    """
    layout = _layout_of(theta, LAYOUTS)
    return write_file(path, encode(_published(theta, unused, layout, "θ")))


def convert(
    source: _File | Sequence[_File],
    destination: _File,
    *,
    architecture: str | None = None,
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
) -> str:
    """Convert official weights to ours (destination *.safetensors) or back (destination *.state).

    PyLO's weights are safetensors files, too: a source that is one becomes ours, and ours becomes one of
    theirs if the destination ends in .safetensors.

    Args:
      source: an official theta.state, a checkpoint that holds one, or PyLO's file, of VeLO both of PyLO's
        files; on the way back, whatever `celo.weights.load` takes.
      destination: the file to write; replaced if it exists.
      architecture: of the official weights. None: told by their names and shapes, of those that look alike
        ("velo_4000" and "velo", "celo2" and "celo2_base") the first.
      shapes: architecture -> flat name -> shape, for optimizers without an official form: a .state file of
        theirs has the arrays under their own names.

    Returns:
      One line that says what was written.

    Raises:
      CeloError: another suffix, a source that is the destination, or what the readers and writers raise.
    """
    layouts = (*(_plain_layout(name, own) for name, own in (shapes or {}).items()), *LAYOUTS)
    target = Path(destination)
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    for each in sources:
        if os.path.exists(target) and os.path.exists(each) and os.path.samefile(each, target):
            raise CeloError(f"{target}: source and destination are the same file; name another destination")
    names, [source, *more] = " and ".join(str(each) for each in sources), sources
    notes = []
    if target.suffix == weights.SUFFIX and not (_is_ours(source) and not more):
        data = [read_file(each, weights.MAX_BYTES) for each in sources]
        theta, unused, layout = _decode(data, names, layouts, architecture)
        digests = " ".join(hashlib.sha256(each).hexdigest() for each in data)
        metadata = {"architecture": layout.architecture, "official_sha256": digests}
        digest = weights.save(target, theta, metadata=metadata, extra=unused)
        notes = _left_out(data, layout, architecture is None, layouts)
    elif more:
        raise CeloError(f"{names}: several files make one, {weights.SUFFIX}, of PyLO's VeLO alone; name one")
    elif target.suffix in (weights.SUFFIX, STATE_SUFFIX):
        of_pylo = target.suffix == weights.SUFFIX
        loaded = weights.load(source)
        theta, architecture = loaded.theta, loaded.metadata["architecture"]
        known = [each for each in pylo.LAYOUTS if not each.ignored] if of_pylo else layouts
        own = [layout for layout in known if layout.architecture == architecture]
        if not own:
            form = "a PyTorch form" if of_pylo else "an official form"
            raise CeloError(f"{source}: only {_names(known, 'and')} have {form}, not {architecture!r}")
        layout = _layout_of(theta, own)
        unused = {name: array for name, array in loaded.extra.items() if name.startswith(OFFICIAL)}
        tree = _published(theta, unused, layout, os.fspath(source))
        digest = write_file(target, pylo.encode(tree) if of_pylo else encode(tree))
    else:
        raise CeloError(
            f"{target}: the destination must end in {weights.SUFFIX} (official weights to celo's) "
            f"or {STATE_SUFFIX} (celo's to official)"
        )
    count = sum(array.size for array in weights.flatten(theta).values())
    said = ". ".join(filter(None, (layout.note, *notes)))
    return f"{target}: {layout.architecture}, {count:,} weights, sha256 {digest}{said and f'. {said}'}"


def _left_out(data: list[bytes], layout: Layout, guessed: bool, layouts: Sequence[Layout]) -> list[str]:
    """What is to be said of official weights that were read: what they lost, and what they may be instead."""
    of_pylo = pylo.metadata(data[0]) is not None
    beside = () if of_pylo else beside_weights(data[0])
    alike = [
        other.architecture
        for other in (pylo.LAYOUTS if of_pylo else layouts)
        if guessed and other is not layout and other.published_shapes == layout.published_shapes
    ]
    notes = [f"{' and '.join(beside)} of the checkpoint were left out"] if beside else []
    return notes + [f"Files of {name} look the same: name the architecture if it is one" for name in alike]


def _is_ours(source: str | os.PathLike[str]) -> bool:
    """Whether it is a file in our own form."""
    metadata = pylo.metadata(read_file(source, weights.MAX_BYTES))
    return metadata is not None and metadata.get("format") == weights.FORMAT


def _plain_layout(architecture: str, shapes: Shapes) -> Layout:
    """Every array under its own name, by flat name -> shape."""
    pieces = (Piece(tuple(name.split("/")), shape, ..., name) for name, shape in shapes.items())
    return Layout(architecture, tuple(pieces))


def _decode(
    data: list[bytes], source: str, layouts: Sequence[Layout], architecture: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray], Layout]:
    of_pylo = all(pylo.metadata(each) is not None for each in data)
    layouts = pylo.LAYOUTS if of_pylo else layouts
    if architecture is not None:
        known = layouts
        layouts = [layout for layout in layouts if layout.architecture == architecture]
        if not layouts:
            raise unknown_name("architecture", architecture, [layout.architecture for layout in known])
    depth = max(layout.depth for layout in layouts)
    try:
        official = {}
        for each in data:
            official |= pylo.decode(each) if of_pylo else decode(each, depth)
        layout = max(layouts, key=lambda layout: _likeness(official, layout.published_shapes))
        official = {name: array for name, array in official.items() if name not in layout.ignored}
        if problem := weights.misfit(official, layout.published_shapes):
            raise CeloError(f"taken for {layout.architecture}, but {problem}")
    except CeloError as error:
        what = "a PyTorch file" if of_pylo else "an official theta.state"
        raise CeloError(
            f"{source}: not {what} of {_names(layouts, 'or')}, or a damaged one ({error}); "
            "check the path or fetch the file again"
        ) from error
    own = layout.to_own(official)
    theta = weights.unflatten({name: own[name] for name in layout.theta_shapes})
    return theta, {name: own[name] for name in layout.unused_shapes}, layout


def _layout_of(theta: Mapping[str, Any], layouts: Sequence[Layout]) -> Layout:
    """The one that θ is the most like."""
    live = weights.flatten(theta)
    return max(layouts, key=lambda layout: _likeness(live, layout.theta_shapes))


def _published(
    theta: Mapping[str, Any], unused: Mapping[str, np.ndarray], layout: Layout, source: str
) -> dict[str, Any]:
    """The published arrays in their nested dicts."""
    live = weights.flatten(theta)
    architecture, shapes, dead = layout.architecture, layout.theta_shapes, layout.unused_shapes
    if (more := sorted(live.keys() - shapes.keys())) and not weights.misfit(
        {name: live[name] for name in shapes.keys() & live.keys()}, shapes
    ):
        raise CeloError(
            f"{source} has weights that the official form of {architecture} has no place for: "
            f"{', '.join(more)}. Its optimizer is another without them; keep the {weights.SUFFIX} file"
        )
    if problem := weights.misfit(live, shapes):
        raise CeloError(f"{source} is not a θ of {architecture}: {problem}. Use weights of its own layout")
    if unused and (problem := weights.misfit(unused, dead)):
        raise CeloError(f"unused arrays of {source} do not fit: {problem}. Keep all of them or none")
    kept = dict(unused) or {name: np.zeros(shape, np.float32) for name, shape in dead.items()}
    return layout.to_published(live | kept)


def _likeness(arrays: Mapping[str, np.ndarray], shapes: Shapes) -> tuple[int, int, int]:
    """How well these arrays fit a layout: names in common, then fewest missing, then shapes in common."""
    common = arrays.keys() & shapes.keys()
    alike = sum(arrays[name].shape == shapes[name] for name in common)
    return len(common), -len(shapes.keys() - common), alike


def _names(layouts: Sequence[Layout], conjunction: str) -> str:
    names = list(dict.fromkeys(layout.architecture for layout in layouts))
    return f" {conjunction} ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
