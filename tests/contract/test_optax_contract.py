"""What every transformation of the library owes to optax. A new optimizer is covered by being registered.

`toy` registers one from outside the package: it is held to the same contract.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy  # noqa: F401 - registers an optimizer

from celo._errors import CeloError
from celo._kernels import native
from celo.optimizers import (
    OPTIMIZERS,
    Celo,
    Celo2,
    LearnedOptimizer,
    Velo,
    as_optax,
    celo,
    celo2,
    celo_rule,
    scale_by_celo2,
    scale_by_celo_rule,
    scale_by_celo_schedule,
    velo,
)
from celo.transforms import accumulate

NUM_STEPS = 20
SHAPES = [(), (3,), (1,), (2, 3), (1, 1), (3, 1), (2, 1, 3), (3, 3, 2, 4), (0,), (0, 3), (2, 0, 3)]


@dataclasses.dataclass(frozen=True)
class Row:
    """One transformation: `build(theta, num_steps)` with θ of `optimizer`."""

    optimizer: LearnedOptimizer
    build: Callable[..., optax.GradientTransformationExtraArgs]
    needs_value: bool = True
    needs_params: bool = True
    injected: Callable[..., optax.GradientTransformationExtraArgs] | None = None


def registered(optimizer):
    return Row(
        optimizer,
        build=lambda theta, num_steps: as_optax(optimizer, theta, num_steps),
        injected=lambda theta, num_steps: optax.inject_hyperparams(as_optax)(optimizer, theta, num_steps),
    )


def one_of_each_class():
    """The registered optimizers by name, those of several sizes in the one that is registered first."""
    found = {}
    for name, entry in OPTIMIZERS.items():
        optimizer = entry.optimizer()
        found.setdefault(type(optimizer), (name, optimizer))
    return dict(found.values())


KERNEL = native.resolve("auto")
OPTIONS = {"nonfinite": "shrink", "plateau": 0.5, "min_rms": 0.1, "kernel": KERNEL}
CELO2_OPTIONS = {"nonfinite": "shrink", "adam_multiplier": 10.0, "weight_decay": 0.1, "kernel": KERNEL}
VELO_OPTIONS = {"nonfinite": "shrink", "plateau": 0.5, "mixture_scale": 50.0, "kernel": KERNEL}

ROWS = {
    "celo": Row(
        Celo(),
        build=lambda theta, num_steps: celo(num_steps, weights=theta),
        injected=lambda theta, num_steps: optax.inject_hyperparams(celo)(num_steps, weights=theta),
    ),
    "scale_by_celo_rule": Row(
        Celo(),
        build=lambda theta, num_steps: scale_by_celo_rule(theta),
        injected=lambda theta, num_steps: optax.inject_hyperparams(scale_by_celo_rule)(theta),
        needs_value=False,
    ),
    "scale_by_celo_schedule": Row(
        Celo(),
        build=lambda theta, num_steps: scale_by_celo_schedule(num_steps, theta),
        injected=lambda theta, num_steps: optax.inject_hyperparams(scale_by_celo_schedule)(num_steps, theta),
        needs_params=False,
    ),
    "celo, all options": Row(
        Celo(),
        build=lambda theta, num_steps: celo(num_steps, weights=theta, **OPTIONS),
        injected=lambda theta, num_steps: optax.inject_hyperparams(celo)(num_steps, weights=theta, **OPTIONS),
    ),
    "celo_rule": Row(
        Celo(),
        build=lambda theta, num_steps: celo_rule(0.5, weights=theta, kernel=KERNEL),
        injected=lambda theta, num_steps: optax.inject_hyperparams(celo_rule)(
            0.5, weights=theta, kernel=KERNEL
        ),
        needs_value=False,
    ),
    "accumulate": Row(
        Celo(),
        build=lambda theta, num_steps: accumulate(celo(num_steps, weights=theta, kernel=KERNEL), every=1),
        injected=lambda theta, num_steps: optax.inject_hyperparams(
            lambda steps: accumulate(celo(steps, weights=theta, kernel=KERNEL), every=1)
        )(num_steps),
    ),
    "celo2": Row(
        Celo2(),
        build=lambda theta, num_steps: celo2(1e-3, weights=theta, **CELO2_OPTIONS),
        injected=lambda theta, num_steps: optax.inject_hyperparams(celo2)(
            1e-3, weights=theta, **CELO2_OPTIONS
        ),
        needs_value=False,
    ),
    "scale_by_celo2": Row(
        Celo2(),
        build=lambda theta, num_steps: scale_by_celo2(theta),
        injected=lambda theta, num_steps: optax.inject_hyperparams(scale_by_celo2)(theta),
        needs_value=False,
    ),
    "velo": Row(
        Velo(),
        build=lambda theta, num_steps: velo(num_steps, weights=theta, **VELO_OPTIONS),
        injected=lambda theta, num_steps: optax.inject_hyperparams(velo)(
            num_steps, weights=theta, **VELO_OPTIONS
        ),
    ),
    **{f"as_optax({name})": registered(optimizer) for name, optimizer in one_of_each_class().items()},
    **{
        f"{name}, decayed {phase.name}": registered(phase.decayed())
        for name, entry in OPTIMIZERS.items()
        for phase in entry.phases
        if phase.decayed is not None and name == "celo"
    },
    "xla": registered(Celo("xla")),
}


@pytest.fixture(scope="module", autouse=True)
def settings():
    """The users' promotion, as optax itself (MultiSteps) does not pass the strict one."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# What is checked without its options, without what is around it, under another name, or natively already.
