"""Polar factors against singular value decompositions in float64, both forms of the kernel alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from celo import _compile
from celo._definitions import MUON, POLAR, POLYNOMIALS, SMALLEST
from celo._kernels import native, orthogonal
from celo._kernels.orthogonal import orthogonalized

needs_compiler = pytest.mark.skipif(_compile.find_compiler() is None, reason="no C++ compiler")
KERNELS = ("xla", pytest.param("native", marks=needs_compiler))
SHAPES = [(64, 32), (32, 64), (10, 32), (33, 17), (4, 4), (128, 512), (700, 130), (130, 700), (5, 2000)]
LOW, HIGH = 0.916, 1.084  # the polynomials' band


def factor(x, kernel):
    """The polar factor of one matrix or a batch of them, and the length that belongs to it."""
    if kernel == "native":
        native.load()
        (result,), (length,) = jax.jit(orthogonal._native)((jnp.asarray(x, jnp.float32),))
    else:
        result, length = jax.jit(orthogonal.polar_factor)(jnp.asarray(x, jnp.float32))
    return np.asarray(result, np.float64), np.asarray(length)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def with_singular_values(values, rows, columns, seed=0):
    left = np.linalg.qr(normal(rows, len(values), seed=seed))[0]
    right = np.linalg.qr(normal(columns, len(values), seed=seed + 1))[0]
    return left * values @ right.T


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay_and_values_become_one(shape, kernel):
    values = np.geomspace(0.05, 1.0, min(shape))
    x = with_singular_values(values, *shape)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    inner = u.T @ factor(x, kernel)[0] @ vt.T
    found = np.diag(inner)
    assert np.all((found > LOW) & (found < HIGH)), (found.min(), found.max())
    np.testing.assert_allclose(inner - np.diag(found), 0, atol=2e-3)
    assert s == pytest.approx(values[::-1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_directions_that_a_matrix_lacks_stay_missing(kernel):
    x = normal(64, 3) @ normal(3, 32, seed=1)
    values = np.linalg.svd(factor(x, kernel)[0], compute_uv=False)
    assert np.all(values[:3] > LOW)
    assert np.all(values[3:] < 1e-2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_badly_scaled_rows_keep_their_order_and_stay_bounded(kernel):
    x = normal(64, 32) * np.exp(5 * normal(64, 1, seed=1))
    values = np.linalg.svd(factor(x, kernel)[0], compute_uv=False)
    assert values[0] < HIGH
    assert values[0] > LOW


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1e-25, 1e-8, 1e8, 1e30])
def test_scale_does_not_matter(scale, kernel):
    x = normal(24, 16).astype(np.float32)
    one, many = factor(x, kernel), factor(x * np.float32(scale), kernel)
    np.testing.assert_allclose(many[0], one[0], atol=1e-4)
    assert many[1] == pytest.approx(one[1] * scale, rel=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [0.0, SMALLEST / 10])
def test_a_matrix_of_nothing_stays_as_it_is(size, kernel):
    x = np.full((6, 5), size, np.float32)
    result, length = factor(x, kernel)
    np.testing.assert_array_equal(result, x)
    assert length == 1


@pytest.mark.parametrize("iteration", [POLAR, MUON], ids=["polar", "muon"])
def test_a_matrix_of_nothing_has_the_derivatives_of_one_that_stays(iteration):
    slope = jax.jit(jax.grad(lambda x: jnp.sum(orthogonal.polar_factor(x, iteration)[0])))
    np.testing.assert_array_equal(slope(jnp.zeros((3, 2))), np.ones((3, 2)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_finite_in_is_finite_out_at_the_ends_of_float32(kernel):
    top = np.finfo(np.float32).max
    x = np.full((8, 8), top, np.float32)
    x[0] = -top / 2
    result, length = factor(x, kernel)
    assert np.all(np.isfinite(result))
    assert np.isfinite(length)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rotations_go_through(kernel):
    x = with_singular_values(np.geomspace(0.1, 1, 16), 40, 16)
    left, right = (np.linalg.qr(normal(n, n, seed=n))[0] for n in (40, 16))
    rotated = factor(left @ x @ right, kernel)[0]
    np.testing.assert_allclose(rotated, left @ factor(x, kernel)[0] @ right, atol=2e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_length_is_that_of_the_matrix(kernel):
    x = normal(20, 12)
    result, length = factor(x, kernel)
    assert np.linalg.norm(result) * length == pytest.approx(np.linalg.norm(x), rel=1e-5)


@needs_compiler
def test_both_kernels_agree_on_a_batch_under_vmap_with_several_tensors():
    native.load()
    tensors = [jnp.asarray(normal(3, *shape), jnp.float32) for shape in ((2, 8, 9), (40, 20), (4, 300))]
    ours = jax.vmap(lambda *x: orthogonal._native(x))(*tensors)
    theirs = zip(*map(orthogonal.polar_factor, tensors), strict=True)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(list(theirs)), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-4 * float(jnp.abs(b).max()))


@needs_compiler
def test_many_threads_give_what_one_gives():
    """A large matrix is split among threads; beside enough others the same one is not."""
    native.load()
    x = jnp.asarray(normal(600, 160), jnp.float32)
    alone = orthogonal._native((x,))[0][0]
    among = orthogonal._native((jnp.stack([x] * 8),))[0][0]
    for one in among:
        np.testing.assert_allclose(one, alone, atol=1e-4)


@pytest.mark.slow
@needs_compiler
def test_derivatives_of_the_native_form_are_those_of_the_jax_form():
    native.load()
    x = jnp.asarray(with_singular_values(np.geomspace(0.3, 1, 4), 6, 4), jnp.float32)
    ours = jax.grad(lambda x: jnp.sum(jnp.sin(orthogonal._native((x,))[0][0])))(x)
    theirs = jax.grad(lambda x: jnp.sum(jnp.sin(orthogonal.polar_factor(x)[0])))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_polynomials_are_best_one_after_another():
    """Each misses 1 equally far four times on its interval: no odd quintic does better there (Chebyshev)."""
    low, high = 0.005, 1.0
    for a, b, c in POLYNOMIALS:
        x = np.linspace(low, high, 200_001)
        error = a * x + b * x**3 + c * x**5 - 1
        ends = np.flatnonzero(np.diff(np.sign(np.diff(error))) != 0) + 1
        extremes = error[[0, *ends, -1]]
        assert len(extremes) == 4
        np.testing.assert_allclose(np.abs(extremes), np.abs(extremes[0]), rtol=2e-3)
        assert np.all(extremes[:-1] * extremes[1:] < 0)
        low, high = 1 - np.abs(extremes[0]), 1 + np.abs(extremes[0])
    assert (low, high) == pytest.approx((LOW, HIGH), abs=2e-3)


def newton_schulz(x):
    """Muon's iteration as it is usually written, in float64."""
    if x.shape[-2] > x.shape[-1]:
        return np.swapaxes(newton_schulz(np.swapaxes(x, -1, -2)), -1, -2)
    x = x / np.linalg.norm(x, axis=(-2, -1), keepdims=True)
    for _ in range(5):
        gram = x @ np.swapaxes(x, -1, -2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("kernel", KERNELS)
def test_muons_factors_are_its_iterations(kernel):
    """Tall and wide, thin and in stacks; one of zeros stays as it is.

    Squared, small singular values sink in float32's rounding: of 1e-2 and 1e-4 a direction is right to some
    per mille, and how many depends on the order of sums, which follows from the CPU's vectors.
    """
    if kernel == "native":
        native.load()
    tall = with_singular_values(np.geomspace(1e-2, 1.0, 17), 33, 17)
    steep = with_singular_values(np.geomspace(1e-4, 1.0, 17), 33, 17)
    matrices = {2: tall, 3: 1e6 * tall.T, 5: normal(3, 2, 8, 9), 7: normal(1, 6), 8: normal(5, 300), 9: steep}
    found = jax.jit(lambda x: orthogonal.factors(x, kernel, MUON))(
        {i: jnp.asarray(x, jnp.float32) for i, x in {**matrices, 1: np.zeros((3, 3))}.items()}
    )
    assert not found.pop(1).any()
    assert found.keys() == matrices.keys()
    for i, x in matrices.items():
        expected = newton_schulz(x)
        share = {2: 1e-3, 3: 1e-3, 9: 3e-3}.get(i, 2e-4)
        np.testing.assert_allclose(found[i], expected, atol=share * np.abs(expected).max(), err_msg=str(i))


def test_only_wanted_matrices_are_replaced():
    steps = [jnp.ones((8, 4)), jnp.ones(5), jnp.ones((8, 4)), jnp.ones((0, 4))]
    assert orthogonalized(steps, [True, True, False, True], [0] * 4, "xla").keys() == {0}


@pytest.mark.parametrize("spec", [("x", None), (None, "x")])
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_sharded_matrices_give_what_whole_ones_give(kind, spec):
    mesh = jax.make_mesh((jax.device_count(),), ("x",), (kind,))
    x = jnp.asarray(normal(16, 8), jnp.float32)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    run = jax.jit(lambda x: orthogonalized([x], [True], [0], "xla")[0])
    result = run(split)
    assert result.sharding.is_equivalent_to(split.sharding, 2) or kind is AxisType.Auto
    np.testing.assert_allclose(result, run(x), atol=1e-5)
