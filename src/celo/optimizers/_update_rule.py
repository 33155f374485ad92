"""Celo's update rule over a model: one small network, shared by all parameters, turns statistics into steps.

Celo (arXiv 2501.12670), section 3; `_kernels.rule_network` has the mathematics for one tensor. A tensor that
begins at zero hardly moves under the published rule. Ours may have one weight more, `log_min_rms`: in the
length of its step a tensor counts as at least the exponential of that. And where they have `log_matrix_step`,
matrices step along their orthogonalised momentum (`_matrix_steps`), and the network has the other tensors.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import check_parameters, check_state, filled, where_given
from celo._definitions import CELO
from celo._errors import CeloError
from celo._kernels import native
from celo._kernels.orthogonal import orthogonalized
from celo._kernels.stacking import PerLayer, leading_axes, per_leaf
from celo._tree import only, without
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, bind
from celo.optimizers._matrix_steps import (
    MatrixState,
    are_matrices,
    init_matrices,
    take_matrix_steps,
)
from celo.optimizers._rule_steps import (
    GROUP,
    RuleState,
    each_tree,
    init_state,
    init_weights,
    take_steps,
)

# Weights that θ may have.
MIN_RMS, MATRIX_STEP, START_POWER = (
    f"{GROUP}/{name}" for name in ("log_min_rms", "log_matrix_step", "start_power")
)
Orthogonalize = Any | Callable[[Params], Any] | None  # pytree prefix of bools, or a function giving one


class SplitState(NamedTuple):
    """Statistics of the tensors that the network steps, and of those that step along their momentum.

    Each is a pytree like the parameters, with `optax.MaskedNode` in place of the other's tensors.
    """

    rule: RuleState
    matrices: MatrixState


@dataclasses.dataclass(frozen=True)
class UpdateRule(LearnedOptimizer):
    """Celo's update rule by itself: the optimizer of meta-training's first phase.

    It reads neither the horizon nor the loss. θ is {"update_rule": {w0 [30, 4], b0 [4], w1 [4, 4],
    b1 [4], w2 [4, 2], b2 [2]}}, 154 weights, and there may be scalars log_min_rms, log_matrix_step and
    start_power.

    Attributes:
      kernel: "auto" (see `_kernels.native.resolve`), "native" or "xla".
      min_rms: a tensor counts as at least this large (root mean square) in the length of its step, so
        that one that begins at zero gets going; 0 is the published rule. None: what θ says, 0 if it says
        nothing.
      per_layer: how many leading axes of each tensor count tensors: a whole number, a pytree prefix of the
        parameters, or a function of them giving one. None: none.
      orthogonalize: whether the steps of matrices are orthogonalised, along their momentum where θ has
        `log_matrix_step`, else the network's: a bool, a pytree prefix of the parameters, or a function of
        them giving one. None: what θ says, which is no if it says nothing.

    Raises:
      CeloError: for an unknown kernel, or a native one that does not work here; for a negative `min_rms`.
    """

    kernel: str = "auto"
    min_rms: float | Array | None = None
    per_layer: PerLayer = None
    orthogonalize: Orthogonalize = None
    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = {
        MIN_RMS: (),
        MATRIX_STEP: (),
        START_POWER: (),
    }
    # Meta-training on short runs would take the power beyond 1, where long ones want half of that
    # (results/LOG.md).
    fixed_theta: ClassVar[tuple[str, ...]] = (START_POWER,)

    def __post_init__(self):
        if isinstance(self.min_rms, int | float) and not 0 <= self.min_rms < float("inf"):
            raise CeloError(f"min_rms must be finite and at least 0, got {self.min_rms!r}; 0 is no floor")
        native.check_kernel(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Truncated normal weights of deviation 1/sqrt(fan in), zero biases."""
        return {GROUP: init_weights(CELO, key)}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> RuleState | SplitState:
        """Zero statistics, float32.

        Raises:
          CeloError: if a parameter is not a real floating-point array or number, or `per_layer` does not fit.
        """
        del num_steps
        check_parameters(params)
        layers = leading_axes(self.per_layer, params)
        matrices = self._matrices(theta, params, layers)
        rule = init_state(without(matrices, params, params), _where(matrices, layers, False))
        if not _has_matrices(theta):
            return rule
        return SplitState(rule, init_matrices(only(matrices, params, params), _where(matrices, layers, True)))

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, RuleState | SplitState]:
        """One step for every tensor."""
        del value
        split = _has_matrices(theta)
        check_state(state, SplitState if split else RuleState)
        given = partial(where_given, grads)
        rule, of_matrices = state if split else (state, None)
        layers = leading_axes(self.per_layer, params)
        matrices = self._matrices(theta, params, layers)
        kernel, least = native.resolve(self.kernel), self._least_rms(theta)
        steps, rule_after = take_steps(
            CELO,
            theta[GROUP],
            without(matrices, grads, params),
            each_tree(given, rule),
            without(matrices, params, params),
            _where(matrices, layers, False),
            kernel,
            least,
        )
        after: RuleState | SplitState = filled(rule_after, rule)
        if of_matrices is not None:
            matrix_steps, matrices_after = take_matrix_steps(
                theta[GROUP],
                only(matrices, grads, params),
                MatrixState(*map(given, of_matrices)),
                only(matrices, params, params),
                layers=_where(matrices, layers, True),
                least=least,
                kernel=kernel,
            )
            parts = {True: iter(matrix_steps), False: iter(steps)}
            steps = [next(parts[is_matrix]) for is_matrix in matrices]
            after = SplitState(filled(rule_after, rule), filled(matrices_after, of_matrices))
        else:
            wanted = per_leaf(self.orthogonalize, params, bool, "orthogonalize", default=False)
            replaced = orthogonalized(steps, wanted, layers, kernel)
            steps = [replaced.get(i, step) for i, step in enumerate(steps)]
        leaves, treedef = jax.tree.flatten(params)
        updates = [step.astype(p.dtype) for step, p in zip(steps, leaves, strict=True)]
        return jax.tree.unflatten(treedef, updates), after

    def _matrices(self, theta: Theta, params: Params, layers: list[int]) -> list[bool]:
        """For each leaf, whether it steps along its momentum; none does where θ says nothing of it."""
        wanted = per_leaf(self.orthogonalize, params, bool, "orthogonalize", default=True)
        return are_matrices(params, layers, [_has_matrices(theta) and want for want in wanted])

    def _least_rms(self, theta: Theta) -> float | Array:
        """The least size of a tensor: what the caller says, else θ, else none."""
        if self.min_rms is not None:
            return self.min_rms
        return jnp.exp(theta[GROUP]["log_min_rms"]) if "log_min_rms" in theta[GROUP] else 0.0