SLOW = ("celo, all options", "velo", "celo2", "accumulate", "xla")
# What is a rule in another's place, or a chain with a part that is checked.
SLOW += ("celo_rule", "celo, decayed rule", "as_optax(celo_rule)", "as_optax(celo_adam)")
# What needs no schedule of its own, NN-Adam and the toy among them, stands for the others here.
SLOW += tuple(f"as_optax({name})" for name in ("celo", "celo2", "adafac_mlp", "rnn_mlp", "velo_s"))


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ROWS]
)
def row(request):
    return ROWS[request.param]


@pytest.fixture(scope="module")
def row_theta(row, noisy_theta):
    return noisy_theta(row.optimizer)


@pytest.fixture(scope="module")
def tx(row, row_theta):
    return row.build(row_theta, NUM_STEPS)


@pytest.fixture(scope="module")
def step(tx):
    """A jitted step of training, shared by tests; and a list with one entry for each tracing."""
    traces = []

    @jax.jit
    def step(params, state, loss):
        traces.append(None)
        updates, state = tx.update(GRADS, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    return step, traces


def normal(seed, shapes, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape).astype(dtype)) for name, shape in shapes.items()}


SMALL = {"w": (2, 3), "b": (3,)}
PARAMS = normal(0, SMALL)
GRADS = normal(1, SMALL)
LOSSES = (2.5, 2.0, 2.2, 1.0)


