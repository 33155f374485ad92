"""Celo and its rule against what the published implementation computed; see README.md."""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but

from celo import _compile, convert
from celo._published import layout
from celo.optimizers import Celo, CeloAdam, UpdateRule, as_optax, celo, celo_adam, scale_by_celo_rule
from celo.optimizers import _schedule as scheduler

pytestmark = pytest.mark.usefixtures("users_compilation")

TOLERANCE = 1e-3  # of a tensor's total movement
STILL = 1e-7  # absolute, for a tensor that does not move

GOLDEN = golden_data.load()
PUBLISHED = {  # θ of each optimizer and kind, in the published layout
    (optimizer, kind): golden_data.below(GOLDEN, f"theta/{stem}__{kind}")
    for optimizer, stem in golden_data.OPTIMIZERS.items()
    for kind in golden_data.KINDS
}
THETA = {of: golden_data.to_theta(official) for of, official in PUBLISHED.items()}
# A kernel that does not compile must fail.
NATIVE = _compile.find_compiler() is not None and jax.default_backend() == "cpu"
# Both ways to get each optimizer: the one meta-training uses, and the one users do.
FORMS = {
    "celo_phase1": {
        "as_optax": lambda theta, num_steps: as_optax(UpdateRule("xla"), theta, num_steps),
        "chain": lambda theta, num_steps: scale_by_celo_rule(theta, kernel="xla"),
        **({"native": lambda theta, num_steps: scale_by_celo_rule(theta, kernel="native")} if NATIVE else {}),
    },
    "celo": {
        "as_optax": lambda theta, num_steps: as_optax(Celo("xla"), theta, num_steps),
        "chain": lambda theta, num_steps: celo(num_steps, weights=theta, kernel="xla"),
        **(
            {"native": lambda theta, num_steps: celo(num_steps, weights=theta, kernel="native")}
            if NATIVE
            else {}
        ),
    },
    "celo_adam": {
        "as_optax": lambda theta, num_steps: as_optax(CeloAdam(), theta, num_steps),
        "chain": lambda theta, num_steps: celo_adam(num_steps, weights=theta),
    },
}
RUNS = [(name, form) for name in golden_data.TRAJECTORIES for form in FORMS[name.split("__")[0]]]


def nest(flat):
    """{"block/conv/b": x} -> {"block": {"conv": {"b": x}}}, so that names keep their order in the leaves."""
    tree = {}
    for name, array in flat.items():
        *groups, leaf = name.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = jnp.asarray(array)
    return tree


