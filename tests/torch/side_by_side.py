"""The same parameters, gradients and losses under an optimizer in JAX and its counterpart in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

torch.set_num_threads(1)  # tensors are small: threads would wait for each other

# Several of one shape, square, thin, long, and a tensor of each number of axes. Sizes differ within one that
# has four: equal ones would be told apart by their position, which is not the same in both frameworks.
SHAPES = {
    "scalar": (),
    "one": (1,),
    "bias": (7,),
    "long": (150,),
    "square": (8, 8),
    "wide": (4, 9),
    "wide_too": (4, 9),
    "wide_three": (4, 9),
    "thin": (2, 11),
    "tiny": (1, 1),
    "large": (12, 40),
    "line": (3, 5, 4),
    "kernel": (2, 3, 5, 7),
    "zeros": (5, 6),
}


def problem(shapes=None, steps=50, seed=0, spread=1.0):
    """(parameters, gradients of each step, losses that fall with noise on them); names in order."""
    shapes = SHAPES if shapes is None else shapes
    draw = np.random.default_rng(seed)
    params = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    params |= {name: np.zeros_like(p) for name, p in params.items() if name.startswith("zeros")}
    grads = {
        # Half of it keeps its direction, and tensors differ by orders of magnitude.
        name: np.float32(spread * 10.0 ** draw.uniform(-3, 1))
        * (draw.normal(size=shape) + draw.normal(size=(steps, *shape))).astype(np.float32)
        for name, shape in shapes.items()
    }
    losses = (3.0 * 0.97 ** np.arange(steps) + 0.1 * draw.normal(size=steps)).astype(np.float32)
    return params, grads, losses


def in_jax(tx, params, grads, losses, dtype=jnp.float32):
    """(each tensor after every step, [steps + 1, …]; the final state)."""
    first = {name: jnp.asarray(p).astype(dtype) for name, p in params.items()}

    @jax.jit
    def run(grads, losses):
        def step(carry, now):
            params, state = carry
            updates, state = tx.update(now[0], state, params, value=now[1])
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (first, tx.init(first)), (grads, losses))

    (_, state), path = run({name: jnp.asarray(grads[name]).astype(dtype) for name in params}, losses)
    path = {name: jnp.concatenate([first[name][None], path[name]]) for name in params}
    return {name: np.asarray(x.astype(jnp.float32)) for name, x in path.items()}, state


def in_torch(optimizer_of, params, grads, losses, dtype=torch.float32, groups=None):
    """(each tensor after every step, [steps + 1, …]; the optimizer).

    Args:
      optimizer_of: what makes the optimizer of parameters or groups of them.
      params: by name.
      grads: by name, [steps, …].
      losses: [steps].
      dtype: of parameters and gradients.
      groups: (names, options) of each group; None is all in one.
    """
    tensors = {name: torch.tensor(p).to(dtype).requires_grad_() for name, p in params.items()}
    given = list(tensors.values())
    if groups is not None:
        given = [{"params": [tensors[name] for name in names], **options} for names, options in groups]
    optimizer = optimizer_of(given)
    path = {name: [x.detach().float().numpy().copy()] for name, x in tensors.items()}
    for step, loss in enumerate(losses):
        for name, x in tensors.items():
            x.grad = torch.from_numpy(np.asarray(grads[name][step])).to(dtype)
        optimizer.step(loss=torch.tensor(loss))
        for name, x in tensors.items():
            path[name].append(x.detach().float().numpy().copy())
    return {name: np.stack(points) for name, points in path.items()}, optimizer


def deviations(ours, theirs):
    """The largest difference of each tensor over all points, as a share of its movement."""
    assert ours.keys() == theirs.keys()
    moved = {name: np.abs(path[-1] - path[0]).max() for name, path in theirs.items()}
    assert all(moved.values()), f"a tensor does not move: {moved}"
    return {name: float(np.abs(ours[name] - theirs[name]).max() / moved[name]) for name in theirs}


def as_in_jax(params, grads):
    """Parameters and gradients with convolutions' kernels laid out as in JAX, [height, width, in, out]."""
    params, grads = dict(params), dict(grads)
    for name in params:
        if name.startswith("kernel"):
            params[name] = params[name].transpose(2, 3, 1, 0)
            grads[name] = grads[name].transpose(0, 3, 4, 2, 1)
    return params, grads


def as_in_torch(path):
    """The tensors of `in_jax` with kernels laid out as in PyTorch, [out, in, height, width]."""
    return {name: x.transpose(0, 4, 3, 1, 2) if name.startswith("kernel") else x for name, x in path.items()}


def with_orthogonal_steps(theta):
    """θ with all that ours may have: matrices along their momentum, first sizes remembered, a least size."""
    extra = {"log_matrix_step": 0.3, "log_min_rms": -3.0, "start_power": 0.7}
    rule = {**theta["update_rule"], **{name: np.float32(value) for name, value in extra.items()}}
    return {**theta, "update_rule": rule}