def run(tx, steps, params=PARAMS, grads=GRADS, losses=LOSSES):
    """The updates of each step, and the last state; no jit."""
    state, history = tx.init(params), []
    for loss in losses[:steps]:
        updates, state = tx.update(grads, state, params, value=loss)
        params = optax.apply_updates(params, updates)
        history.append(updates)
    return history, state


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def close(left, right, rtol=1e-5, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


def types(tree):
    """The structure, shapes, dtypes and weak types of a pytree of arrays or their shapes."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


def plain(state):
    """A state as a checkpoint gives it that is restored without a target: dicts and lists."""
    if isinstance(state, tuple) and hasattr(state, "_asdict"):
        return {name: plain(part) for name, part in state._asdict().items()}
    return [plain(part) for part in state] if isinstance(state, tuple) else state


# Calls


@pytest.mark.parametrize("name", [name for name in ROWS if "toy" not in name])
def test_a_state_restored_without_a_target_is_refused_with_the_remedy(name, noisy_theta):
    tx = ROWS[name].build(noisy_theta(ROWS[name].optimizer), NUM_STEPS)
    with pytest.raises(CeloError, match=r"got dict: a checkpoint that is restored without a target"):
        tx.update(GRADS, plain(tx.init(PARAMS)), PARAMS, value=1.0)


def test_updates_move_the_parameters(tx):
    """What the other tests compare is not zero everywhere, and changes from step to step."""
    history, _ = run(tx, 4)
    for leaf in jax.tree.leaves(history):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)
    for first, last in zip(jax.tree.leaves(history[0]), jax.tree.leaves(history[-1]), strict=True):
        assert np.any(first != last)


def test_unknown_extra_args_are_swallowed(tx):
    state = tx.init(PARAMS)
    plain = tx.update(GRADS, state, PARAMS, value=1.0)
    extra = tx.update(GRADS, state, PARAMS, value=1.0, grad=GRADS, value_fn=lambda p: 1.0, batch=None)
    equal(plain, extra)


def test_a_jitted_step_is_traced_once(tx, step):
    step, traces = step
    params, state = PARAMS, tx.init(PARAMS)
    for loss in LOSSES:
        params, state = step(params, state, jnp.float32(loss))
    step(params, jax.jit(tx.init)(PARAMS), jnp.float32(1.0))
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_scan_equals_a_loop(tx):
    @jax.jit
    def scan(params, losses):
        def step(carry, loss):
            params, state = carry
            updates, state = tx.update(GRADS, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), updates

        (_, state), history = jax.lax.scan(step, (params, tx.init(params)), losses)
        return history, state

    history, state = scan(PARAMS, jnp.asarray(LOSSES))
    loop_history, loop_state = run(tx, len(LOSSES))
    close(history, jax.tree.map(lambda *steps: jnp.stack(steps), *loop_history), rtol=1e-4, atol=1e-8)
    close(state, loop_state, rtol=1e-4, atol=1e-6)


def test_both_branches_of_a_cond_agree(tx):
    def step(flag, params, state):
        return jax.lax.cond(
            flag,
            lambda: tx.update(GRADS, state, params, value=1.0),
            lambda: (jax.tree.map(jnp.zeros_like, GRADS), state),
        )

    state = tx.init(PARAMS)
    updates, after = jax.eval_shape(step, True, PARAMS, state)
    assert types(updates) == types(PARAMS)
    assert types(after) == types(state)


# Types


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_types_never_change(tx, dtype):
    """Over shapes of 0 to 4 dimensions, empty ones and ones; nothing is computed here."""
    params = {f"p{i}": jnp.ones(shape, dtype) for i, shape in enumerate(SHAPES)}
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    state = tx.init(params)
    assert types(jax.eval_shape(tx.init, params)) == types(state)
    assert types(jax.eval_shape(tx.init, structs)) == types(state)
    assert types(tx.init(structs)) == types(state)
    assert types(jax.jit(tx.init).trace(params).out_info) == types(state)
    assert not any(weak for *_, weak in types(state)[1])
    assert {dtype for _, dtype, _ in types(state)[1]} <= {np.dtype("float32"), np.dtype("int32")}
    updates, after = jax.eval_shape(tx.update, params, state, params, value=jnp.bfloat16(1.0))
    assert types(updates) == types(params)
    assert types(after) == types(state)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters(tx, dtype):
    """The numbers are those of float32, rounded at the end only."""
    params, grads = normal(0, SMALL, dtype), normal(1, SMALL, dtype)
    in_float32 = jax.tree.map(lambda x: x.astype(jnp.float32), (params, grads))
    half_updates, half_state = tx.update(grads, tx.init(params), params, value=2.0)
    full_updates, full_state = tx.update(in_float32[1], tx.init(in_float32[0]), in_float32[0], value=2.0)
    equal(half_state, full_state)
    smallest = float(jnp.finfo(dtype).smallest_normal) / 100  # float16 updates may be subnormal
    close(
        jax.tree.map(lambda u: u.astype(jnp.float32), half_updates),
        full_updates,
        rtol=3 * float(jnp.finfo(dtype).eps),
        atol=smallest,
    )


@pytest.mark.parametrize(
    "value",
    [2, np.float64(2), np.array(2.0), np.float32(2), jnp.bfloat16(2), jnp.float16(2), jnp.int32(2)],
    ids=lambda value: f"{type(value).__name__}-{np.asarray(value).dtype}",
)
def test_value_of_any_real_dtype(tx, value):
    state = tx.init(PARAMS)
    equal(tx.update(GRADS, state, PARAMS, value=value), tx.update(GRADS, state, PARAMS, value=2.0))


@pytest.mark.parametrize("params", [{}, (), {"a": {}, "b": None}], ids=str)
def test_empty_tree(tx, params):
    updates, state = jax.jit(tx.update)(params, tx.init(params), params, value=jnp.float32(1.0))
    assert updates == params
    assert types(state) == types(tx.init(params))


def test_empty_tensors_leave_no_nan(tx):
    params = {"a": jnp.zeros((0,)), "b": jnp.zeros((0, 3)), "c": jnp.zeros((2, 0))}
    updates, state = tx.update(params, tx.init(params), params, value=1.0)
    assert types(updates) == types(params)
    _, state = tx.update(params, state, params, value=1.0)
    # The smallest losses start at infinity and are replaced by the first loss.
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


# Memory


def test_initial_state_shares_no_memory(tx, row_theta):
    """A donated buffer must belong to the state alone: not to θ, not to a second leaf."""
    mine = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tx.init(PARAMS)) if leaf.size]
    others = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((row_theta, PARAMS)) if leaf.size}
    assert len(set(mine)) == len(mine)
    assert not set(mine) & others


def test_state_and_parameters_can_be_donated(tx, step):
    step, _ = step
    donating = jax.jit(step, donate_argnums=(0, 1))
    loss = jnp.float32(2.0)
    kept = step(*step(PARAMS, tx.init(PARAMS), loss), loss)
    for _ in range(2):  # the second run finds θ and the horizon unharmed
        params = jax.tree.map(jnp.copy, PARAMS)
        state = tx.init(params)
        donated = donating(*donating(params, state, loss), loss)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))
        close(donated, kept)


# Combinations


def test_chain(tx):
    chained = optax.chain(optax.scale(0.5), tx, optax.scale(3.0))
    halved = jax.tree.map(lambda g: 0.5 * g, GRADS)
    state = tx.init(PARAMS)
    expected, _ = tx.update(halved, state, PARAMS, value=2.0)
    updates, _ = chained.update(GRADS, chained.init(PARAMS), PARAMS, value=2.0)
    equal(updates, jax.tree.map(lambda u: 3.0 * u, expected))


def test_named_chain(tx):
    named = optax.named_chain(("learned", tx), ("scale", optax.scale(3.0)))
    updates, state = named.update(GRADS, named.init(PARAMS), PARAMS, value=2.0)
    expected, expected_state = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=2.0)
    equal(updates, jax.tree.map(lambda u: 3.0 * u, expected))
    equal(state["learned"], expected_state)


def test_masked(tx):
    """`masked` shows MaskedNode in place of what it hides."""
    masked = optax.masked(tx, {"w": True, "b": False})
    updates, state = masked.update(GRADS, masked.init(PARAMS), PARAMS, value=2.0)
    updates, state = masked.update(GRADS, state, PARAMS, value=1.0)
    only = {"w": PARAMS["w"]}
    alone, alone_state = tx.update({"w": GRADS["w"]}, tx.init(only), only, value=2.0)
    alone, _ = tx.update({"w": GRADS["w"]}, alone_state, only, value=1.0)
    equal(updates, {"w": alone["w"], "b": GRADS["b"]})


def test_partition(tx):
    parts = optax.partition({"learned": tx, "sgd": optax.sgd(0.1)}, {"w": "learned", "b": "sgd"})
    updates, _ = parts.update(GRADS, parts.init(PARAMS), PARAMS, value=2.0)
    only = {"w": PARAMS["w"]}
    alone, _ = tx.update({"w": GRADS["w"]}, tx.init(only), only, value=2.0)
    equal(updates, {"w": alone["w"], "b": -0.1 * GRADS["b"]})


def test_inject_hyperparams(row, row_theta, tx):
    """The horizon comes as a traced number there."""
    injected = row.injected(row_theta, NUM_STEPS)
    expected, expected_state = run(tx, 3)
    updates, state = run(injected, 3)
    close(updates, expected)
    close(jax.tree.leaves(state.inner_state), jax.tree.leaves(expected_state))
    after = jax.eval_shape(injected.update, GRADS, injected.init(PARAMS), PARAMS, value=1.0)[1]
    assert types(after.inner_state)[1] == types(expected_state)[1]


def test_a_whole_model_is_stepped_as_its_arrays_are(tx):
    """Functions among the parameters, as an Equinox model has; None in the gradients and in `init`."""
    state = tx.init({**PARAMS, "activation": None})
    updates, _ = tx.update({**GRADS, "activation": None}, state, {**PARAMS, "activation": len}, value=2.0)
    assert updates.pop("activation") is None
    equal(updates, tx.update(GRADS, tx.init(PARAMS), PARAMS, value=2.0)[0])


def test_numbers_and_arrays_of_numpy_are_leaves(tx):
    numbers, arrays = {"a": 0.5, "b": np.ones(3, np.float32)}, {"a": jnp.float32(0.5), "b": jnp.ones(3)}
    updates, _ = tx.update(numbers, tx.init(numbers), numbers, value=2.0)
    equal(updates, tx.update(arrays, tx.init(arrays), arrays, value=2.0)[0])


def test_apply_if_finite(tx):
    guarded = optax.apply_if_finite(tx, max_consecutive_errors=3)
    updates, state = guarded.update(GRADS, guarded.init(PARAMS), PARAMS, value=2.0)
    expected, expected_state = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=2.0)
    close(updates, expected, rtol=1e-4, atol=1e-9)
    close(state.inner_state, expected_state, rtol=1e-4, atol=1e-6)


def test_multi_steps_outermost(tx):
    """Nothing moves in between; the mean gradient and the last loss count."""
    accumulating = optax.MultiSteps(tx, every_k_schedule=2)
    state = accumulating.init(PARAMS)
    update = jax.jit(accumulating.update)
    updates, state = update(GRADS, state, PARAMS, value=2.0)
    equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    other = normal(2, SMALL)
    updates, state = update(other, state, PARAMS, value=1.0)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, GRADS, other)
    expected, expected_state = tx.update(mean, tx.init(PARAMS), PARAMS, value=1.0)
    close(updates, expected, rtol=1e-4, atol=1e-9)
    close(state.inner_opt_state, expected_state, rtol=1e-4, atol=1e-6)


def test_multi_steps_that_drops_the_loss_is_refused(row, tx):
    if not row.needs_value:
        pytest.skip("it reads no loss")
    inside = optax.chain(optax.MultiSteps(tx, every_k_schedule=2).gradient_transformation())
    with pytest.raises(CeloError, match="MultiSteps drops `value`: keep it outermost"):
        inside.update(GRADS, inside.init(PARAMS), PARAMS, value=1.0)


def test_map_params(tx):
    """Leaves shaped like parameters are told from the others."""
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda leaf: "param", state, transform_non_params=lambda leaf: "other")
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    wanted = len(jax.tree.leaves(state)) - len(jax.tree.leaves(tx.init({})))
    marks = jax.tree.leaves(marked)
    assert marks.count("param") == wanted
    assert marks.count("other") == len(marks) - wanted


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def test_vmap_over_theta_and_parameters_equals_loops(row, noisy_theta):
    thetas = [noisy_theta(row.optimizer, seed) for seed in range(2)]
    problems = [(normal(seed, SMALL), normal(seed + 10, SMALL), jnp.float32(seed + 1)) for seed in range(3)]

    @jax.jit
    def update(theta, params, grads, loss):
        tx = row.build(theta, NUM_STEPS)
        return tx.update(grads, tx.init(params), params, value=loss)

    over_problems = jax.vmap(update, in_axes=(None, 0, 0, 0))
    together = jax.jit(jax.vmap(over_problems, in_axes=(0, None, None, None)))(
        stack(thetas), *stack(problems)
    )
    alone = [stack([update(theta, *problem) for problem in problems]) for theta in thetas]
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, alone), strict=True))
    close(together, stack(alone), rtol=1e-4, atol=1e-6)


# Errors


def test_missing_value(row, tx):
    state = tx.init(PARAMS)
    if row.needs_value:
        with pytest.raises(CeloError, match=r"update\(grads, state, params, value=loss\)"):
            tx.update(GRADS, state, PARAMS)
    else:
        equal(tx.update(GRADS, state, PARAMS), tx.update(GRADS, state, PARAMS, value=3.0))


@pytest.mark.parametrize("jitted", [False, True])
def test_value_that_is_no_scalar(row, tx, jitted):
    if not row.needs_value:
        pytest.skip("it reads no loss")
    update = jax.jit(tx.update) if jitted else tx.update
    with pytest.raises(CeloError, match=r"shape \(3,\); pass its mean"):
        update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.ones(3))


def test_missing_params(row, tx):
    state = tx.init(PARAMS)
    if row.needs_params:
        with pytest.raises(CeloError, match=r"params=None; call update\(grads, state, params, value=loss\)"):
            tx.update(GRADS, state, value=1.0)
    else:
        equal(tx.update(GRADS, state, value=1.0), tx.update(GRADS, state, PARAMS, value=1.0))
