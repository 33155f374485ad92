"""Errors name what was wrong, and what would have been right, nearest first."""

import json
from pathlib import Path

import pytest

from celo._errors import CeloError, OutOfRangeWarning, in_a_line, own_place, unknown_name

TASKS = ("wine_mlp", "digits_conv", "digits_vit", "quadratic")


def names_in(error):
    """The known names in their order, and what follows them."""
    return str(error).partition("known, nearest first: ")[2]


def test_an_unknown_name_is_quoted_with_what_was_looked_up():
    error = unknown_name("task", "digit's", TASKS)
    assert isinstance(error, CeloError)
    assert str(error).startswith('unknown task "digit\'s"; known, nearest first: ')


def test_names_that_look_alike_come_first_and_the_others_by_the_alphabet():
    assert names_in(unknown_name("task", "wine_mpl", TASKS)) == "wine_mlp, digits_conv, digits_vit, quadratic"
    assert names_in(unknown_name("task", "zzz", TASKS)) == "digits_conv, digits_vit, quadratic, wine_mlp"
    assert names_in(unknown_name("task", "digits_cnv", iter(TASKS))).startswith("digits_conv, digits_vit, ")


def test_of_many_names_a_dozen_are_shown_and_the_rest_is_counted():
    many = [f"name_{i:02d}" for i in range(30)]
    shown = names_in(unknown_name("thing", "other", many))
    assert shown == f"{', '.join(many[:12])} and 18 more"
    assert names_in(unknown_name("thing", "other", many[:12])) == ", ".join(many[:12])
    # The nearest is shown, wherever it stands in the alphabet.
    assert names_in(unknown_name("thing", "nme_29", many)).startswith("name_29, ")


def test_errors_can_be_caught_as_what_they_are():
    """Bad input is a ValueError; a run out of range is a warning, to be turned off or into an error."""
    with pytest.raises(ValueError, match="unknown task 'x'"):
        raise unknown_name("task", "x", TASKS)
    assert issubclass(OutOfRangeWarning, UserWarning)
    assert not issubclass(OutOfRangeWarning, CeloError)


# What went wrong in others' code


def caught(function, *arguments):
    with pytest.raises(Exception) as found:  # noqa: PT011
        function(*arguments)
    return found.value.with_traceback(found.tb.tb_next)


def failing(text):
    raise KeyError(text)  # this line


def line_of(text):
    lines = Path(__file__).read_text().splitlines()
    return 1 + next(i for i, line in enumerate(lines) if text in line)


def test_an_error_is_told_in_a_line_with_the_innermost_line_of_the_users():
    place = f"{__file__}:{line_of('# this line')}, in failing"
    assert in_a_line(caught(failing, "x")) == f"KeyError: 'x' ({place})"

    def through_a_library():
        json.loads("no", object_hook=None)  # its own lines are not the user's

    error = caught(through_a_library)
    assert own_place(error).endswith("in through_a_library")
    assert own_place(error, own={"json"}).endswith("in raw_decode")


def test_the_cause_of_an_error_has_a_place_too_and_none_is_told_twice():
    def again():
        try:
            failing("x")
        except KeyError as error:
            raise CeloError(f"it failed: {in_a_line(error)}") from error

    told = in_a_line(caught(again).with_traceback(None))
    assert told.startswith("it failed: KeyError: 'x' (")
    assert told.count("in failing") == 1


def test_an_error_without_such_a_line_has_the_place_that_is_given():
    error = caught(json.loads, "no")
    assert own_place(error) == ""
    assert in_a_line(error, otherwise="defined at mine.py:3").endswith("char 0) (defined at mine.py:3)")
    assert in_a_line(CeloError("it is a file: choose another")) == "it is a file: choose another"


def test_long_messages_become_one_short_line():
    told = in_a_line(TypeError("a\n\n  b\n" + "word " * 1000))
    assert told.startswith("TypeError: a b word ")
    assert len(told) < 450
    assert "\n" not in told
    assert in_a_line(ValueError()) == "ValueError"
