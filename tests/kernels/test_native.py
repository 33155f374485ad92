"""The native kernel: equal to the JAX code on every shape, in batches and in threads; and its errors."""

import math
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo import _compile
from celo._definitions import CELO, CELO2
from celo._errors import CeloError
from celo._kernels import native, rule_network
from celo._kernels.statistics import init_stats
from celo.optimizers import Celo, UpdateRule, celo

FORMS = {"xla": rule_network, "native": native}
# Whether there is a compiler, not whether the kernel compiles: one that does not must fail here.
needs_compiler = pytest.mark.skipif(_compile.find_compiler() is None, reason="there is no C++ compiler here")

# One and two axes of every kind: shorter and longer than a vector, ties, factored axes in either order, last,
# apart and followed by others; and sizes that several threads share.
SHAPES = [
    *[
        (),
        (1,),
        (7,),
        (37,),
        (1000,),
        (1, 1),
        (5, 3),
        (3, 5),
        (64, 32),
        (32, 10),
        (16, 16),
        (2, 700),
        (700, 2),
    ],
    *[(3, 3, 4, 8), (7, 7, 3, 64), (16, 16, 3, 3), (12, 64, 5), (48, 4, 7), (2, 1, 3), (6, 40, 5, 30)],
    *[(400_000,), (700, 600), (2, 200_000), (90_000, 4)],
]
# Quick ones: the rules differ in what they compute, not in how they walk along shapes.
SOME_SHAPES = {
    CELO.name: [(), (37,), (16, 16), (3, 3, 4, 8), (700, 600)],
    CELO2.name: [(37,), (12, 64, 5)],
}


@pytest.fixture(params=[CELO, CELO2], ids=lambda rule: rule.name)
def rule(request):
    return request.param


@pytest.fixture
def weights(rule):
    """Weights of the rule without zeros."""
    return {
        name: normal(i, shape) / np.float32(math.sqrt(shape[0]))
        for i, (name, shape) in enumerate(rule.shapes.items())
    }


def normal(seed, shape):
    """Made by NumPy: JAX compiles a program for every shape."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@jax.jit
def fresh_stats(param):
    return init_stats(param, 3, 3)


def run(kernel, rule, theta, shape, steps=4, scale=1.0):
    """Updates and statistics after some steps with gradients of very different sizes."""
    if kernel == "native":
        native.load()

    @jax.jit
    def step(stats, grad, param):
        return FORMS[kernel].tensor_update(rule, theta, stats, grad, param, 0.0)

    param = scale * normal(1, shape)
    stats = fresh_stats(param)
    updates = []
    for t in range(steps):
        grad = 10.0 ** (t - 3) * normal(10 + t, shape)
        update, stats = step(stats, grad, param)
        updates.append(np.asarray(update))
    return updates, stats


def assert_close(ours, theirs, relative):
    """Equal to a fraction of the largest number of the array."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * max(1e-30, np.abs(theirs).max()))


@needs_compiler
@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        pytest.param(rule, shape, marks=[pytest.mark.slow] * (shape not in SOME_SHAPES[rule.name]))
        for rule in (CELO, CELO2)
        for shape in SHAPES
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_equals_the_jax_code(shape, rule, weights):
    ours, ours_stats = run("native", rule, weights, shape)
    theirs, theirs_stats = run("xla", rule, weights, shape)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 3e-5)
    for a, b in zip(jax.tree.leaves(ours_stats), jax.tree.leaves(theirs_stats), strict=True):
        assert a.shape == b.shape
        assert_close(a, b, 3e-5)