def flat(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


@functools.cache
def compiled(optimizer, form):
    """The 30 steps in one jitted scan; θ and the horizon are arguments, so that it compiles once."""

    @jax.jit
    def run(theta, num_steps, params, grads, losses):
        tx = FORMS[optimizer][form](theta, num_steps)

        def step(carry, now):
            params, state = carry
            grad, loss = now
            updates, state = tx.update(grad, state, params, value=loss)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        (_, state), path = jax.lax.scan(step, (params, tx.init(params)), (grads, losses))
        return state, path

    return run


@functools.cache
def run(name, form):
    """(final state, {tensor: [31, …]}) of our optimizer on the golden problem."""
    optimizer, kind, case = name.split("__")
    params = nest(golden_data.below(GOLDEN, "problem/params0"))
    num_steps, prefix = golden_data.CASES[case]
    grads = nest(golden_data.below(GOLDEN, f"problem/{prefix}grads"))
    losses = jnp.asarray(GOLDEN[f"problem/{prefix}losses"])
    horizon = jnp.asarray(num_steps, jnp.int32)
    state, path = compiled(optimizer, form)(THETA[optimizer, kind], horizon, params, grads, losses)
    first, path = flat(params), flat(path)
    return state, {tensor: np.concatenate([first[tensor][None], path[tensor]]) for tensor in path}


def deviations(name, form):
    """For each tensor (largest difference over all 31 points, total movement)."""
    _, ours = run(name, form)
    theirs = golden_data.below(GOLDEN, f"traj/{name}/params")
    assert ours.keys() == theirs.keys()
    return {
        tensor: (
            float(np.abs(ours[tensor] - theirs[tensor]).max()),
            float(np.abs(theirs[tensor][-1] - theirs[tensor][0]).max()),
        )
        for tensor in theirs
    }


def is_quick(name, form):
    """That `as_optax` takes the steps of `chain` is tested in `tests/optimizers/test_registry.py`.

    Of the rule alone one form is enough: it is in Celo, too.
    """
    forms = list(FORMS[name.split("__")[0]])
    return form == forms[-1] or (form == "chain" and not name.startswith("celo_phase1"))


@pytest.mark.parametrize(
    ("name", "form"),
    [pytest.param(*run, marks=[pytest.mark.slow] * (not is_quick(*run))) for run in RUNS],
)
def test_all_31_points_of_every_tensor_are_reproduced(name, form):
    _, ours = run(name, form)
    for tensor, theirs in golden_data.below(GOLDEN, f"traj/{name}/params").items():
        assert ours[tensor].shape == theirs.shape
        assert ours[tensor].dtype == theirs.dtype == np.float32
        assert len(theirs) == 31
        allowed = max(TOLERANCE * np.abs(theirs[-1] - theirs[0]).max(), STILL)
        np.testing.assert_allclose(ours[tensor], theirs, rtol=0, atol=allowed, err_msg=tensor)


@pytest.mark.slow
def test_table_of_deviations():
    """`pytest tests/golden -s -k table -m slow` prints it."""
    rows, worst = [], 0.0
    for name, form in RUNS:
        pairs = deviations(name, form)
        moved = {tensor: d / m for tensor, (d, m) in pairs.items() if m > 0}
        assert moved.keys() == pairs.keys(), "a golden tensor does not move: its row needs an absolute number"
        tensor = max(moved, key=lambda t: moved[t])
        worst = max(worst, moved[tensor])
        rows.append(f"{name:<28}{form:<10}{moved[tensor]:>10.1e}   {tensor}")
    print(f"\nlargest |Δparams| over 31 points / total movement of the tensor; allowed {TOLERANCE:.0e}")
    print("\n".join(rows))
    assert worst <= TOLERANCE


def final_state(name):
    return golden_data.below(GOLDEN, f"traj/{name}/final_state")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in golden_data.TRAJECTORIES if not n.startswith("celo_adam")])
def test_final_accumulators(name):
    state, _ = run(name, "as_optax")
    rule = state if name.startswith("celo_phase1") else state.rule
    theirs = final_state(name)
    params = golden_data.below(GOLDEN, "problem/params0")
    for tensor, param in params.items():
        shape = param.shape
        factored = ("v_row", "v_col") if param.ndim >= 2 else ("v_diag",)
        expected = {
            "momenta": [theirs[f"mom_rolling/m/{tensor}"][..., k] for k in range(3)],
            "second_moment": [theirs[f"rms_rolling/rms/{tensor}"][..., 0]],
            **{
                field: [theirs[f"fac_rolling/{key}/{tensor}"][..., k] for k in range(3)]
                for field, key in zip(("row", "col"), factored, strict=False)
            },
        }
        for field, arrays in expected.items():
            trees = getattr(rule, field)
            trees = trees if isinstance(trees, tuple) else (trees,)
            for tree, array in zip(trees, arrays, strict=True):
                ours = flat(tree)[tensor]
                if field in ("momenta", "second_moment") or param.ndim < 2:
                    assert ours.shape == shape
                np.testing.assert_allclose(
                    ours.reshape(array.shape), array, rtol=5e-5, atol=1e-6 * np.abs(array).max()
                )


@pytest.mark.parametrize("name", [n for n in golden_data.TRAJECTORIES if n.startswith("celo_adam")])
def test_final_moments_of_adam(name):
    state, _ = run(name, "as_optax")
    theirs = final_state(name)
    for tensor in golden_data.below(GOLDEN, "problem/params0"):
        for field, key in (("first", "mom_rolling/m"), ("second", "rms_rolling/rms")):
            array = theirs[f"{key}/{tensor}"]
            ours = flat(getattr(state.moments, field))[tensor].reshape(array.shape)
            np.testing.assert_allclose(ours, array, rtol=5e-5, atol=1e-6 * np.abs(array).max())


