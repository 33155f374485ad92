"""Folders that outlive a run."""

import os
import sys
from pathlib import Path


def platform_cache() -> Path:
    """The user's cache folder by the custom of the platform; not made."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