@needs_compiler
@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        *[(CELO, (7,)), (CELO, (3, 3, 4, 8)), (CELO2, (5, 3))],
        pytest.param(CELO, (5, 3), marks=pytest.mark.slow),
        pytest.param(CELO2, (7,), marks=pytest.mark.slow),
        pytest.param(CELO2, (3, 3, 4, 8), marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_bad_gradients_are_taken_alike(shape, rule, weights):
    native.load()
    param = jnp.asarray(np.ones(shape, np.float32))

    @jax.jit
    def both(grad):
        return [
            form.tensor_update(rule, weights, init_stats(param, 3, 3), grad, param, 0.0)
            for form in (rule_network, native)
        ]

    for bad in (np.nan, np.inf, -np.inf, 1e30, 0.0):
        grad = np.full(shape, 0.01, np.float32)
        grad[(0,) * len(shape)] = bad
        results = both(grad)
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            assert np.isfinite(a).all()
            assert_close(b, a, 3e-5)


@needs_compiler
def test_large_magnitudes_leave_the_exponential_in_range(noisy_theta):
    theta = dict(noisy_theta(UpdateRule())["update_rule"])
    for bias in (-3e4, 3e4, 6e4):
        theta["b2"] = jnp.array([1.0, bias])
        ours, _ = run("native", CELO, theta, (5, 3), steps=1)
        theirs, _ = run("xla", CELO, theta, (5, 3), steps=1)
        assert_close(ours[0], theirs[0], 3e-5)


@needs_compiler
@pytest.mark.parametrize(
    ("rule", "batch"),
    [(CELO, 40), (CELO2, 3), *(pytest.param(*p, marks=pytest.mark.slow) for p in [(CELO, 3), (CELO2, 40)])],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_batch_is_its_members(batch, rule, weights):
    """vmapped over parameters and θ, also where members are dealt to threads, and under two vmaps."""
    native.load()
    shape = (90, 50)
    theta = jax.tree.map(lambda x: x + np.float32(0.01) * normal(3, (batch, *x.shape)), weights)
    param, grad = (normal(seed, (batch, *shape)) for seed in (1, 2))
    stats = jax.jit(jax.vmap(fresh_stats))(param)

    @jax.jit
    def one(*arguments):
        return native.tensor_update(rule, *arguments, 0.0)

    together = jax.jit(jax.vmap(one))(theta, stats, grad, param)
    twice = jax.jit(jax.vmap(jax.vmap(one)))(*jax.tree.map(lambda x: x[None], (theta, stats, grad, param)))
    for i in (0, batch // 2, batch - 1):
        alone = one(*jax.tree.map(lambda x, i=i: x[i], (theta, stats, grad, param)))
        for a, b, c in zip(*map(jax.tree.leaves, (together, alone, twice)), strict=True):
            np.testing.assert_array_equal(a[i], b)
            np.testing.assert_array_equal(c[0][i], b)


@needs_compiler
@pytest.mark.parametrize("shape", [(400_000,), (700, 600)], ids=str)
def test_threads_do_not_change_the_bits(shape, rule, weights):
    first, _ = run("native", rule, weights, shape)
    for _ in range(5):
        again, _ = run("native", rule, weights, shape)
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)


@needs_compiler
def test_given_statistics_are_left_alone_unless_donated(noisy_theta):
    """The kernel writes in place; XLA must copy what the caller still holds."""
    native.load()
    theta = noisy_theta(UpdateRule())["update_rule"]
    stats = init_stats(jnp.zeros((4, 3)), 3, 3)
    before = jax.tree.map(np.array, stats)
    step = jax.jit(lambda s: native.tensor_update(CELO, theta, s, jnp.ones((4, 3)), jnp.ones((4, 3)), 0.0))
    jax.block_until_ready(step(stats))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, stats))


def test_unknown_kernels_are_named():
    with pytest.raises(CeloError, match="unknown kernel 'natve'; known, nearest first: native"):
        Celo("natve")