def _has_matrices(theta: Theta) -> bool:
    """Whether θ has matrices step along their momentum."""
    return "log_matrix_step" in theta[GROUP]


def _where(mask: list[bool], values: list[int], kept: bool) -> list[int]:
    """The values where the mask is `kept`."""
    return [value for value, is_kept in zip(values, mask, strict=True) if is_kept == kept]


def mirrored(theta: dict[str, Array]) -> dict[str, Array]:
    """Fresh weights of the rule, rearranged so that its direction begins as a linear function of the inputs.

    Units come in pairs of opposite sign, relu(x) and relu(-x), whose difference is x: the looks-linear
    initialisation of Balduzzi et al. (arXiv 1702.08591). Steps uphill and downhill are then treated the
    same from the start. With four units a layer, plain weights often have none that can point one of the two
    ways but the bias, and training does not find its way out of that (results/LOG.md).

    Args:
      theta: what `init_theta` of Celo's or Celo2's rule gives under "update_rule".

    Returns:
      The same names and shapes; biases and the magnitude's weights are as they were.
    """
    half = len(theta["b0"]) // 2
    inputs = theta["w0"][:, :half]
    between = jnp.eye(half) + 0.5 * theta["w1"][:half, :half]
    direction = jnp.full((half,), 0.5)
    return {
        **theta,
        "w0": jnp.concatenate([inputs, -inputs], axis=1),
        "w1": jnp.block([[between, -between], [-between, between]]),
        "w2": theta["w2"].at[:, 0].set(jnp.concatenate([direction, -direction])),
    }


