"""C++ compiled on first use: once, whole, and with the compiler's words where it fails."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest
from marks import slow_but

from celo import _compile
from celo._errors import CeloError

pytestmark = pytest.mark.skipif(_compile.find_compiler() is None, reason="there is no C++ compiler here")


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A function: C++ text -> path of the library, in a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def of(text, **options):
        source, header = tmp_path / "source.cc", tmp_path / "header.h"
        source.write_text(text)
        header.touch()
        return _compile.build([source], [header], remedy="do without", **options)

    return of


ANSWER = 'extern "C" int answer() { return 42; }'


def test_what_is_compiled_can_be_called(build):
    assert ctypes.CDLL(str(build(ANSWER))).answer() == 42


def test_it_is_compiled_once_and_again_when_anything_changes(build, monkeypatch):
    first = build(ANSWER)
    written = first.stat().st_mtime_ns
    assert build(ANSWER) == first
    assert first.stat().st_mtime_ns == written
    assert build(ANSWER, version="2") != first
    assert build(ANSWER + "\n") != first
    monkeypatch.setattr(_compile, "FLAGS", (*_compile.FLAGS, "-DX"))
    assert build(ANSWER) != first


def test_a_damaged_library_is_compiled_again(build):
    library = build(ANSWER)
    library.write_bytes(library.read_bytes()[:100])
    assert ctypes.CDLL(str(build(ANSWER))).answer() == 42


def test_a_failed_compilation_shows_the_compilers_words_and_leaves_nothing(build, tmp_path):
    with pytest.raises(CeloError, match=r"(?s)did not compile; do without.*error"):
        build("int answer( {")
    assert not list(tmp_path.rglob("*.so"))


def test_without_a_compiler_the_remedy_is_named(build, monkeypatch):
    monkeypatch.setattr(_compile, "find_compiler", lambda: None)
    with pytest.raises(CeloError, match="there is none; install one, or do without"):
        build(ANSWER)


def test_a_cache_that_cannot_be_written_is_named(build, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CeloError, match="do without"):
        build(ANSWER)


def load(build, text, functions=("answer",)):
    """The library that `load` opens, which compiles what `build` compiles."""
    path = build(text)
    return _compile.load(
        [path.parents[3] / "source.cc"], [path.parents[3] / "header.h"], functions, remedy="do without"
    )


def sealed(path, content):
    """A file in the cache that is as it was written, and yet no library for this machine."""
    path.write_bytes(content)
    path.with_suffix(".sha256").write_text(_compile._sha256(path))


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF of another CPU", b"no library"], ids=["empty", "foreign", "text"]
)
def test_what_cannot_be_loaded_is_compiled_again(build, content):
    sealed(build(ANSWER), content)
    assert load(build, ANSWER).answer() == 42


def test_a_library_without_its_functions_is_named(build):
    with pytest.raises(CeloError, match=r"cannot be loaded \(.*undefined symbol: missing.*\); do without"):
        load(build, ANSWER, ("missing",))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"], ids=["empty", "no text"])
def test_a_damaged_checksum_is_mended(build, content):
    build(ANSWER).with_suffix(".sha256").write_bytes(content)
    assert load(build, ANSWER).answer() == 42


def test_a_folder_where_nothing_may_be_executed_is_named(build, monkeypatch):
    facts = os.statvfs(".")
    monkeypatch.setattr(os, "ST_NOEXEC", 8, raising=False)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*facts[:8], 8, facts[9])))
    with pytest.raises(
        CeloError, match=r"mounted noexec.*set XDG_CACHE_HOME to another folder, or do without"
    ):
        load(build, ANSWER)


def test_only_a_kernel_that_should_work_is_missed_aloud(monkeypatch):
    def fail():
        raise CeloError("the reason")

    assert _compile.works(lambda: None, instead="XLA")
    with pytest.warns(RuntimeWarning, match="kernel='auto' computes by XLA, slower: the reason"):
        assert not _compile.works(fail, instead="XLA")
    monkeypatch.setattr(_compile, "find_compiler", lambda: None)
    assert not _compile.works(fail, instead="XLA")


STEPS = {  # in each, two optimizers: what is missed is said once
    "jax": """
import celo, jax.numpy as jnp
for _ in range(2):
    tx = celo.celo(100)
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), value=1.0)
""",
    "torch": """
import celo.torch, torch
for _ in range(2):
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    celo.torch.CeloRule([p]).step()
""",
}


@pytest.mark.parametrize("framework", slow_but(["jax"], STEPS))
def test_auto_does_without_a_kernel_that_cannot_be_had_and_says_so_once(framework, tmp_path):
    """A cache that is a file: nothing can be compiled into it."""
    (tmp_path / "cache").write_text("")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "always", "-c", STEPS[framework]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: kernel='auto' computes by") == 1
    assert "cannot be created" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no mount namespaces here")
def test_a_cache_mounted_noexec(tmp_path):
    """As on machines of some clusters, in a namespace with mounts of its own."""
    python = f'{sys.executable} -W always -c "$0"'
    script = f"mount -t tmpfs -o noexec none {tmp_path} && XDG_CACHE_HOME={tmp_path} exec {python}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, STEPS["torch"]]
    if subprocess.run([*command[:6], script.split(" && ")[0]], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("mounted noexec") == 1