def run_without_compiler(script, cache):
    """A process that has no C++ compiler on its path, and an empty cache."""
    environment = {**os.environ, "PATH": "", "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_without_a_compiler_auto_is_xla_without_a_word(tmp_path):
    script = """
import celo, jax.numpy as jnp
from celo._kernels import native
tx = celo.celo(100)
params = {"w": jnp.ones((3, 2))}
tx.update(params, tx.init(params), params, value=jnp.ones(()))
print(native.resolve("auto"), end="")
"""
    done = run_without_compiler(script, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("xla", "", 0)


def test_without_a_compiler_native_by_name_is_an_error(tmp_path):
    done = run_without_compiler("import celo; celo.celo(100, kernel='native')", tmp_path)
    assert done.returncode != 0
    assert "needs a C++ compiler (c++, g++, clang++) and there is none; install one, or use kernel='xla'" in (
        done.stderr
    )


@needs_compiler
def test_auto_is_native_on_one_device_and_xla_where_arrays_may_be_split(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert native.resolve("auto") == "native"
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert native.resolve("auto") == "xla"
    assert native.resolve("native") == "native"


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("shape", [(5, 3)], ids=str)
def test_derivatives_are_those_of_the_jax_form(shape, rule, weights):
    """Forward and backward: whoever differentiates through training may have the native kernel, too."""
    param, grad = (normal(seed, shape) for seed in (1, 2))

    def length(form, theta, param, grad):
        update, _ = form.tensor_update(rule, theta, init_stats(param, 3, 3), grad, param, 0.01)
        return jnp.sum(jnp.square(1e3 * update))

    ours, theirs = (
        jax.grad(partial(length, form), argnums=(0, 1, 2))(weights, param, grad)
        for form in (native, rule_network)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(a, b, 1e-3)


@pytest.mark.slow
@needs_compiler
def test_whoever_differentiates_through_steps_needs_no_other_kernel(theta):
    """Forward and backward through two steps of Celo, matrices orthogonalised, by what "auto" is here."""
    theta = {**theta, "update_rule": {**theta["update_rule"], "log_matrix_step": jnp.zeros(())}}

    def loss(params):
        return jnp.sum(jnp.square(params["w"] @ params["v"] - 1))

    def after(kernel, rate, params):
        tx = celo(100, weights=theta, kernel=kernel)
        state = tx.init(params)
        for _ in range(2):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
        return loss(params)

    params = {"w": normal(1, (5, 4)), "v": jnp.ones(4)}
    rate = jnp.float32(1.0)
    ours, theirs = (
        (
            jax.grad(partial(after, kernel), argnums=1)(rate, params),
            jax.jvp(lambda r, kernel=kernel: after(kernel, r, params), (rate,), (jnp.ones_like(rate),)),
        )
        for kernel in ("native", "xla")
    )
    assert np.any(jax.tree.leaves(theirs)[0] != 0)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert_close(a, b, 1e-2)


def test_split_parameters_are_refused_by_name(tmp_path):
    script = """
import celo, celo.transforms, jax, jax.numpy as jnp, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
params = {"w": jax.device_put(jnp.ones((4, 6)), NamedSharding(mesh, PartitionSpec("x")))}
for kernel in ("auto", "native"):
    for tx in (celo.celo(100, kernel=kernel), celo.transforms.orthogonalize(kernel=kernel)):
        tx = optax.with_extra_args_support(tx)
        try:
            # Only traced: on busy cores XLA's collectives can wait for each other until it aborts.
            jax.jit(tx.update).trace(params, tx.init(params), params, value=jnp.ones(()))
            print(kernel)
        except celo.CeloError as error:
            print(error)
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    auto, by_name = done.stdout.splitlines()[:2], done.stdout.splitlines()[2:]
    assert auto == ["auto", "auto"]
    assert len(by_name) == 2
    for line in by_name:
        assert "takes whole tensors, and params['w'] is split over devices" in line


@needs_compiler
@pytest.mark.parametrize("wrong", range(13), ids=lambda i: f"argument{i}")
@pytest.mark.parametrize("change", [-1, 1], ids=["short", "long"])
def test_the_kernel_reads_no_buffer_of_another_size(wrong, change, rule):
    """The call itself, without what checks its arguments before."""
    native.load()
    number = sum(map(math.prod, rule.shapes.values())) + 1  # the weights, and the least size
    shapes = [(number,), (4, 3), (4, 3), *[(4, 3)] * 4, *[(1, 3)] * 3, *[(4, 1)] * 3]
    sizes = [math.prod(shape) for shape in shapes]
    sizes[wrong] += change
    results = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in (sizes[2], *sizes[3:])]
    call = jax.ffi.ffi_call(f"{rule.name}_rule", results)
    with pytest.raises(jax.errors.JaxRuntimeError, match="elements, expected"):
        call(*(jnp.ones(n) for n in sizes), dims=np.array([1, 4, 1, 3, 1]), row_along=False)
