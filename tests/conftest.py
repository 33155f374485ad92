"""Strict promotion for every test (nothing may rest on a silent change of dtype), and shared fixtures."""

import functools
import gc
import itertools
import os
import sys
from importlib import metadata
from pathlib import Path

# Most of the tests' time is compilation: of thousands of programs, that run once and are kept from run to
# run, and without most optimizations, in half the time. Read by the processes that tests start, too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Else the folder's own path is part of every key, and a cache that is copied or moved is of no use.
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")

import jax
import pytest

from celo._jaxlib import avoid_faults

avoid_faults()
gc.set_threshold(50_000, 20, 20)  # tracing makes many objects that stay, and are looked through each time
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Dispatched asynchronously, a vmapped program on CPUs waited for ever, all of XLA's threads idle (twice in
# `test_suite_tasks`, with nothing cached; others report the same). `avoid_faults` may have mended that, too.
jax.config.update("jax_cpu_enable_async_dispatch", False)


FUSION_EMITTERS = "--xla_cpu_use_fusion_emitters"
CODE_PARTS = "--xla_cpu_parallel_codegen_split_count"


def pytest_configure(config):
    """Quick tests do without XLA's newer way to make loops, which takes nearly twice as long to compile.

    And with programs in one part each: in many, for as many threads, they take a third longer in all.
    """
    slow = "slow" in config.option.markexpr.replace("not slow", "")
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA ends a process that names a flag it does not have: hence the releases.
    known = metadata.version("jaxlib").startswith(("0.10.", "0.11."))
    if known and not slow and FUSION_EMITTERS not in flags:
        flags = f"{flags} {FUSION_EMITTERS}=false"
        if CODE_PARTS not in flags and metadata.version("jaxlib").startswith("0.10."):
            flags = f"{flags} {CODE_PARTS}=1"
        os.environ["XLA_FLAGS"] = flags.strip()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="module")
def users_compilation():
    """Programs optimized as users have them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def own_modules_are_forgotten(request):
    """Modules that a test imports from its `tmp_path`: another test's of the same name must be its own."""
    before = set(sys.modules)
    yield
    folder = request.node.funcargs.get("tmp_path")
    if folder is not None:
        for name in set(sys.modules) - before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(f"{folder}{os.sep}"):
                del sys.modules[name]


_tests = itertools.count(1)
MAX_MAPS = 20_000


@pytest.fixture(autouse=True)
def compiled_programs_stay_few():
    """JAX keeps programs while it lives, each in some memory maps; at 65,530 of them Linux refuses more, and
    LLVM ends the process.
    """
    yield
    maps = Path("/proc/self/maps")
    if next(_tests) % 25 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MAX_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def noisy_theta():
    """A function: learned optimizer -> θ of which no number is zero, so that all of it matters."""

    @functools.cache
    def make(optimizer, seed=1):
        @jax.jit
        def noisy(key):
            key_init, key_noise = jax.random.split(key)
            theta = optimizer.init_theta(key_init)
            leaves, treedef = jax.tree.flatten(theta)
            noise = 0.1 * jax.random.normal(key_noise, (sum(leaf.size for leaf in leaves),))
            ends = [sum(leaf.size for leaf in leaves[: i + 1]) for i in range(len(leaves))]
            parts = [
                leaf + noise[end - leaf.size : end].reshape(leaf.shape)
                for leaf, end in zip(leaves, ends, strict=True)
            ]
            return jax.tree.unflatten(treedef, parts)

        return noisy(jax.random.key(seed))

    return make


@pytest.fixture(scope="session")
def theta(noisy_theta):
    """θ of Celo without zeros."""
    from celo.optimizers import Celo

    return noisy_theta(Celo())
