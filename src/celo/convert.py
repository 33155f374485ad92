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
from celo._errors import CeloError
from celo._files import read_file, write_file
from celo._published import adafac_mlp, nn_adam, pylo, rnn_mlp
from celo._published import celo as celo_layouts
from celo._published.layout import OFFICIAL, Layout, Piece, Shapes, decode, encode

STATE_SUFFIX = ".state"

__all__ = ["LAYOUTS", "STATE_SUFFIX", "convert", "read_official", "to_official"]

# Of every published architecture, in each size that is published.
LAYOUTS: tuple[Layout, ...] = (
    celo_layouts.CELO,
    celo_layouts.CELO_ADAM,
    adafac_mlp.ADAFAC_MLP,
    adafac_mlp.MULO,
    nn_adam.NN_ADAM,
    rnn_mlp.RNN_MLP,
)


def read_official(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Read an official theta.state of an architecture in `LAYOUTS`.

    Returns:
      θ (nested dict of float32 arrays), the unused arrays by name, and the architecture.

    Raises:
      CeloError: the file is missing, damaged, or holds other names, shapes, dtypes or non-finite numbers.
    """
    theta, unused, layout = _decode(read_file(path, weights.MAX_BYTES), os.fspath(path), LAYOUTS)
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
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
) -> str:
    """Convert official weights to ours (destination *.safetensors) or back (destination *.state).

    PyLO's weights are safetensors files, too: a source that is one becomes ours, and ours becomes one of
    theirs if the destination ends in .safetensors.

    Args:
      source: an official theta.state or PyLO's file; on the way back, whatever `celo.weights.load` takes.
      destination: the file to write; replaced if it exists.
      shapes: architecture -> flat name -> shape, for optimizers without an official form: a .state file of
        theirs has the arrays under their own names.

    Returns:
      One line that says what was written.

    Raises:
      CeloError: another suffix, a source that is the destination, or what the readers and writers raise.
    """
    layouts = (*(_plain_layout(name, own) for name, own in (shapes or {}).items()), *LAYOUTS)
    target = Path(destination)
    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise CeloError(f"{target}: source and destination are the same file; name another destination")
    if target.suffix == weights.SUFFIX and not _is_ours(source):
        data = read_file(source, weights.MAX_BYTES)
        theta, unused, layout = _decode(data, os.fspath(source), layouts)
        metadata = {"architecture": layout.architecture, "official_sha256": hashlib.sha256(data).hexdigest()}
        digest = weights.save(target, theta, metadata=metadata, extra=unused)
    elif target.suffix in (weights.SUFFIX, STATE_SUFFIX):
        of_pylo = target.suffix == weights.SUFFIX
        loaded = weights.load(source)
        theta, architecture = loaded.theta, loaded.metadata["architecture"]
        known = pylo.LAYOUTS if of_pylo else layouts
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
    note = f". {layout.note}" if layout.note else ""
    return f"{target}: {layout.architecture}, {count:,} weights, sha256 {digest}{note}"


def _is_ours(source: str | os.PathLike[str]) -> bool:
    """Whether it is a file in our own form."""
    metadata = pylo.metadata(read_file(source, weights.MAX_BYTES))
    return metadata is not None and metadata.get("format") == weights.FORMAT


def _plain_layout(architecture: str, shapes: Shapes) -> Layout:
    """Every array under its own name, by flat name -> shape."""
    pieces = (Piece(tuple(name.split("/")), shape, ..., name) for name, shape in shapes.items())
    return Layout(architecture, tuple(pieces))


def _decode(
    data: bytes, source: str, layouts: Sequence[Layout]
) -> tuple[dict[str, Any], dict[str, np.ndarray], Layout]:
    of_pylo = pylo.metadata(data) is not None
    layouts = pylo.LAYOUTS if of_pylo else layouts
    try:
        official = pylo.decode(data) if of_pylo else decode(data, max(layout.depth for layout in layouts))
        layout = max(layouts, key=lambda layout: _likeness(official, layout.published_shapes))
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
