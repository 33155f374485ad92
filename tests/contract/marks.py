"""Parameters of tests that run always, and those that run among the slow ones."""

from collections.abc import Iterable

import pytest


def slow_but(quick: Iterable, values: Iterable) -> list:
    """`values` as parameters, marked slow but for those in `quick`."""
    quick = list(quick)
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def slow_are_run(request: pytest.FixtureRequest) -> bool:
    """Whether slow tests of the fixture's file are among those to be run: what they need is made then."""
    return any(item.path == request.path and "slow" in item.keywords for item in request.session.items)
