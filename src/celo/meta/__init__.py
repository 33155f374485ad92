"""Meta-training: how weights θ of a learned optimizer come about.

Here: recipes, the unrolled inner trainings, estimators of their meta-gradient, the run that trains θ through
all phases, and the meta-loss of finished weights. Learned optimizers are in `celo.optimizers`, the tasks that
they are trained on in `celo.tasks`; how weights fare beside other optimizers is asked of `celo.evaluate`.
"""

from celo.meta._estimators import ESTIMATORS, PES, FullES, Resuming, TruncatedES
from celo.meta._estimators.base import Estimate, GradientEstimator, Trajectory, UnrolledProblem
from celo.meta._expert import Expert
from celo.meta._measure import Measured, measure
from celo.meta._objective import Objective
from celo.meta._recipes import RECIPES, Recipe, make_recipe
from celo.meta._run import Stopped, resume, start
from celo.meta._summary import PhaseSummary, draw_metrics, read_metrics, summarize, write_card
from celo.meta._unroll import Unroll

__all__ = [
    "ESTIMATORS",
    "PES",
    "RECIPES",
    "Estimate",
    "Expert",
    "FullES",
    "GradientEstimator",
    "Measured",
    "Objective",
    "PhaseSummary",
    "Recipe",
    "Resuming",
    "Stopped",
    "Trajectory",
    "TruncatedES",
    "Unroll",
    "UnrolledProblem",
    "draw_metrics",
    "make_recipe",
    "measure",
    "read_metrics",
    "resume",
    "start",
    "summarize",
    "write_card",
]
