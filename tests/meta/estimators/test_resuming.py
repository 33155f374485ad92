"""The resume buffer: what is kept, what begins from it, and that the estimate stays unbiased."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import PES, Resuming, TruncatedES
from celo.meta._estimators.base import Trajectory
from celo.meta._estimators.pes import WHOLE_LIFE
from celo.meta._estimators.resuming import _went_well

LENGTH, LIFE = 5, 4  # steps in a truncation, truncations in a life
PARTICLES, ROUNDS = 2048, 40


def at_the_beginning(resuming, theta, key, particles):
    """A state whose pairs all begin a fresh problem next."""
    state = resuming.init(theta, key, jnp.arange(particles, dtype=jnp.int32))
    over = jax.tree.map(lambda x: x, state.pairs)._replace(over=jnp.ones((particles,), bool))
    sides = [
        side._replace(step=jnp.full_like(side.step, 1_000_000)) for side in (over.positive, over.negative)
    ]
    return state._replace(pairs=over._replace(positive=sides[0], negative=sides[1]))


def second_lives(problem, noise_truncations, forget):
    """(mean, standard error) of gradients over the second of two lives, which begins where the first ended.

    `forget` leaves the noise of the first out of the slots.
    """
    theta = problem.optimizer.init_theta(None)
    resuming = Resuming(PES(problem, LENGTH, 0.01, noise_truncations), slots=1, share=1.0)

    @jax.jit
    def gradient(key):
        def one(state, key):
            if forget:
                slots = state.slots
                nothing = jax.tree.map(jnp.zeros_like, (slots.epsilon, slots.earlier))
                state = state._replace(slots=slots._replace(epsilon=nothing[0], earlier=nothing[1]))
            estimate, state = resuming.estimate(theta, state, key)
            return state, estimate.gradient["sgd"]

        key_init, key_run = jax.random.split(key)
        state = at_the_beginning(resuming, theta, key_init, PARTICLES)
        gradients = jax.lax.scan(one, state, jax.random.split(key_run, 2 * LIFE))[1]
        return jnp.stack([gradients["log_rate"], gradients["slope"]])[:, LIFE:].mean(axis=1)

    found = np.asarray(jax.lax.map(gradient, jax.random.split(jax.random.key(3), ROUNDS)))
    return found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(ROUNDS)


@pytest.fixture(scope="module")
def exact(problem):
    """(mean, standard error) of the back-propagated gradient through both lives of the loss of the second."""

    def meta_loss(theta, key):
        life = problem.start(theta, key, jnp.int32(0), jax.random.fold_in(key, 1))

        def step(carry, number):
            params, state = carry
            horizon = LENGTH * LIFE * (1 + number // (LENGTH * LIFE))
            state = state._replace(num_steps=horizon)
            loss, grads = jax.value_and_grad(lambda p: life.task.loss(p, (), None, ())[0])(params)
            updates, state = problem.optimizer.update(theta, grads, state, params, value=loss)
            return (jax.tree.map(jnp.add, params, updates), state), loss

        steps = jnp.arange(2 * LENGTH * LIFE, dtype=jnp.int32)
        losses = jax.lax.scan(step, (life.params, life.opt_state), steps)[1]
        return losses[LENGTH * LIFE :].mean()

    theta = problem.optimizer.init_theta(None)
    keys = jax.random.split(jax.random.key(7), 20_000)
    found = jax.jit(jax.vmap(jax.grad(meta_loss), in_axes=(None, 0)))(theta, keys)["sgd"]
    found = np.stack([found["log_rate"], found["slope"]])
    return found.mean(axis=1), found.std(axis=1) / np.sqrt(found.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise_truncations",
    [pytest.param(1, id="pes"), pytest.param(WHOLE_LIFE, id="nres")],
)
def test_a_life_that_goes_on_is_estimated_without_bias(problem, exact, distance, noise_truncations):
    assert (distance(second_lives(problem, noise_truncations, forget=False), exact) < 4).all()


@pytest.mark.slow
def test_without_the_noise_of_the_life_before_the_estimate_is_biased(problem, exact, distance):
    assert distance(second_lives(problem, 1, forget=True), exact).max() > 10


def test_a_problem_that_is_taken_up_again_has_a_fresh_horizon_added_to_its_steps(make_problem):
    """Both sides alike, and the optimizer is told."""
    problem = make_problem(2 * LENGTH, 6 * LENGTH)
    theta = problem.optimizer.init_theta(None)
    resuming = Resuming(PES(problem, LENGTH, 0.01), share=1.0)
    state = at_the_beginning(resuming, theta, jax.random.key(0), 8)
    advance = jax.jit(resuming.estimate)
    ends = np.zeros(8, int)
    for number in range(14):  # then losses are 0 on both sides, and such ends are not kept
        before = state.pairs
        _, state = advance(theta, state, jax.random.key(number))
        sides = jax.tree.map(np.asarray, (state.pairs.positive, state.pairs.negative))
        for name in ("step", "num_steps"):
            np.testing.assert_array_equal(getattr(sides[0], name), getattr(sides[1], name))
        np.testing.assert_array_equal(sides[0].opt_state.num_steps, sides[0].num_steps)
        np.testing.assert_array_equal(sides[0].task.centre, sides[1].task.centre)
        if number:  # none has begun afresh: steps go on, and tasks stay
            np.testing.assert_array_equal(sides[0].step, before.positive.step + LENGTH)
            np.testing.assert_array_equal(sides[0].task.centre, before.positive.task.centre)
            longer = np.asarray(before.over)
            added = sides[0].num_steps - np.asarray(before.positive.step)
            assert ((added >= 2 * LENGTH) & (added <= 6 * LENGTH))[longer].all()
            ends += longer
    assert (ends >= 1).all()
    assert (np.asarray(state.kept) >= ends).all()


@pytest.mark.slow
def test_the_oldest_state_gives_way_and_all_are_taken_up(make_problem):
    problem = make_problem(LENGTH, LENGTH)  # every truncation is an end
    theta = problem.optimizer.init_theta(None)
    resuming = Resuming(PES(problem, LENGTH, 0.01), slots=3, share=0.5)
    state = at_the_beginning(resuming, theta, jax.random.key(0), 200)
    advance = jax.jit(resuming.estimate)
    began = []
    for number in range(12):
        slots, kept = state.slots, np.asarray(state.kept)
        np.testing.assert_array_equal(kept, number)
        _, state = advance(theta, state, jax.random.key(number))
        at = number % 3
        for slot in range(3):
            now, old = state.slots.positive.params["x"][:, slot], slots.positive.params["x"][:, slot]
            expected = state.pairs.positive.params["x"] if slot == at else old
            np.testing.assert_array_equal(now, expected)
        began.append(np.asarray(state.pairs.positive.step) - LENGTH)  # steps before this life
    assert (began[0] == 0).all()
    assert np.mean(np.stack(began[1:]) == 0) == pytest.approx(0.5, abs=0.05)
    assert {5, 10, 15} <= set(np.stack(began).ravel().tolist())


def test_what_failed_is_not_kept():
    def seen(costs, nonfinite):
        nothing = jnp.zeros((1, 2, 2), bool)
        return Trajectory(jnp.asarray(costs), jnp.asarray(costs), nothing | nonfinite, nothing)

    ahead, level = [[[1.0, 2.0], [1.0, 2.5]]], [[[3.0, 3.0], [3.0, 3.0]]]  # both sides cut off
    assert bool(_went_well(seen(ahead, False)))
    assert not bool(_went_well(seen(ahead, True)))
    assert not bool(_went_well(seen(level, False)))


def test_what_cannot_be_taken_up_again_is_refused(problem):
    with pytest.raises(CeloError, match="keeps the noise of a problem, PES, got TruncatedES"):
        Resuming(TruncatedES(problem, LENGTH))
    pes = PES(problem, LENGTH)
    for settings, said in (
        ({"slots": 0}, "positive slots, got 0"),
        ({"share": 0.0}, "positive share, got 0"),
        ({"share": 1.5}, "at most 1, got 1.5"),
    ):
        with pytest.raises(CeloError, match=said):
            Resuming(pes, **settings)
    assert dataclasses.replace(Resuming(pes), share=1.0).share == 1.0
