"""VeLO against what the published implementation computed, and against its float64 reading; see README.md."""

import functools

import golden_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import velo_reading
from marks import slow_but

from celo import _compile
from celo.optimizers import Velo, as_optax, velo

pytestmark = pytest.mark.usefixtures("users_compilation")

TOLERANCE = 1e-3  # of a tensor's total movement
STILL = 1e-7  # absolute, for a tensor that does not move

PROBLEM = golden_data.below(golden_data.load(), "problem")
GOLDEN = golden_data.load(golden_data.VELO)
THETA = {
    kind: golden_data.to_velo_theta(golden_data.below(GOLDEN, f"theta/velo_s__{kind}"))
    for kind in golden_data.KINDS
}
FORMS = {
    "as_optax": lambda theta, num_steps: as_optax(Velo("xla"), theta, num_steps),
    "xla": lambda theta, num_steps: velo(num_steps, weights=theta, kernel="xla"),
}
if _compile.find_compiler() is not None:  # a kernel that does not compile must fail
    FORMS["native"] = lambda theta, num_steps: velo(num_steps, weights=theta, kernel="native")


@functools.cache
def compiled(form):
    @jax.jit
    def run(theta, num_steps, params, grads, losses):
        tx = FORMS[form](theta, num_steps)

        def step(carry, now):
            params, state = carry
            updates, state = tx.update(now[0], state, params, value=now[1])
            params = optax.apply_updates(params, updates)
            return (params, state), params

        (_, state), path = jax.lax.scan(step, (params, tx.init(params)), (grads, losses))
        return state, path

    return run


def case(name):
    """(θ, horizon, first parameters, gradients, losses)."""
    _, kind, case = name.split("__")
    num_steps, prefix = golden_data.CASES[case]
    grads = golden_data.below(PROBLEM, f"{prefix}grads")
    return THETA[kind], num_steps, golden_data.below(PROBLEM, "params0"), grads, PROBLEM[f"{prefix}losses"]


@functools.cache
def run(name, form):
    """(final state, {tensor: [31, …]}) of ours; names with slashes sort as the published nesting does."""
    theta, num_steps, params, grads, losses = case(name)
    state, path = compiled(form)(theta, jnp.int32(num_steps), params, grads, losses)
    return state, {n: np.concatenate([params[n][None], path[n]]) for n in params}


def check(ours, theirs):
    for tensor, path in theirs.items():
        assert ours[tensor].shape == path.shape
        assert len(path) == 31
        allowed = max(TOLERANCE * np.abs(path[-1] - path[0]).max(), STILL)
        np.testing.assert_allclose(ours[tensor], path, rtol=0, atol=allowed, err_msg=tensor)


# Slow: that all three take the same steps is tested with the optimizers.
RUNS = slow_but(list(FORMS)[-1:], FORMS)


@pytest.mark.parametrize("form", RUNS)
@pytest.mark.parametrize("name", golden_data.VELO_TRAJECTORIES)
def test_all_31_points_of_every_tensor_are_reproduced(name, form):
    check(run(name, form)[1], golden_data.below(GOLDEN, f"traj/{name}/params"))


@pytest.mark.parametrize("name", golden_data.VELO_TRAJECTORIES)
def test_the_reading_reproduces_them_too(name):
    theta, num_steps, params, grads, losses = case(name)
    check(
        velo_reading.run(theta, params, grads, losses, num_steps),
        golden_data.below(GOLDEN, f"traj/{name}/params"),
    )


@pytest.mark.parametrize("form", RUNS)
def test_stress(form):
    """Zero and huge gradients, spikes of the loss and one below zero; the reading stands for a recording."""
    theta, num_steps, params, grads, losses = case("velo_s__noisy__stress")
    check(run("velo_s__noisy__stress", form)[1], velo_reading.run(theta, params, grads, losses, num_steps))


@pytest.mark.slow
def test_table_of_deviations():
    """`pytest tests/golden -s -k table -m slow` prints it."""
    rows = []
    for name in [n for n in golden_data.VELO_TRAJECTORIES if "noisy" in n]:  # fresh weights hardly move
        theirs = golden_data.below(GOLDEN, f"traj/{name}/params")
        for form in FORMS:
            ours = run(name, form)[1]
            shares = {n: np.abs(ours[n] - x).max() / np.abs(x[-1] - x[0]).max() for n, x in theirs.items()}
            worst = max(shares, key=lambda n: shares[n])
            rows.append(f"{name:<28}{form:<10}{shares[worst]:>10.1e}   {worst}")
            assert shares[worst] <= TOLERANCE
    print("\n" + "\n".join(rows))


@pytest.mark.parametrize("form", slow_but(list(FORMS)[-1:], list(FORMS)[1:]))
@pytest.mark.parametrize("name", golden_data.VELO_TRAJECTORIES)
def test_final_state(name, form):
    (state, _), _ = run(name, form)
    theirs = golden_data.below(GOLDEN, f"traj/{name}/final_state")
    ours = state.controller
    assert int(ours.step) == int(theirs["iteration"]) == int(ours.losses.step) == 30
    assert int(ours.num_steps) == int(theirs["num_steps"])
    np.testing.assert_allclose(ours.losses.means, theirs["loss_buffer/means"], rtol=1e-5)
    np.testing.assert_allclose(ours.losses.minima, theirs["loss_buffer/running_min"], rtol=1e-5)
    for field in ("hidden", "cell"):
        theirs_too = theirs[f"lstm_hidden_state/{field}"]
        np.testing.assert_allclose(getattr(ours, field), theirs_too, rtol=1e-3, atol=2e-3)
    for tensor, second in state.rule.second_moment.items():
        array = theirs[f"rms_rolling/rms/{tensor}"][..., 0]
        np.testing.assert_allclose(second.reshape(array.shape), array, rtol=5e-5)
        for k in range(3):
            array = theirs[f"mom_rolling/m/{tensor}"][..., k]
            found = state.rule.momenta[k][tensor].reshape(array.shape)
            np.testing.assert_allclose(found, array, rtol=5e-5, atol=1e-6 * np.abs(array).max())


def test_committed_copy_is_the_shared_one():
    if not golden_data.SHARED.is_dir():
        pytest.skip(f"the shared golden numbers are not here: {golden_data.SHARED}")
    theirs = golden_data.collect_velo(golden_data.SHARED)
    assert GOLDEN.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(GOLDEN[name], array, strict=True, err_msg=name)
