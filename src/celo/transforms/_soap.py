"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from celo._arguments import check_parameters
from celo._errors import CeloError
from celo._kernels.orthogonal import is_split
from celo._limits import check_steps
from celo._types import Array, OptState, Params, Updates

Mask = Any | Callable[[Params], Any] | None  # which parameters decay, as in `optax.adamw`


class PerAxis(NamedTuple):
    """Matrices of one tensor: [n, n] for an axis of length n, None for an axis without one."""

    matrices: tuple[Any, ...]  # arrays, or where they belong


class SoapState(NamedTuple):
    """What SOAP remembers: float32, or as wide as the parameters where they are wider.

    Attributes:
      step: int32, gradients seen.
      mu: average of gradients, shaped as they are.
      nu: average of squared gradients, each tensor in its eigenbases.
      covariances: for each tensor a `PerAxis`: of every axis the average of the gradient's product with
        itself over all other axes, not centred (Shampoo's L and R).
      eigenbases: for each tensor a `PerAxis`: eigenvectors of these, in columns, the largest eigenvalue's
        first.
    """

    step: Array
    mu: Updates
    nu: Updates
    covariances: Updates
    eigenbases: Updates

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    mask: Mask = None,
    *,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
) -> optax.GradientTransformationExtraArgs:
    """SOAP: Adam, for each matrix in the eigenbasis of Shampoo's preconditioner; with decoupled weight decay.

    >>> import jax.numpy as jnp
    >>> from celo.transforms import soap
    >>> tx = soap(3e-3)  # was: optax.adamw(1e-3)
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    >>> updates, state = tx.update(params, tx.init(params), params)

    Args:
      learning_rate: a number, which may be traced, or a schedule; 3e-3 in the published code.
      b1: decay rate of the average of gradients, as in `scale_by_soap`.
      b2: decay rate of the average of squared gradients.
      shampoo_beta: decay rate of Shampoo's averages; None: `b2`.
      eps: what is added to the root of the second moment.
      weight_decay: times the parameters and the learning rate, what is taken off them in every step, the
        first included.
      mask: which parameters decay: a pytree prefix of them with bools, or a function of them giving one.
        None: all.
      precondition_frequency: steps from one refresh of the eigenbases to the next.
      max_precond_dim: the longest axis that gets an eigenbasis.

    Raises:
      CeloError: as `scale_by_soap`; for a negative `weight_decay`.

    References:
      Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321. Defaults are those
      of the published code, github.com/nikhilvyas/SOAP.
    """
    if isinstance(weight_decay, numbers.Real) and not weight_decay >= 0:
        raise CeloError(f"weight_decay must not be negative, got {weight_decay!r}; 0 switches it off")
    return optax.chain(
        scale_by_soap(
            b1,
            b2,
            shampoo_beta,
            eps,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def scale_by_soap(
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    *,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
) -> optax.GradientTransformation:
    """Adam in the eigenbasis of Shampoo's preconditioner, one eigenbasis for every axis of a tensor.

    For a matrix W [m, n] with gradient G, and eigenbases Q_L [m, m] of L and Q_R [n, n] of R:

        M ← b1 M + (1 - b1) G                 V ← b2 V + (1 - b2) (Q_Lᵀ G Q_R)²
        update = Q_L ((Q_Lᵀ M Q_R) / (√V + eps)) Q_Rᵀ,   M and V bias-corrected as in `optax.scale_by_adam`
        L ← β L + (1 - β) G Gᵀ                R ← β R + (1 - β) Gᵀ G

    and then, in every `precondition_frequency`-th step, the eigenbases are refreshed: their columns, and V
    with them, are put in the order of the eigenvalues they stand for, diag(Qᵀ L Q), the largest first, and
    Q ← the orthogonal factor of L Q: one step of power iteration.

    A tensor of more axes has a matrix for each of them. An axis longer than `max_precond_dim` has none and is
    not rotated, nor is one of length 1, where there is nothing to rotate. Vectors and scalars get Adam.

    **The first update is zero**, as in the published code: the first gradient only gives L and R, whose
    eigenvectors are computed in full; M and V leave it out. Numbers that are not finite are passed
    on, as in optax: wrap it in `optax.apply_if_finite` or `celo.guard_nonfinite`. Where `vmap` maps over
    whole states, `step` among them, it cannot branch, and eigenbases are computed in every step.

    In directions that no gradient has had, what is left of one is rounding, about 1e-7 of its size, and Adam
    makes steps of that unless `eps` is larger: gradients much larger than 0.01 want a larger `eps`.

    Memory: two numbers for each parameter, and for each axis of length n that has a basis 2 n² more.

    Differs from the published code in that `eps` is added after the bias correction, as in optax.

    >>> import jax.numpy as jnp, optax
    >>> from celo.transforms import scale_by_soap
    >>> tx = optax.chain(optax.clip_by_global_norm(1.0), scale_by_soap(), optax.scale_by_learning_rate(3e-3))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> [float(jnp.abs(updates["w"]).max()), state[1].eigenbases["w"].matrices[0].shape]
    [0.0, (3, 3)]

    Args:
      b1: decay rate of M; at least 0, less than 1.
      b2: decay rate of V; likewise.
      shampoo_beta: decay rate β of L and R; likewise. None: `b2`.
      eps: positive; what is added to √V.
      precondition_frequency: steps from one refresh to the next.
      max_precond_dim: the longest axis that has an eigenbasis.

    Raises:
      CeloError: if an argument is outside its range; in `init`, for parameters that are not real
        floating-point arrays.

    References:
      Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321, Algorithm 3.
    """
    beta = b2 if shampoo_beta is None else shampoo_beta
    for name, rate in (("b1", b1), ("b2", b2), ("shampoo_beta", beta)):
        if isinstance(rate, numbers.Real) and not 0 <= rate < 1:
            raise CeloError(f"{name} must be at least 0 and less than 1, got {rate!r}; for example 0.95")
    if isinstance(eps, numbers.Real) and not eps > 0:
        raise CeloError(f"eps must be positive, got {eps!r}; gradients of zero are divided by it. Take 1e-8")
    every = _check_static(precondition_frequency, "precondition_frequency", "steps between two refreshes")
    longest = _check_static(max_precond_dim, "max_precond_dim", "elements of the longest axis with a basis")

    def per_axis(p: Array, make: Callable[[int, Any], Array]) -> PerAxis:
        rotates = [len(p.shape) > 1 and 1 < n <= longest for n in p.shape]
        return PerAxis(
            tuple(make(n, _dtype(p)) if one else None for n, one in zip(p.shape, rotates, strict=True))
        )

    def init_fn(params: Params) -> SoapState:
        check_parameters(params)
        return SoapState(
            step=jnp.zeros((), jnp.int32),
            mu=jax.tree.map(lambda p: jnp.zeros(p.shape, _dtype(p)), params),
            nu=jax.tree.map(lambda p: jnp.zeros(p.shape, _dtype(p)), params),
            covariances=jax.tree.map(lambda p: per_axis(p, lambda n, t: jnp.zeros((n, n), t)), params),
            eigenbases=jax.tree.map(lambda p: per_axis(p, lambda n, t: jnp.eye(n, dtype=t)), params),
        )

    def advanced(updates: Updates, state: SoapState) -> tuple[Updates, SoapState]:
        leaves, treedef = jax.tree.flatten(updates)
        mu, nu, covariances, bases = (treedef.flatten_up_to(part) for part in state[1:])
        grads = [leaf.astype(m.dtype) for leaf, m in zip(leaves, mu, strict=True)]
        covariances = [_averaged(c, g, beta) for c, g in zip(covariances, grads, strict=True)]

        def begin() -> tuple[list[Array], list[Array], list[Array], list[PerAxis]]:
            return [jnp.zeros_like(g) for g in grads], mu, nu, [_eigenbases(c) for c in covariances]

        def go_on() -> tuple[list[Array], list[Array], list[Array], list[PerAxis]]:
            means = [b1 * m + (1 - b1) * g for m, g in zip(mu, grads, strict=True)]
            # Rotated by bases that have not seen this gradient.
            squares = [
                b2 * v + (1 - b2) * jnp.square(_rotated(g, q))
                for v, g, q in zip(nu, grads, bases, strict=True)
            ]

            def direction(mean: Array, square: Array, basis: PerAxis) -> Array:
                t = state.step.astype(mean.dtype)  # the first gradient gave no step: this is step t
                adam = _rotated(mean, basis) / (1 - b1**t) / (jnp.sqrt(square / (1 - b2**t)) + eps)
                return _rotated(adam, basis, back=True)

            def refresh() -> tuple[list[Array], list[PerAxis]]:
                pairs = [_refreshed(*one) for one in zip(squares, covariances, bases, strict=True)]
                return [v for v, _ in pairs], [q for _, q in pairs]

            directions = [direction(*one) for one in zip(means, squares, bases, strict=True)]
            due = state.step % every == 0
            return directions, means, *jax.lax.cond(due, refresh, lambda: (squares, bases))

        moves, *others = jax.lax.cond(state.step == 0, begin, go_on)
        moves = [move.astype(leaf.dtype) for move, leaf in zip(moves, leaves, strict=True)]
        mu, nu, bases = (treedef.unflatten(part) for part in others)
        step = jnp.asarray(optax.safe_increment(state.step))
        return treedef.unflatten(moves), SoapState(step, mu, nu, treedef.unflatten(covariances), bases)

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, SoapState]:
        del params
        arrays = (updates, state)
        if not any(is_split(leaf) for leaf in jax.tree.leaves(arrays)):
            return advanced(updates, state)
        shardings = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding, arrays)
        return cast(Any, jax.sharding.auto_axes(advanced, out_sharding=shardings))(*arrays)

    return optax.GradientTransformation(init_fn, update_fn)


