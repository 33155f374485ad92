"""AdaFac-MLP, RNN-MLP and NN-Adam against recordings of the published code, and under stress a reading.

Recordings are of gradients as a training has them. What becomes of spikes, of gradients of zero and of odd
losses is compared with `mlps_reading`, which the recordings hold to the published code.
"""

import functools

import golden_data
import jax
import jax.numpy as jnp
import mlps_data
import mlps_reading
import numpy as np
import optax
import pytest
from marks import slow_are_run

from celo.optimizers import RNNMLP, AdafacMLP, NNAdam, adafac_mlp, as_optax, nn_adam, rnn_mlp

TOLERANCE = 1e-3  # of a tensor's total movement
ROUNDING = 5e-7  # of parameters of about 1, over 30 steps

PROBLEM = golden_data.below(golden_data.load(), "problem")
GOLDEN = mlps_data.load()
READINGS = {
    "adafac_mlp": mlps_reading.adafac_mlp,
    "rnn_mlp": mlps_reading.rnn_mlp,
    "nnadam": mlps_reading.nn_adam,
}
# Both ways to get each optimizer: the one meta-training uses, and the one users do.
FORMS = {
    "adafac_mlp": {
        "as_optax": lambda theta: as_optax(AdafacMLP(), theta, 30),
        "users": lambda theta: adafac_mlp(weights=theta),
    },
    "rnn_mlp": {
        "as_optax": lambda theta: as_optax(RNNMLP(), theta, 1000),
        "users": lambda theta: rnn_mlp(weights=theta),
    },
    "nnadam": {
        "as_optax": lambda theta: as_optax(NNAdam(), theta, 30),
        "users": lambda theta: nn_adam(weights=theta),
    },
}
# Slow: that `as_optax` takes the steps of `users` is tested in `tests/optimizers/test_registry.py`.
RUNS = [
    pytest.param(stem, form, marks=[pytest.mark.slow] * (form == "as_optax"))
    for stem in FORMS
    for form in FORMS[stem]
]


@pytest.fixture(scope="module", autouse=True)
def slow_programs_are_as_users_have_them(request):
    """The quick tests do without, which take three times as long so."""
    if slow_are_run(request):
        request.getfixturevalue("users_compilation")


@functools.cache
def theta_of(stem, kind):
    return mlps_data.to_theta(stem, mlps_data.published(stem, kind))


@functools.cache
def compiled(stem, form):
    @jax.jit
    def run(theta, params, grads, losses):
        tx = FORMS[stem][form](theta)

        def step(carry, now):
            params, state = carry
            grad, loss = now
            updates, state = tx.update(grad, state, params, value=loss)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        (_, state), path = jax.lax.scan(step, (params, tx.init(params)), (grads, losses))
        return state, path

    return run


def problem(prefix=""):
    """(parameters, gradients, losses), by name."""
    params, grads = (golden_data.below(PROBLEM, name) for name in ("params0", f"{prefix}grads"))
    return params, grads, PROBLEM[f"{prefix}losses"]


def trained(stem, form, theta, params, grads, losses):
    """(last state, {tensor: [steps + 1, …]})."""
    arrays = jax.tree.map(jnp.asarray, (theta, params, grads, losses))
    state, path = compiled(stem, form)(*arrays)
    return state, {name: np.concatenate([params[name][None], path[name]]) for name in params}


def assert_close(ours, theirs):
    for name, path in theirs.items():
        moved = np.abs(path[-1] - path[0]).max()
        assert moved > 0
        np.testing.assert_allclose(
            ours[name], path, rtol=0, atol=max(TOLERANCE * moved, ROUNDING), err_msg=name
        )


@pytest.mark.parametrize("kind", mlps_data.KINDS)
@pytest.mark.parametrize(("stem", "form"), RUNS)
def test_all_31_points_of_every_tensor_are_reproduced(stem, form, kind):
    _, ours = trained(stem, form, theta_of(stem, kind), *problem())
    theirs = golden_data.below(GOLDEN, f"traj/{stem}__{kind}__n30/params")
    assert ours.keys() == theirs.keys()
    assert_close(ours, theirs)


@pytest.mark.parametrize("kind", mlps_data.KINDS)
@pytest.mark.parametrize("stem", READINGS)
def test_the_reading_is_what_was_published(stem, kind):
    params, grads, losses = problem()
    theirs = golden_data.below(GOLDEN, f"traj/{stem}__{kind}__n30/params")
    assert_close(READINGS[stem](theta_of(stem, kind), params, grads, losses), theirs)


