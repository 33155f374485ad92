"""Meta-training: unrolled problems, gradient estimators and their registry, the loop that trains θ."""

from collections.abc import Callable
from functools import partial

from celo.meta.estimator import GradientEstimator
from celo.meta.full_es import FullES
from celo.meta.pes import PES, WHOLE_LIFE
from celo.meta.truncated_es import TruncatedES

# Called with an unrolled problem, the truncation length and the deviation of the perturbations.
ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "pes": PES,
    "nres": partial(PES, noise_truncations=WHOLE_LIFE),
    "truncated_es": TruncatedES,
    "full_es": FullES,
    "full_es_final": partial(FullES, final=True),
}
