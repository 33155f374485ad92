"""Published weights (official theta.state, flax msgpack) to our files and back.

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
from celo._published import celo as celo_layouts
from celo._published import celo2 as celo2_layouts
from celo._published.layout import OFFICIAL, Layout, Piece, Shapes, decode, encode

STATE_SUFFIX = ".state"

__all__ = ["LAYOUTS", "STATE_SUFFIX", "convert", "read_official", "to_official"]

# Of every published architecture, in each size that is published. A file that fits several is taken for the
# first, unless the caller says its architecture.
LAYOUTS: tuple[Layout, ...] = (
    celo_layouts.CELO,
    celo_layouts.CELO_ADAM,
    celo2_layouts.CELO2_LAYOUT,
    celo2_layouts.CELO2_BASE_LAYOUT,
)


def read_official(
    path: str | os.PathLike[str], architecture: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Read an official theta.state of an architecture in `LAYOUTS`.

    Args:
      path: of the file.
      architecture: that of the file. None: it is told by names and shapes of the arrays; of architectures
        whose files look alike, such as "celo2" and "celo2_base", it is the first.

    Returns:
      θ (nested dict of float32 arrays), the unused arrays by name, and the architecture.

    Raises:
      CeloError: the file is missing, damaged, or holds other names, shapes, dtypes or non-finite numbers;
        or there is no such architecture.
    """
    layouts = _layouts_of(architecture, LAYOUTS)
    return _decode(read_file(path, weights.MAX_BYTES), os.fspath(path), layouts)


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
    return write_file(path, _encode(theta, unused, LAYOUTS, "θ"))


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
) -> str:
    """Convert official weights to ours (destination *.safetensors) or back (destination *.state).

    Args:
      source: an official theta.state; on the way back, whatever `celo.weights.load` takes.
      destination: the file to write; replaced if it exists.
      architecture: that of an official file, as in `read_official`; ours say theirs.
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
    if target.suffix == weights.SUFFIX:
        data = read_file(source, weights.MAX_BYTES)
        candidates = _layouts_of(architecture, layouts)
        theta, unused, architecture = _decode(data, os.fspath(source), candidates)
        metadata = {"architecture": architecture, "official_sha256": hashlib.sha256(data).hexdigest()}
        digest = weights.save(target, theta, metadata=metadata, extra=unused)
    elif target.suffix == STATE_SUFFIX:
        loaded = weights.load(source)
        if architecture not in (None, loaded.metadata["architecture"]):
            raise CeloError(
                f"{source} says that it is of {loaded.metadata['architecture']!r}, not {architecture!r}; "
                "give an architecture with official files only"
            )
        theta, architecture = loaded.theta, loaded.metadata["architecture"]
        own = [layout for layout in layouts if layout.architecture == architecture]
        if not own:
            raise CeloError(
                f"{source}: only {_names(layouts, 'and')} have an official form, not {architecture!r}"
            )
        unused = {name: array for name, array in loaded.extra.items() if name.startswith(OFFICIAL)}
        digest = write_file(target, _encode(theta, unused, own, os.fspath(source)))
    else:
        raise CeloError(
            f"{target}: the destination must end in {weights.SUFFIX} (official weights to celo's) "
            f"or {STATE_SUFFIX} (celo's to official)"
        )
    count = sum(array.size for array in weights.flatten(theta).values())
    return f"{target}: {architecture}, {count:,} weights, sha256 {digest}"


def _layouts_of(architecture: str | None, layouts: Sequence[Layout]) -> Sequence[Layout]:
    """Those of an architecture, or all."""
    found = [layout for layout in layouts if architecture in (None, layout.architecture)]
    if not found:
        raise unknown_name("architecture", architecture, [layout.architecture for layout in layouts])
    return found


def _plain_layout(architecture: str, shapes: Shapes) -> Layout:
    """Every array under its own name, by flat name -> shape."""
    pieces = (Piece(tuple(name.split("/")), shape, ..., name) for name, shape in shapes.items())
    return Layout(architecture, tuple(pieces))


def _decode(
    data: bytes, source: str, layouts: Sequence[Layout]
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    try:
        official = decode(data, max(layout.depth for layout in layouts))
        layout = max(layouts, key=lambda layout: _likeness(official, layout.published_shapes))
        if problem := weights.misfit(official, layout.published_shapes):
            raise CeloError(f"taken for {layout.architecture}, but {problem}")
    except CeloError as error:
        raise CeloError(
            f"{source}: not an official theta.state of {_names(layouts, 'or')}, or a damaged one ({error}); "
            "check the path or fetch the file again"
        ) from error
    own = layout.to_own(official)
    theta = weights.unflatten({name: own[name] for name in layout.theta_shapes})
    return theta, {name: own[name] for name in layout.unused_shapes}, layout.architecture


def _encode(
    theta: Mapping[str, Any], unused: Mapping[str, np.ndarray], layouts: Sequence[Layout], source: str
) -> bytes:
    live = weights.flatten(theta)
    layout = max(layouts, key=lambda layout: _likeness(live, layout.theta_shapes))
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
    return encode(layout.to_published(live | kept))


def _likeness(arrays: Mapping[str, np.ndarray], shapes: Shapes) -> tuple[int, int, int]:
    """How well these arrays fit a layout: names in common, then fewest missing, then shapes in common."""
    common = arrays.keys() & shapes.keys()
    alike = sum(arrays[name].shape == shapes[name] for name in common)
    return len(common), -len(shapes.keys() - common), alike


def _names(layouts: Sequence[Layout], conjunction: str) -> str:
    names = list(dict.fromkeys(layout.architecture for layout in layouts))
    return f" {conjunction} ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