@pytest.mark.parametrize(
    "name",  # Celo and CeloAdam have one scheduler
    [
        pytest.param(n, marks=[pytest.mark.slow] * n.startswith("celo__"))
        for n in golden_data.TRAJECTORIES
        if n.startswith(("celo__", "celo_adam__"))
    ],
)
def test_final_state_of_the_scheduler(name):
    state, _ = run(name, "as_optax")
    ours, theirs = state.schedule, final_state(name)
    assert int(ours.step) == int(theirs["iteration"]) == 30
    assert int(ours.num_steps) == int(theirs["num_steps"])
    assert int(ours.losses.step) == int(theirs["loss_buffer/iteration"])
    np.testing.assert_allclose(ours.losses.means, theirs["loss_buffer/means"], rtol=1e-4)
    np.testing.assert_allclose(ours.losses.minima, theirs["loss_buffer/running_min"], rtol=1e-4)
    for row in range(5):  # theirs has one equal row for each tensor
        np.testing.assert_allclose(ours.hidden, theirs["lstm_hidden_state/hidden"][row], atol=1e-3)
        np.testing.assert_allclose(ours.cell, theirs["lstm_hidden_state/cell"][row], atol=1e-3)


@jax.jit
def schedule(theta, num_steps, losses):
    """What the scheduler sees and says at each of the given losses."""

    def step(state, loss):
        history, means = scheduler.observe(state.losses, loss, state.num_steps)
        time = scheduler.time_features(state.step, state.num_steps)
        seen = jnp.concatenate([time, scheduler.loss_features(means, history)])
        said, state = scheduler.advance(theta, state, loss)
        return state, (seen, said)

    return jax.lax.scan(step, scheduler.init(theta, num_steps), losses)[1]


@pytest.mark.parametrize("name", golden_data.TRAJECTORIES)
def test_scheduler_sees_and_says_the_same(name):
    """Also along the rule's trajectories: there the published scheduler runs without being used."""
    optimizer, kind, case = name.split("__")
    theirs = golden_data.below(GOLDEN, f"traj/{name}/sched")
    num_steps, prefix = golden_data.CASES[case]
    losses = jnp.asarray(GOLDEN[f"problem/{prefix}losses"])
    seen, said = schedule(THETA[optimizer, kind]["scheduler"], jnp.asarray(num_steps, jnp.int32), losses)
    np.testing.assert_allclose(seen[:, :9], theirs["features"][:, :9], atol=1e-5)
    # Early on a feature is a quotient of differences of nearly equal averages: float32 noise on either side.
    np.testing.assert_allclose(seen[:, 9:], theirs["features"][:, 9:], atol=5e-3)
    if optimizer != "celo_phase1":
        for tensor in range(5):
            np.testing.assert_allclose(said, theirs["lr_mult"][:, tensor], rtol=1e-3)


@pytest.mark.parametrize("form", slow_but(list(FORMS["celo"])[-1:], FORMS["celo"]))
def test_horizon_does_not_reach_the_rule(form):
    _, short = run("celo_phase1__noisy__n30", form)
    _, long = run("celo_phase1__noisy__n1000", form)
    for tensor in short:
        np.testing.assert_array_equal(short[tensor], long[tensor])
    _, with_schedule = run("celo__noisy__n30", form)
    assert any(np.any(with_schedule[tensor] != short[tensor]) for tensor in short)


@pytest.mark.parametrize("optimizer", ["celo", "celo_adam"])
@pytest.mark.parametrize("kind", golden_data.KINDS)
def test_the_converter_maps_the_layout_alike(kind, optimizer, tmp_path):
    path = tmp_path / "theta.state"
    convert.to_official(THETA[optimizer, kind], {}, path)
    written = layout.decode(path.read_bytes(), depth=3)
    written = {name.replace(".", "/"): array for name, array in written.items()}
    published = PUBLISHED[optimizer, kind]
    assert written.keys() == published.keys()
    for name, array in published.items():
        if name.startswith(("rnn_params/linear/", "rnn_params/rnn_to_controls/")):
            continue  # dead weights
        live = np.s_[..., :2] if name.endswith(("b2", "w2")) else ...  # the third output is dead
        np.testing.assert_array_equal(written[name][live], array[live], err_msg=name)


def test_committed_copy_is_the_shared_one():
    if not golden_data.SHARED.is_dir():
        pytest.skip(f"the shared golden numbers are not here: {golden_data.SHARED}")
    theirs = golden_data.collect(golden_data.SHARED)
    assert GOLDEN.keys() == theirs.keys()
    for name, array in theirs.items():
        assert GOLDEN[name].dtype == array.dtype
        np.testing.assert_array_equal(GOLDEN[name], array, err_msg=name)
    for name in golden_data.COPIED_AS_THEY_ARE:
        copy, original = golden_data.HERE / name, golden_data.SHARED / name
        assert copy.read_bytes() == original.read_bytes()