def last_state(stem, kind):
    return golden_data.below(GOLDEN, f"traj/{stem}__{kind}__n30/final_state")


def close(ours, theirs, rtol=1e-4):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", mlps_data.KINDS)
def test_last_state_of_adafac_mlp(kind):
    state, _ = trained("adafac_mlp", "as_optax", theta_of("adafac_mlp", kind), *problem())
    theirs = last_state("adafac_mlp", kind)
    assert int(state.step) == int(theirs["iteration"]) == 30
    for name, param in problem()[0].items():
        close(state.statistics.second_moment[name], theirs[f"rms_rolling/rms/{name}"][..., 0])
        factored = ("v_row", "v_col") if param.ndim >= 2 else ("v_diag",)
        for k in range(3):
            close(state.statistics.momenta[k][name], theirs[f"mom_rolling/m/{name}"][..., k])
            for trees, key in zip((state.statistics.row, state.statistics.col), factored, strict=False):
                array = theirs[f"fac_rolling_features/{key}/{name}"][..., k]
                close(trees[k][name].reshape(array.shape), array)


@pytest.mark.slow
@pytest.mark.parametrize("kind", mlps_data.KINDS)
def test_last_state_of_rnn_mlp(kind):
    state, _ = trained("rnn_mlp", "as_optax", theta_of("rnn_mlp", kind), *problem())
    theirs = last_state("rnn_mlp", kind)
    assert int(state.step) == int(theirs["iteration"]) == 30
    for row, name in enumerate(problem()[0]):
        close(state.memory.from_network[row], theirs[f"from_mlp/{name}"], 1e-3)
        for k in range(5):
            # 1 - 0.9999 is 1.7e-4 off in the published float32.
            close(state.moments.first[k][name], theirs[f"mom_rolling/m/{name}"][..., k], 3e-4)
            close(state.moments.second[k][name], theirs[f"rms_rolling/rms/{name}"][..., k], 3e-4)
    close(state.memory.hidden, theirs["lstm_hidden_state/hidden"], 1e-3)
    close(state.memory.cell, theirs["lstm_hidden_state/cell"], 1e-3)
    close(state.memory.across, theirs["from_lstm"], 1e-3)
    close(state.memory.gradient_size, theirs["dynamic_clip/value"])
    assert int(state.memory.seen) + 1 == int(theirs["dynamic_clip/iteration"])
    close(state.losses.mean, theirs["train_loss_accum/mean"])
    close(state.losses.variance, theirs["train_loss_accum/var"])
    assert int(state.losses.seen) == int(theirs["train_loss_accum/updates"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", mlps_data.KINDS)
def test_last_state_of_nn_adam(kind):
    state, _ = trained("nnadam", "as_optax", theta_of("nnadam", kind), *problem())
    theirs = last_state("nnadam", kind)
    close(state.hidden, theirs["lstm_hidden_state/hidden"], 1e-3)
    close(state.cell, theirs["lstm_hidden_state/cell"], 1e-3)
    for row, name in enumerate(problem()[0]):
        close(state.moments.first[name], theirs[f"rolling_features/m/{name}"])
        close(state.moments.second[name], theirs[f"rolling_features/rms/{name}"])
        for column, hyperparameter in enumerate(("lr", "beta1", "beta2", "epsilon")):
            close(state.hyperparameters[row, column], theirs[f"per_layer_{hyperparameter}/{name}"])


# Stress


def silent(params, grads, losses):
    """No gradient at all for the first steps, none for one tensor ever, and none at the end."""
    grads = {name: g.copy() for name, g in grads.items()}
    for g in grads.values():
        g[:4] = 0
        g[25:] = 0
    grads["head/scale"][:] = 0
    return params, grads, losses


def enormous(params, grads, losses):
    """Far beyond what Celo clips gradients to, in one step, and tiny ones in the others.

    They are not centred: of a mean that is all but zero float32 does not know the sign, which is an input.
    """
    grads = {name: 1e-6 * g for name, g in grads.items()}
    for g in grads.values():
        g[10] = 1e14 * (g[10] + np.abs(g[10]).max())
    return params, grads, losses


def odd_losses(params, grads, losses):
    """Negative, zero, constant, and 1e6 in between."""
    losses = losses - 1.5
    losses[0], losses[5], losses[10:14], losses[20] = 0.0, -400.0, 2.0, 1e6
    return params, grads, losses


def other_shapes(params, grads, losses):
    """A tensor of five axes, of equal axes, a single number in one axis, and one of zeros."""
    rng = np.random.default_rng(0)
    shapes = {
        "five": (2, 3, 1, 2, 2),
        "equal": (3, 3, 3),
        "one": (1,),
        "column": (4, 1),
        "none": (),
        "zeros": (5,),
    }
    params = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    params["zeros"][:] = 0
    grads = {name: 0.1 * rng.normal(size=(30, *shape)).astype("f4") for name, shape in shapes.items()}
    return params, grads, losses


STRESS = {
    "recorded stress": lambda: problem("stress_"),
    **{f.__name__: lambda f=f: f(*problem()) for f in (silent, enormous, odd_losses, other_shapes)},
}


@pytest.mark.parametrize(
    ("stem", "case"),  # the shapes need a program of their own, and RNN-MLP's takes longest
    [
        pytest.param(stem, case, marks=[pytest.mark.slow] * (case == "other_shapes" and stem == "rnn_mlp"))
        for stem in READINGS
        for case in STRESS
    ],
)
def test_under_stress_it_does_what_the_published_code_says(stem, case):
    params, grads, losses = STRESS[case]()
    theta = theta_of(stem, "noisy")
    theirs = READINGS[stem](theta, params, grads, losses)
    _, ours = trained(stem, "as_optax", theta, params, grads, losses)
    moves = {name for name, path in theirs.items() if np.ptp(path, axis=0).max() > 0}
    assert len(moves) >= len(params) - 1  # NN-Adam leaves alone what has no gradient
    assert_close(ours, {name: theirs[name] for name in moves})
    for name in params.keys() - moves:
        np.testing.assert_array_equal(ours[name], theirs[name].astype("f4"))


def test_decays_that_weights_drive_out_of_their_range():
    """Those of second moments stop at 0 and 1, those of momenta do not: 1 - 0.1 e^3 is -1."""
    theta = theta_of("adafac_mlp", "noisy")
    theta = {"adafac_mlp": {**theta["adafac_mlp"], "second_moment_decay": np.float32(0.8)}}
    for name, offsets in {"momentum_decays": (0.3, 0.0, -0.1), "factored_decays": (0.3, -0.2, 0.8)}.items():
        theta["adafac_mlp"][name] = np.asarray(offsets, np.float32)
    params, grads, losses = problem()
    _, ours = trained("adafac_mlp", "as_optax", theta, params, grads, losses)
    assert_close(ours, mlps_reading.adafac_mlp(theta, params, grads, losses))


def test_hyperparameters_stop_at_the_ends_of_their_ranges():
    """Weights that push all four up, or down, by 0.3 a step."""
    params, grads, losses = problem()
    for sign in (1.0, -1.0):
        theta = {"nn_adam": {**theta_of("nnadam", "noisy")["nn_adam"]}}
        theta["nn_adam"]["out_b"] = np.full(4, 30 * sign, np.float32)
        state, ours = trained("nnadam", "as_optax", theta, params, grads, losses)
        theirs = mlps_reading.nn_adam(theta, params, grads, losses)
        assert_close(ours, theirs)
        ends = [1e3, 1.0, 1.0, 1e4] if sign > 0 else [1e-8, np.exp(-10), np.exp(-10), 1e-11]
        np.testing.assert_allclose(np.exp(10 * state.hyperparameters), np.tile(ends, (5, 1)), rtol=1e-4)


def test_committed_copy_is_the_shared_one():
    if not mlps_data.SHARED.is_dir():
        pytest.skip(f"the shared golden numbers are not here: {mlps_data.SHARED}")
    theirs = mlps_data.collect(mlps_data.SHARED)
    assert GOLDEN.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(GOLDEN[name], array, err_msg=name)
    for stem in mlps_data.STEMS:
        for kind in mlps_data.KINDS:  # the horizon reaches none of them
            short, long = (
                np.load(mlps_data.SHARED / f"traj/{stem}__{kind}__{n}.npz") for n in mlps_data.HORIZONS
            )
            for name in short.files:
                if name.startswith("params/"):
                    np.testing.assert_array_equal(short[name], long[name])
