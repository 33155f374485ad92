"""Where a result comes from: the commit of the source and what it runs on."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from celo import __version__


def commit() -> str | None:
    """The commit of the source, marked "+ changes" if something is changed; None outside of a checkout.

    An installed copy that lies inside another project's repository is none of that project's commit.
    """
    here = str(Path(__file__).parent)

    def git(*words: str) -> str:
        command = ("git", "-C", here, *words)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "HEAD") + (" + changes" if git("status", "--porcelain", here) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, str]:
    """Versions and machine of this process, as text."""
    import jax

    installed = {name: _version(name) for name in ("jax", "optax", "numpy", "flax")}
    return {
        "celo": __version__,
        **{name: version for name, version in installed.items() if version is not None},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "device": jax.devices()[0].device_kind,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
