"""Celo2 against what the published implementation computed, and a float64 reading of it; see README.md."""

import functools

import celo2_reading
import golden_data
import jax
import numpy as np
import optax
import pytest
from marks import slow_but

from celo import _compile, convert
from celo._published import layout
from celo.optimizers import Celo2, as_optax, celo2, celo2_base, scale_by_celo2

TOLERANCE = 1e-3  # of a tensor's total movement
STILL = 3e-7  # of a tensor's largest number: what rounding does to one that hardly moves
RATE = 1e-3

PROBLEM = golden_data.below(golden_data.load(), "problem")
GOLDEN = golden_data.load(golden_data.CELO2)
PUBLISHED = {k: golden_data.below(GOLDEN, f"theta/celo2__{k}") for k in golden_data.KINDS}
THETA = {kind: golden_data.to_celo2_theta(official) for kind, official in PUBLISHED.items()}
PARAMS = golden_data.below(PROBLEM, "params0")
KERNELS = ["xla"]
if _compile.find_compiler() is not None:  # a kernel that does not compile must fail
    KERNELS.append("native")

BASE = {"orthogonalize": False, "adam_mask": False}


def biases(params):
    """The published split goes by names; tensors are keys here, slashes included."""
    return {name: name.endswith("/b") for name in params}


def rule_alone(theta, **settings):
    return optax.chain(scale_by_celo2(theta, **settings), optax.scale(RATE))


# Published name -> by kernel, what users call with θ.
USERS = {
    "celo2base": {k: lambda theta, k=k: celo2_base(RATE, weights=theta, kernel=k) for k in KERNELS},
    "celo2": {k: lambda theta, k=k: celo2(RATE, weights=theta, adam_mask=biases, kernel=k) for k in KERNELS},
    "celo2_optax_noortho": {
        k: lambda theta, k=k: rule_alone(theta, orthogonalize=False, kernel=k) for k in KERNELS
    },
    "celo2_optax_ortho": {k: lambda theta, k=k: rule_alone(theta, kernel=k) for k in KERNELS},
}
# What meta-training takes.
TRAINED = {
    "celo2base": lambda theta: as_optax(Celo2("xla", **BASE), theta, 30),
    "celo2": lambda theta: as_optax(Celo2("xla", adam_mask=biases), theta, 30),
}


def read(optimizer, theta, params, grads):
    """The path by the reading."""
    return celo2_reading.run(
        theta,
        params,
        grads,
        orthogonalize=optimizer in ("celo2", "celo2_optax_ortho"),
        by_adam=[name for name in params if optimizer == "celo2" and name.endswith("/b")],
        rate=RATE,
    )


