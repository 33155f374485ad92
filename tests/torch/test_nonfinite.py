"""What is judged bad, and what is counted; test_base takes trainings through the policies, beside JAX."""

import pytest
import torch

from celo._errors import CeloError
from celo.torch import _nonfinite

GOOD, BAD = torch.ones(3), torch.tensor([1.0, torch.nan, 1.0])


def judged(policy, *steps):
    """(the last verdict, the counters) of steps (gradients, loss)."""
    counters = _nonfinite.init(policy)
    for grads, loss in steps:
        verdict = _nonfinite.judge(policy, counters, grads, None if loss is None else torch.tensor(loss))
    return verdict, {name: value.item() for name, value in counters.items()}


def test_without_a_policy_nothing_is_counted():
    assert judged(None, ([BAD], 1.0)) == ((1.0, 1.0), {})
    with pytest.raises(CeloError, match="'skipp'; known, nearest first: skip"):
        _nonfinite.init("skipp")


@pytest.mark.parametrize("policy", ["hold", "skip"])
def test_one_bad_gradient_or_loss_is_enough(policy):
    for bad in (([GOOD, BAD], 1.0), ([GOOD], float("inf")), ([BAD], None)):
        assert judged(policy, bad)[0] == (0.0, 0.0)
    assert judged(policy, ([GOOD, GOOD], 1.0))[0] == (1.0, 1.0)


def test_what_is_counted():
    steps = ([BAD], 1.0), ([GOOD], 1.0), ([GOOD], float("nan")), ([BAD], float("inf"))
    verdict, counters = judged("repair", *steps)
    assert verdict == (1.0, 1.0)
    assert counters == {"bad_gradients": 2, "bad_losses": 2, "bad_in_a_row": 2, "shrink": 1.0}


def test_steps_shrink_and_grow_again():
    bad, good = ([BAD], 1.0), ([GOOD], 1.0)
    assert judged("shrink", bad, good)[0] == (1.0, 0.5)
    assert judged("shrink", bad, bad)[1]["shrink"] == 0.25
    assert judged("shrink", bad, *[good] * 100)[1]["shrink"] == pytest.approx(1.0, rel=1e-4)
