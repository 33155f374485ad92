"""What users name by where it is, and what they are told when it is not there."""

import hashlib

import pytest

from celo._errors import CeloError
from celo._import_path import attribute_at, definition, import_modules, source_sha256, top_level


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module `mine` of the user's, and one that needs another which is not installed."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("answer = 42\n")
    (tmp_path / "needy.py").write_text("import no_such_dependency\n")
    return tmp_path


def test_an_attribute_is_found(mine):
    assert attribute_at("mine:answer", "task") == 42
    assert source_sha256("mine:answer") == hashlib.sha256(b"answer = 42\n").hexdigest()
    import_modules(["mine"])


@pytest.mark.parametrize("number", [1, 2])
def test_tests_that_name_their_modules_alike_see_their_own(number, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(f"number = {number}\n")
    assert attribute_at("mine:number", "task") == number


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine", "task 'mine': write one of your own as package.module:attribute"),
        ("mine:anser", "unknown attribute of mine 'anser'; known, nearest first: answer"),
        ("no_such_module:x", "there is no module 'no_such_module' on the Python path"),
    ],
)
def test_an_attribute_that_is_not_there(mine, place, message):
    with pytest.raises(CeloError, match=message):
        attribute_at(place, "task")


def test_a_module_that_is_not_there_or_needs_another(mine):
    with pytest.raises(CeloError, match=r"no module 'no_such_module' .*run in its folder, or set PYTHONPATH"):
        import_modules(["no_such_module"])
    with pytest.raises(CeloError, match="module 'needy' needs 'no_such_dependency', which is not installed"):
        import_modules(["needy"])


def test_a_module_that_fails_as_it_is_imported_is_named_with_the_line(mine):
    (mine / "fails.py").write_text("x = 1\ny = x.no\n")
    (mine / "wrong.py").write_text("x = 1\ndef f(:\n")
    places = {"fails": rf"AttributeError: .*no.* \({mine}/fails.py:2, in <module>\)"}
    places["wrong"] = rf"SyntaxError: .* \({mine}/wrong.py:2\)"
    for name, words in places.items():
        with pytest.raises(CeloError, match=f"module '{name}' cannot be imported: {words}"):
            import_modules([name])
        with pytest.raises(CeloError, match=f"task '{name}:x': its module cannot be imported: {words}"):
            attribute_at(f"{name}:x", "task")
    with pytest.raises(CeloError, match="task 'needy:x' needs 'no_such_dependency', which is not installed"):
        attribute_at("needy:x", "task")


def test_where_something_is_defined(mine):
    (mine / "defines.py").write_text("number = 3\n\n\ndef make():\n    pass\n")
    import_modules(["defines"])
    assert definition("defines:make") == f"defined at {mine}/defines.py:4"
    assert [definition(place) for place in ("defines:number", "defines:none", "adam")] == ["", "", ""]
    assert [top_level(place) for place in ("a.b:c", "a:c", "a.b", "a")] == ["a"] * 4