def _check_static(value: Any, name: str, what: str) -> int:
    if isinstance(value, jax.Array):
        raise CeloError(
            f"{name} must be a Python integer, got {value}: the shape of the program rests on it. "
            "In optax.inject_hyperparams pass static_args=('precondition_frequency', 'max_precond_dim')"
        )
    return check_steps(value, name, what)


def _dtype(p: Array) -> Any:
    return p.dtype if p.dtype.itemsize > 4 else jnp.float32


def _averaged(covariances: PerAxis, grad: Array, beta: float) -> PerAxis:
    """One gradient more in the averages of its products with itself over all axes but one."""

    def averaged(axis: int, old: Array) -> Array:
        others = [other for other in range(grad.ndim) if other != axis]
        product = jnp.tensordot(grad, grad, (others, others), precision=jax.lax.Precision.HIGHEST)
        return beta * old + (1 - beta) * product

    return _each(averaged, covariances)


def _eigenbases(covariances: PerAxis) -> PerAxis:
    return _each(lambda _, c: jnp.linalg.eigh(c)[1][:, ::-1], covariances)  # eigh puts the smallest first


def _rotated(x: Array, bases: PerAxis, *, back: bool = False) -> Array:
    """`x` in the eigenbases, or from them."""
    for axis, basis in enumerate(bases.matrices):
        if basis is not None:
            turned = jnp.tensordot(x, basis, (axis, int(back)), precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(turned, -1, axis)
    return x


def _refreshed(nu: Array, covariances: PerAxis, bases: PerAxis) -> tuple[Array, PerAxis]:
    """`nu` in the order of the columns of new bases: of the old ones after one step of power iteration."""
    matrices = list(bases.matrices)
    for axis, (covariance, basis) in enumerate(zip(covariances.matrices, bases.matrices, strict=True)):
        if covariance is not None and basis is not None:
            image = jnp.matmul(covariance, basis, precision=jax.lax.Precision.HIGHEST)
            order = jnp.argsort(jnp.sum(basis * image, axis=0), descending=True)
            nu = jnp.take(nu, order, axis=axis)
            matrices[axis] = jnp.linalg.qr(image[:, order])[0]
    return nu, PerAxis(tuple(matrices))


def _each(function: Callable[[int, Array], Array], matrices: PerAxis) -> PerAxis:
    """A function of axis and matrix, for each axis that has one."""
    return PerAxis(
        tuple(None if m is None else function(axis, m) for axis, m in enumerate(matrices.matrices))
    )
