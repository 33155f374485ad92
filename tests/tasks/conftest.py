"""Stand-ins for data sets that would have to be downloaded."""

import functools

import pytest
import stand_ins

from celo.tasks import make_task


@pytest.fixture(scope="module")
def make():
    """A function: name -> task family on stand-ins, made once."""
    with pytest.MonkeyPatch.context() as patch:
        stand_ins.install(patch)
        yield functools.cache(make_task)
