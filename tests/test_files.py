"""Files appear whole or not at all, and what goes wrong is said with the path and a remedy."""

import hashlib
import os
import subprocess
import sys

import pytest

from celo._errors import CeloError
from celo._files import held, make_folder, platform_cache, read_file, replacing, write_file


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "file"
    assert write_file(path, b"one") == hashlib.sha256(b"one").hexdigest()
    assert write_file(path, b"two") == hashlib.sha256(b"two").hexdigest()
    assert read_file(path) == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_replacement_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "file"
    write_file(path, b"old")

    def interrupted():
        with replacing(path) as draft:
            draft.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_file(path) == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_larger_than_allowed_is_not_read(tmp_path):
    write_file(tmp_path / "file", b"1234")
    assert read_file(tmp_path / "file", max_bytes=4) == b"1234"
    with pytest.raises(CeloError, match="file: 4 bytes, more than the 3 allowed; check the path"):
        read_file(tmp_path / "file", max_bytes=3)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda folder: read_file(folder / "none"), "none: no such file; check the path"),
        (lambda folder: read_file(folder), "is a folder; name the file inside it"),
        (lambda folder: write_file(folder, b""), "is a folder; name the file to write inside it"),
        (lambda folder: write_file(folder / "no" / "file", b""), "does not exist; create it first"),
        (lambda folder: make_folder(folder / "taken", "choose another --out"), "choose another --out"),
    ],
)
def test_mistakes_are_named_with_a_remedy(tmp_path, action, message):
    (tmp_path / "taken").write_bytes(b"a file")
    with pytest.raises(CeloError, match=message):
        action(tmp_path)


def test_folders_are_made_with_their_parents_and_may_exist(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert platform_cache() == tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_held_folder_is_refused_to_another_process_until_the_first_is_gone(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from celo._files import held\n"
            "with held(Path(sys.argv[1]), 'wait'): print('held', flush=True); time.sleep(60)",
            tmp_path,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CeloError, match="another process is at work in it; wait"), held(tmp_path, "wait"):
            pass
    finally:
        holder.kill()  # which no process can clean up after
        holder.communicate()
    with held(tmp_path, "wait"):
        pass
    with held(tmp_path, "wait"):  # given back
        pass
