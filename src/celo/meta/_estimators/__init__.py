"""Estimators of the meta-gradient, one method a file, and their registry.

Each knows an `UnrolledProblem` and nothing of what is unrolled. A new one is a file here and a line below:
recipes, `celo train --estimator` and the tests read the table. Users import from `celo.meta`.
"""

from collections.abc import Callable
from functools import partial

from celo.meta._estimators.base import GradientEstimator
from celo.meta._estimators.full_es import FullES
from celo.meta._estimators.pes import PES, WHOLE_LIFE
from celo.meta._estimators.resuming import Resuming
from celo.meta._estimators.truncated_es import TruncatedES

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "pes": PES,
    "nres": partial(PES, noise_truncations=WHOLE_LIFE),
    "truncated_es": TruncatedES,
    "full_es": FullES,
    "full_es_final": partial(FullES, final=True),
}
"""Estimators of the meta-gradient by name: (problem, truncation_length, std) -> an estimator."""

RESUMABLE = ("pes", "nres")  # those that `Resuming` takes

__all__ = ["ESTIMATORS", "PES", "RESUMABLE", "FullES", "GradientEstimator", "Resuming", "TruncatedES"]
