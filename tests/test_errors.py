"""Errors name what was wrong, and what would have been right, nearest first."""

import pytest

from celo._errors import CeloError, OutOfRangeWarning, unknown_name

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