@functools.cache
def scanned(make):
    """Any number of steps of `make(theta)` in one jitted scan: (final state, path)."""

    @jax.jit
    def run(theta, params, grads):
        tx = make(theta)

        def step(carry, grad):
            params, state = carry
            updates, state = tx.update(grad, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        (_, state), path = jax.lax.scan(step, (params, tx.init(params)), grads)
        return state, path

    return run


def run(make, theta, params, grads):
    """(final state, {tensor: [steps + 1, …]}) of ours."""
    state, path = scanned(make)(theta, params, grads)
    return state, {name: np.concatenate([params[name][None], path[name]]) for name in params}


def check(ours, theirs):
    assert ours.keys() == theirs.keys()
    for tensor, path in theirs.items():
        assert ours[tensor].shape == path.shape
        assert ours[tensor].dtype == np.float32
        assert np.isfinite(ours[tensor]).all()
        allowed = max(TOLERANCE * np.abs(path[-1] - path[0]).max(), STILL * np.abs(path).max())
        np.testing.assert_allclose(ours[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


def trajectory(name):
    """(optimizer, θ, gradients, the published path)."""
    optimizer, kind, _ = name.split("__")
    grads = golden_data.below(PROBLEM, "grads")
    return optimizer, THETA[kind], grads, golden_data.below(GOLDEN, f"traj/{name}/params")


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        pytest.param(name, kernel, marks=[pytest.mark.slow] * (kernel == "xla"))
        for name in golden_data.CELO2_TRAJECTORIES
        for kernel in KERNELS
    ],
)
def test_all_31_points_of_every_tensor_are_reproduced(name, kernel):
    optimizer, theta, grads, theirs = trajectory(name)
    _, ours = run(USERS[optimizer][kernel], theta, PARAMS, grads)
    check(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["celo2base__noisy__n30", "celo2__noisy__n30"])
def test_meta_training_takes_the_same_steps(name):
    optimizer, theta, grads, theirs = trajectory(name)
    _, ours = run(TRAINED[optimizer], theta, PARAMS, grads)
    check(ours, theirs)


@pytest.mark.parametrize("name", golden_data.CELO2_TRAJECTORIES)
def test_the_reading_reproduces_them_too(name):
    optimizer, theta, grads, theirs = trajectory(name)
    paths = read(optimizer, theta, PARAMS, grads)
    for tensor, path in theirs.items():
        allowed = max(1e-5 * np.abs(path[-1] - path[0]).max(), STILL * np.abs(path).max())
        np.testing.assert_allclose(paths[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


# Where nothing was recorded, the reading stands for the published code.

SHAPES = {
    "scalar": (),
    "one/b": (1,),
    "vector": (7,),
    "tall": (33, 5),
    "wide": (4, 40),
    "single": (1, 1),
    "conv": (3, 3, 4, 8),
    "first conv": (5, 5, 1, 9),
    "outputs first": (16, 8, 3, 3),
    "heads": (12, 3, 4),
}


def drawn(seed, *leads):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(*leads, *shape)).astype("f4") for name, shape in SHAPES.items()}


def stress(case, steps=12):
    """Gradients that nothing was recorded for.

    An infinity in a tensor that Adam takes, which the published code does not clip, makes a NaN of it there.
    """
    grads = drawn(2, steps)
    for name, grad in grads.items():
        grad *= 1e-2
        if case == "zero for ever":
            grad[:] = 0
        elif case == "zero from a step on":
            grad[4:] = 0
        elif case == "spikes":
            grad[3], grad[7] = 1e8 * grad[3], 0
        elif case == "tiny":
            grad *= 1e-7
        elif case == "not finite" and not name.endswith("/b"):
            grad[5], grad[8].flat[0], grad[9].flat[-1] = np.inf, -np.inf, np.nan
    return grads


CASES = ("zero for ever", "zero from a step on", "spikes", "tiny", "not finite")


@pytest.mark.parametrize("kernel", slow_but(KERNELS[-1:], KERNELS))
@pytest.mark.parametrize("optimizer", [pytest.param("celo2base", marks=pytest.mark.slow), "celo2"])
@pytest.mark.parametrize("case", CASES)
def test_stress(case, optimizer, kernel):
    grads, params = stress(case), drawn(1)
    _, ours = run(USERS[optimizer][kernel], THETA["noisy"], params, grads)
    check(ours, read(optimizer, THETA["noisy"], params, grads))


def test_final_accumulators():
    _, theta, grads, _ = trajectory("celo2__noisy__n30")
    state, _ = run(TRAINED["celo2"], theta, PARAMS, grads)
    theirs = golden_data.below(GOLDEN, "traj/celo2__noisy__n30/final_state")
    for name in PARAMS:
        if name.endswith("/b"):
            pairs = [
                (state.adam.first[name], theirs[f"state_1d/mom_rolling/m/{name}"][..., 0]),
                (state.adam.second[name], theirs[f"state_1d/rms_rolling/rms/{name}"][..., 0]),
            ]
        else:
            momenta = theirs[f"state_2d/mom_rolling/m/{name}"]
            pairs = [(state.rule.momenta[k][name], momenta[..., k]) for k in range(3)]
            second = theirs[f"state_2d/rms_rolling/rms/{name}"]
            pairs.append((state.rule.second_moment[name], second[..., 0]))
        for ours, expected in pairs:
            atol = 1e-6 * np.abs(expected).max()
            np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=5e-5, atol=atol)


@pytest.mark.parametrize("kind", golden_data.KINDS)
def test_the_converter_maps_the_layout_alike(kind, tmp_path):
    path = tmp_path / "theta.state"
    convert.to_official(THETA[kind], {}, path)
    written = layout.decode(path.read_bytes(), depth=3)
    published = PUBLISHED[kind]
    written = {name.replace(".", "/"): array for name, array in written.items()}
    published = PUBLISHED[kind]
    assert written.keys() == published.keys()
    for name, array in published.items():
        live = np.s_[..., :1] if name.endswith(("b2", "w2")) else ...  # the others are dead
        np.testing.assert_array_equal(written[name][live], array[live], err_msg=name)


def test_committed_copy_is_the_shared_one():
    if not golden_data.SHARED.is_dir():
        pytest.skip(f"the shared golden numbers are not here: {golden_data.SHARED}")
    theirs = golden_data.collect_celo2(golden_data.SHARED)
    assert GOLDEN.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(GOLDEN[name], array, strict=True, err_msg=name)
