import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from celo._errors import CeloError
from celo.data import DATASETS, data_dir, fetch, is_cached, load_images
from celo.data._cache import DamagedCacheError, read_arrays, write_arrays

SHAPES = {"text": (3,)}
ARRAYS = {"text": np.array([1, 2, 3], np.uint8)}


def test_data_dir_follows_the_environment(data_folder):
    assert data_dir() == data_folder
    assert data_folder.is_dir()


@pytest.mark.parametrize(
    ("platform", "variable", "parts"),
    [
        ("linux", "XDG_CACHE_HOME", ("cache", "celo")),
        ("linux", None, (".cache", "celo")),
        ("darwin", None, ("Library", "Caches", "celo")),
        ("win32", "LOCALAPPDATA", ("cache", "celo")),
        ("win32", None, ("AppData", "Local", "celo")),
    ],
)
def test_data_dir_is_in_the_cache_folder_of_the_platform(monkeypatch, tmp_path, platform, variable, parts):
    for name in ("CELO_DATA_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    assert data_dir() == tmp_path.joinpath(*parts)


def test_data_dir_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CELO_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(CeloError, match=r"file: cannot be created.*set CELO_DATA_DIR"):
        data_dir()


def test_data_dir_that_is_not_writable(monkeypatch, data_folder):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(CeloError, match="not writable; set CELO_DATA_DIR"):
        data_dir()


def test_written_arrays_are_read_back_and_nothing_else_is_left(tmp_path):
    write_arrays(tmp_path / "set.npz", ARRAYS)
    assert read_arrays(tmp_path / "set.npz", SHAPES)["text"].tolist() == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


def test_a_failing_write_keeps_the_old_file_and_leaves_no_other(monkeypatch, tmp_path):
    path = tmp_path / "set.npz"
    write_arrays(path, ARRAYS)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CeloError, match=r"set.npz: .*No space left on device.*or set CELO_DATA_DIR"):
        write_arrays(path, {"text": np.zeros(3, np.uint8)})
    assert read_arrays(path, SHAPES)["text"].tolist() == [1, 2, 3]
    assert [left.name for left in tmp_path.iterdir()] == ["set.npz"]


@pytest.mark.parametrize("where", range(10))
def test_a_changed_byte_of_the_content_is_detected(tmp_path, where):
    path = tmp_path / "set.npz"
    write_arrays(path, {"text": np.arange(100, dtype=np.uint8)})
    data = bytearray(path.read_bytes())
    data[data.index(bytes(range(100))) + 10 * where] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedCacheError, match=r"set\.npz is damaged"):
        read_arrays(path, {"text": (100,)})


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_cut_file_is_detected(tmp_path, kept):
    path = tmp_path / "set.npz"
    write_arrays(path, ARRAYS)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedCacheError):
        read_arrays(path, SHAPES)


@pytest.mark.parametrize(
    "arrays",
    [{"other": ARRAYS["text"]}, {"text": np.zeros(4, np.uint8)}, {"text": np.zeros(3, np.int32)}],
)
def test_a_file_of_other_arrays_is_detected(tmp_path, arrays):
    write_arrays(tmp_path / "set.npz", arrays)
    with pytest.raises(DamagedCacheError):
        read_arrays(tmp_path / "set.npz", SHAPES)


def test_a_damaged_cache_is_reported_and_made_again(data_folder, capsys, caplog):
    good = load_images("digits")
    path = fetch("digits")
    path.write_bytes(path.read_bytes()[:5000])
    with caplog.at_level("INFO", logger="celo"):
        again = load_images("digits")
    assert "digits.npz is damaged" in caplog.text
    assert capsys.readouterr() == ("", "")  # a library prints nothing
    np.testing.assert_array_equal(again.train.x, good.train.x)


def test_a_damaged_resized_cache_is_made_again(data_folder, caplog):
    good = load_images("digits", size=4)
    path = data_folder / "digits-4x4.npz"
    path.write_bytes(b"no npz")
    with caplog.at_level("INFO", logger="celo"):
        again = load_images("digits", size=4)
    [message] = caplog.messages
    assert "digits-4x4.npz is damaged" in message
    np.testing.assert_array_equal(again.test.x, good.test.x)


def test_an_interrupted_provider_leaves_nothing_and_the_next_call_succeeds(monkeypatch, data_folder):
    class Interrupted:
        def arrays(self, folder, report, load):
            raise KeyboardInterrupt

    digits = DATASETS["digits"]
    with monkeypatch.context() as patched:
        patched.setitem(DATASETS, "digits", replace(digits, providers=(Interrupted(),)))
        with pytest.raises(KeyboardInterrupt):
            fetch("digits")
    assert list(data_folder.iterdir()) == []
    assert not is_cached("digits")
    assert load_images("digits").num_classes == 10


KILLED_WHILE_WRITING = """
import os, signal
from celo.data import fetch
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)  # written, but not yet in its place
fetch("digits")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_writer_leaves_no_cache_file_and_the_next_call_succeeds(data_folder):
    path = os.pathsep.join(sys.path)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING], env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not is_cached("digits")
    assert load_images("digits").num_classes == 10
