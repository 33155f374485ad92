"""C++ compiled on first use: once, whole, and with the compiler's words where it fails."""

import ctypes

import pytest

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
