"""Celo2: a learned direction of one length in all tensors, under a learning rate of yours (arXiv 2602.19142).

For each matrix, W being the network's output for it (`_kernels.rule_network`),

    update = -learning_rate * unit(NS(W)),    unit(X) = X / sqrt(mean(X²) + 1e-9)

where NS is Muon's Newton-Schulz iteration (`_kernels.orthogonal`) and both are taken over the last two axes.
Biases, norms and embeddings take steps of Adam, without bias correction and 20 times as long. Celo2-base is
the rule for all tensors, update = -learning_rate * unit(W), without NS. Neither reads a loss or a horizon.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import check_parameters, check_state
from celo._definitions import (
    CELO2,
    CELO2_ADAM_DECAYS,
    CELO2_ADAM_FLOOR,
    CELO2_ADAM_MULTIPLIER,
    CELO2_DIRECTION_FLOOR,
    CELO2_STEP,
    MUON,
)
from celo._errors import CeloError
from celo._kernels import native, orthogonal
from celo._kernels.stacking import PerLayer, leading_axes, per_leaf
from celo._kernels.statistics import unclipped_gradient
from celo._tree import only, without
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._adam import AdamState, init_moments, update_moments
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, bind
from celo.optimizers._rule_steps import (
    GROUP,
    RuleState,
    init_state,
    init_weights,
    take_steps,
)
from celo.optimizers._update_rule import Orthogonalize
from celo.transforms._param_labels import label_params

AdamMask = Any | Callable[[Params], Any] | None  # pytree prefix of bools, or a function giving one


class Celo2State(NamedTuple):
    """Statistics of the tensors that the rule takes, and moments of those that Adam takes.

    Each is a pytree like the parameters, with `optax.MaskedNode` in place of the other's tensors.
    """

    rule: RuleState
    adam: AdamState


@dataclasses.dataclass(frozen=True)
class Celo2(LearnedOptimizer):
    """The whole optimizer, as meta-training takes it. θ is {"update_rule": …} of 329 weights: w0 [30, 8],
    b0 [8], w1 [8, 8], b1 [8], w2 [8, 1], b2 [1].

    Attributes:
      kernel: "auto" (see `_kernels.native.resolve`), "native" or "xla". Tensors of three or more axes whose
        two longest are not their last have no native form: the JAX form computes them under any name.
      adam_mask: the tensors that Adam takes: a bool, a pytree prefix of the parameters, or a function of them
        giving one. None: vectors and embeddings, as `celo.label_params` tells them. False: none, as in
        Celo2-base.
      orthogonalize: whether steps of matrices are orthogonalised, in the same forms; None is yes, and
        Celo2-base's is False.
      per_layer: how many leading axes of each tensor count tensors, in the same forms. It decides how second
        moments are factored; normalisation is by matrices, the last two axes, in any case.
      step_size: the learning rate; its default is that of the published meta-training.
      adam_multiplier: how many learning rates Adam's is.

    Raises:
      CeloError: for an unknown kernel, or a native one that does not work here; for a negative multiplier.
    """

    kernel: str = "auto"
    adam_mask: AdamMask = None
    orthogonalize: Orthogonalize = None
    per_layer: PerLayer = None
    step_size: float = CELO2_STEP
    adam_multiplier: float | Array = CELO2_ADAM_MULTIPLIER
    theta_groups: ClassVar[tuple[str, ...]] = (GROUP,)

    def __post_init__(self):
        if isinstance(self.adam_multiplier, int | float) and not 0 <= self.adam_multiplier < float("inf"):
            raise CeloError(
                f"adam_multiplier must be finite and at least 0, got {self.adam_multiplier!r}; "
                "0 leaves the tensors of Adam as they are"
            )
        native.check_kernel(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Truncated normal weights of deviation 1/sqrt(fan in), zero biases."""
        return {GROUP: init_weights(CELO2, key)}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> Celo2State:
        """Zero statistics and moments, float32.

        Raises:
          CeloError: if a parameter is not a real floating-point array, or a mask or `per_layer` does not fit.
        """
        del theta, num_steps
        check_parameters(params)
        by_adam = self._by_adam(params)
        return Celo2State(
            rule=init_state(without(by_adam, params, params), self._layers(by_adam, params)),
            adam=init_moments(only(by_adam, params, params)),
        )

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, Celo2State]:
        """One step: the rule's for some tensors, Adam's for the others."""
        del value
        leaves, treedef = jax.tree.flatten(params)
        check_state(state, Celo2State)
        by_adam = self._by_adam(params)
        directions, rule = self._rule_directions(theta, grads, state.rule, params, by_adam)
        adam = update_moments(
            state.adam,
            only(by_adam, grads, params),
            only(by_adam, params, params),
            CELO2_ADAM_DECAYS,
            unclipped_gradient,
        )

        def of_adam(m: Array, v: Array) -> Array:
            return -self.adam_multiplier * m * jax.lax.rsqrt(v + CELO2_ADAM_FLOOR)

        moments = zip(jax.tree.leaves(adam.first), jax.tree.leaves(adam.second), strict=True)
        parts = {True: iter([of_adam(m, v) for m, v in moments]), False: iter(directions)}
        updates = [
            (self.step_size * next(parts[taken])).astype(p.dtype)
            for taken, p in zip(by_adam, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, updates), Celo2State(rule, adam)

    def _rule_directions(
        self, theta: Theta, grads: Updates, state: RuleState, params: Params, by_adam: list[bool]
    ) -> tuple[list[Array], RuleState]:
        """(what the rule's tensors take, downhill and of root mean square 1; the rule's new state)."""
        layers = self._layers(by_adam, params)
        kernel = native.resolve(self.kernel)
        grads = without(by_adam, grads, params)
        steps, state = take_steps(
            CELO2, theta[GROUP], grads, state, without(by_adam, params, params), layers, kernel
        )
        wanted = per_leaf(self.orthogonalize, params, bool, "orthogonalize", default=True)
        wanted = [want for want, taken in zip(wanted, by_adam, strict=True) if not taken]
        matrices = {
            i: step for i, step in enumerate(steps) if wanted[i] and step.size and step.ndim - layers[i] >= 2
        }
        factors = orthogonal.factors(matrices, kernel, MUON)
        steps = [factors.get(i, step) for i, step in enumerate(steps)]
        return [_unit(step, n) for step, n in zip(steps, layers, strict=True)], state

    def _by_adam(self, params: Params) -> list[bool]:
        mask = vectors_and_embeddings if self.adam_mask is None else self.adam_mask
        return per_leaf(mask, params, bool, "adam_mask", default=False)

    def _layers(self, by_adam: list[bool], params: Params) -> list[int]:
        """Leading axes that count tensors, of the tensors that the rule takes."""
        layers = leading_axes(self.per_layer, params)
        return [n for n, taken in zip(layers, by_adam, strict=True) if not taken]


def vectors_and_embeddings(params: Params) -> Params:
    """The tensors that Adam takes unless the caller says otherwise: a pytree of bools like the parameters."""
    return jax.tree.map(lambda label: label in ("vector", "embedding"), label_params(params))


def _unit(step: Array, layers: int) -> Array:
    """The step over its root mean square, matrix by matrix; `layers` leading axes count tensors."""
    axes = tuple(range(max(layers, step.ndim - 2), step.ndim))
    mean_square = jnp.mean(jnp.square(step), axis=axes, keepdims=True)
    return step * jax.lax.rsqrt(mean_square + CELO2_DIRECTION_FLOOR)


def scale_by_celo2(
    weights: WeightsLike,
    *,
    orthogonalize: Orthogonalize = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo2's rule alone, for all tensors: directions of root mean square 1.

    The updates point downhill, as those of `scale_by_celo_rule`, and are to be added: scale them by a
    positive rate. (The published function of this name returns them uphill.) Tensors for another optimizer
    are left to it by `optax.partition`; `celo2` leaves some to Adam.

    >>> import celo, jax, jax.numpy as jnp, optax
    >>> theta = celo.optimizers.Celo2().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = optax.chain(celo.scale_by_celo2(theta), optax.scale(1e-3))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)

    Args:
      weights: a path to a .safetensors file, or θ itself.
      orthogonalize: as in `celo2`; so are the others.
      per_layer: for tensors that stack layers.
      state_dtype: "bfloat16" halves the state.
      kernel: "auto", "native" or "xla".

    Raises:
      CeloError: as `celo2`.
    """
    rule = Celo2(kernel, False, orthogonalize, per_layer, step_size=1.0)
    return with_weights(rule, bind(weights, rule), state_dtype=state_dtype)


def celo2(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weights: WeightsLike,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    adam_mask: AdamMask = None,
    adam_multiplier: float | Array = CELO2_ADAM_MULTIPLIER,
    orthogonalize: Orthogonalize = None,
    nonfinite: str | None = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo2 as an optax transformation. No weights of it are bundled: convert the published ones.

    >>> import celo, jax, jax.numpy as jnp, optax
    >>> theta = celo.optimizers.Celo2().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, warmup_steps=50, decay_steps=1_000)
    >>> tx = celo.celo2(schedule, weights=theta, weight_decay=0.1)
    >>> params = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
    >>> updates, state = tx.update(params, tx.init(params), params)  # no value=

    Args:
      learning_rate: a number or an optax schedule: the root mean square of each matrix's step. It is tuned as
        AdamW's: the paper's were 1e-5 to 1e-3, under a cosine with warm-up.
      weights: a path to a .safetensors file (`celo convert theta.state celo2.safetensors`), or θ itself.
      weight_decay: decoupled, as AdamW's: each step also subtracts learning_rate * weight_decay * parameter,
        in the tensors of Adam, too.
      mask: pytree of bools, or a function of the parameters giving one: what is decayed.
      adam_mask: the tensors that Adam takes: a bool, a pytree prefix of the parameters
        (`{"embed": True, "blocks": False}`), or a function of them giving one. None: vectors and embeddings,
        as `celo.label_params` tells them. (The published code goes by names: biases.)
      adam_multiplier: how many learning rates Adam's is. Its decays are 0.9 and 0.95, without bias
        correction.
      orthogonalize: whether steps of matrices are orthogonalised, in the same forms; None is yes. Tensors of
        more axes are taken as matrices in their last two.
      nonfinite: what a step does whose gradient or loss is not finite: "repair", "hold", "skip" or
        "shrink", with counters in the state (`guard_nonfinite`). None is "repair" without counters.
      per_layer: as in `scale_by_celo_rule`, for tensors that stack layers.
      state_dtype: float32, or bfloat16 for statistics of half the size.
      kernel: "auto", "native" or "xla", as in `scale_by_celo_rule`; what has no native form `Celo2` says.

    Returns:
      A transformation whose `update` needs the parameters; `value=` may be given and is not read.

    Raises:
      CeloError: if the weights cannot be read or do not fit, the kernel does not work here, or an option is
        out of range; in `init`, if a mask or `per_layer` does not fit the parameters; in `update`, for
        missing parameters.

    References:
      Celo2, arXiv 2602.19142.
    """
    rule = Celo2(kernel, adam_mask, orthogonalize, per_layer, 1.0, adam_multiplier)
    return chain(
        with_weights(rule, bind(weights, rule), state_dtype=state_dtype),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
        unit=1.0,
        trained_rate=None,
    )


def celo2_base(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weights: WeightsLike,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo2-base as an optax transformation: Celo2's rule for all tensors, and nothing else.

    >>> import celo, jax, jax.numpy as jnp
    >>> theta = celo.optimizers.Celo2().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.celo2_base(1e-3, weights=theta)
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> updates, state = tx.update(params, tx.init(params), params)

    Args:
      learning_rate: the root mean square of each tensor's step.
      weights: Celo2-base's own: it was meta-trained without orthogonalisation. As in `celo2`; so are the
        others.
      weight_decay: decoupled, as AdamW's.
      mask: what is decayed.
      nonfinite: policy for gradients that are not finite.
      per_layer: for tensors that stack layers.
      state_dtype: "bfloat16" halves the state.
      kernel: "auto", "native" or "xla".

    Raises:
      CeloError: as `celo2`.
    """
    return celo2(
        learning_rate,
        weights=weights,
        weight_decay=weight_decay,
        mask=mask,
        adam_mask=False,
        orthogonalize=False,
        nonfinite=nonfinite,
        per_layer=per_layer,
        state_dtype=state_dtype,
        kernel=kernel,
    )