def scale_by_celo_rule(
    weights: WeightsLike = "celo",
    *,
    kernel: str = "auto",
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    orthogonalize: Orthogonalize = None,
    state_dtype: Any = "float32",
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule alone, to be used under any schedule; it needs neither loss nor horizon.

    The updates point downhill and are to be added: scale them by a positive rate, for example with
    `optax.scale_by_learning_rate(rate, flip_sign=False)`. A rate of 1 is a step of about 0.01 of each
    tensor's root mean square; Celo's own schedule falls from about (1000 / num_steps)^0.5 to zero.
    `celo.celo_rule` does it.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = optax.chain(celo.scale_by_celo_rule(), optax.scale(0.5))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)

    Args:
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      kernel: "auto" is the native kernel on a CPU with a C++ compiler, where arrays lie on one device (it is
        compiled at its first use), else XLA; "native" and "xla" ask for one. A program that is exported or
        lowered for another platform needs "xla".
      min_rms: a tensor counts as at least this large in the length of its step. None: what the weights say,
        0.01 for the bundled ones. 0 is the published rule, under which a tensor of zeros takes steps of
        3e-8; see docs/loops.md.
      per_layer: how many leading axes of each tensor count layers, which are then treated apart: a pytree
        prefix of the parameters with whole numbers (`{"blocks": 1, "head": 0}`), or a function of the
        parameters giving one.
      orthogonalize: whether the steps of matrices are orthogonalised, along their momentum where the weights
        have that (`log_matrix_step`, as the bundled `celo`), else the rule's: a bool, a pytree prefix of the
        parameters (`{"embedding": False, "blocks": True}`), or a function of them giving one. None: as the
        weights say.
      state_dtype: float32, or bfloat16 for statistics of half the size.

    Raises:
      CeloError: if the weights cannot be read or do not fit, the kernel does not work here, or an option is
        out of range; in `init`, if `per_layer` does not fit the parameters.
    """
    rule = UpdateRule(kernel, min_rms, per_layer, orthogonalize)
    return with_weights(rule, bind(weights, rule), state_dtype=state_dtype)


def celo_rule(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weights: WeightsLike = "celo",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    orthogonalize: Orthogonalize = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule under a schedule of yours: the mode for loops that have no loss or no horizon.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = celo.celo_rule(optax.cosine_decay_schedule(1.0, decay_steps=1_000))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)  # no value=

    Args:
      learning_rate: a number or an optax schedule. At 1 a step is about 0.01 of each tensor's root mean
        square; the learned schedule, which this replaces, falls from about (1000 / num_steps)^0.5 to zero.
      weights: a bundled name, a path to a .safetensors file, or θ itself; the rule's part is enough.
      weight_decay: as in `celo.celo`; so are the others.
      mask: what is decayed.
      nonfinite: policy for gradients that are not finite.
      min_rms: for tensors that begin at zero.
      per_layer: for tensors that stack layers.
      orthogonalize: for the steps of matrices.
      state_dtype: "bfloat16" halves the state.
      kernel: as in `scale_by_celo_rule`.

    Returns:
      A transformation whose `update` needs the parameters; `value=` may be given and is not read.

    Raises:
      CeloError: as `celo.celo`.
    """
    links = scale_by_celo_rule(
        weights,
        kernel=kernel,
        min_rms=min_rms,
        per_layer=per_layer,
        orthogonalize=orthogonalize,
        state_dtype=state_dtype,
    )
    return chain(
        links, learning_rate=learning_rate, weight_decay=weight_decay, mask=mask, nonfinite=nonfinite
    )
