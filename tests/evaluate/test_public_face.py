"""What `celo.evaluate` hands out, and that none of it is loaded before it is used."""

import subprocess
import sys

import pytest

from celo import evaluate


def test_every_name_is_there():
    assert set(evaluate.__all__) <= set(dir(evaluate))
    for name in evaluate.__all__:
        assert getattr(evaluate, name) is not None
    assert evaluate.metrics.smooth([1.0]).tolist() == [1.0]
    with pytest.raises(AttributeError, match=r"module 'celo.evaluate' has no attribute 'evaluation'"):
        _ = evaluate.evaluation


def test_scoring_loads_no_jax():
    code = (
        "import sys; from celo.evaluate import aggregate, leaderboard, load_records, metrics; "
        "print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
