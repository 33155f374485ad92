"""Perceptrons on images: on the digits that ship with scikit-learn, and on small made-up sets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_ins

from celo._errors import CeloError
from celo.data import Images, Split, load_images
from celo.tasks import (
    SPLITS,
    Augmented,
    ImageMLP,
    ImageMLPs,
    Reparametrisation,
    make_task,
    value_and_grad,
)

# Made-up sets: a pixel's value says which set and which split its image is of, the label says it again.
SETS = {
    "dark": {"train": (0, 40), "valid": (50, 11), "test": (60, 12)},  # (lowest pixel, examples)
    "grey": {"train": (100, 7), "valid": (120, 25), "test": (130, 9)},
    "light": {"train": (200, 30), "valid": (230, 8), "test": (240, 21)},
}
LABELS = {split: label for label, split in enumerate(SPLITS)}


def made_up(name, *, size=None, grey=False):
    channels = 1 if grey else 3

    def split(which):
        lowest, count = SETS[name][which]
        x = lowest + np.arange(count * size * size * channels) % 10
        y = np.full(count, LABELS[which], np.int32)
        return Split(x.reshape(count, size, size, channels).astype(np.uint8), y)

    return Images(*map(split, SPLITS), num_classes=10)


@pytest.fixture
def sets(monkeypatch):
    monkeypatch.setattr("celo.tasks._sources.load_images", made_up)
    return tuple(SETS)


def batch(family, task, split, seed=0):
    return family.batch(task, split, family.draw(jax.random.key(seed), 1)[0])


# Members, splits, batches


@pytest.mark.parametrize("augmented", [False, True])
def test_a_member_draws_from_its_own_set_and_split(sets, augmented):
    family = ImageMLPs(sets, size=4, batch_size=200)
    family = Augmented(family, Reparametrisation()) if augmented else family
    assert family.members == sets
    for member, name in enumerate(sets):
        task = family.sample(jax.random.key(member), jnp.int32(member))
        made = made_up(name, size=4, grey=True)
        for split in SPLITS:
            x, y = batch(family, task, split)
            assert set(np.asarray(y).tolist()) == {LABELS[split]}
            # With the standardisation undone by this set's own statistics, the images come out.
            x = np.asarray(x) * made.train.x.std() + made.train.x.mean()
            np.testing.assert_allclose(x, np.round(x), atol=1e-3)
            drawn = {tuple(row) for row in np.round(x).astype(int).tolist()}
            images = made._asdict()[split].x
            images = [tuple(row) for row in images.reshape(len(images), -1).tolist()]
            assert drawn == set(images)  # 200 draws of few images: all of them come


def test_every_example_is_drawn_as_often():
    family = ImageMLPs(("digits",), hidden=(), batch_size=20_000)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    data = load_images("digits", size=8, grey=True).valid
    _, y = batch(family, task, "valid")
    share = np.bincount(np.asarray(y), minlength=10) / 20_000
    np.testing.assert_allclose(share, np.bincount(data.y, minlength=10) / len(data.y), atol=0.012)


def test_batches_are_a_pure_function_of_the_draw():
    family = make_task("digits_8x8_mlp32")
    task = family.sample(jax.random.key(0), jnp.int32(0))
    draws = family.draw(jax.random.key(7), 3)
    jax.tree.map(np.testing.assert_array_equal, draws, family.draw(jax.random.key(7), 3))
    x, y = jax.jit(lambda draw: family.batch(task, "train", draw))(draws[1])
    again_x, again_y = family.batch(task, "train", draws[1])
    np.testing.assert_allclose(x, again_x, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y, again_y)
    others = [family.batch(task, "train", draw)[0] for draw in (draws[0], draws[2])]
    others.append(batch(family, task, "train", seed=8)[0])
    assert all(np.any(other != x) for other in others)
    assert x.shape == (64, 64)
    assert x.dtype == jnp.float32
    assert y.shape == (64,)
    assert y.dtype == jnp.int32


def test_the_ends_of_a_draw_stay_inside_the_set(sets):
    """A draw of almost one, times a size, may round up to the size."""
    family = ImageMLPs(sets, size=4, batch_size=2)
    for member in range(3):
        task = family.sample(jax.random.key(0), jnp.int32(member))
        for split in SPLITS:
            images = made_up(sets[member], size=4, grey=True)
            images, train = images._asdict()[split].x, images.train.x
            x, _ = family.batch(task, split, jnp.asarray([0.0, 1.0]))
            expected = (images[[0, -1]].reshape(2, -1) - train.mean()) / train.std()
            np.testing.assert_allclose(x, expected, atol=1e-4)


def test_pixels_are_standardised_by_the_training_set():
    """One mean and one deviation for the whole set, the same in all splits."""
    family = ImageMLPs(("digits",), batch_size=4000)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    x, _ = batch(family, task, "train")
    np.testing.assert_allclose([x.mean(), x.std()], [0.0, 1.0], atol=0.02)
    train = load_images("digits", size=8, grey=True).train.x
    for split in SPLITS:
        low, _ = batch(family, task, split, seed=1)
        np.testing.assert_allclose(low.min(), (0 - train.mean()) / train.std(), rtol=1e-4)


def test_tasks_of_several_sets_run_side_by_side(sets):
    family = Augmented(ImageMLPs(sets, size=4, batch_size=5), Reparametrisation("tensor", 0.1, 10.0))
    members = jnp.arange(3, dtype=jnp.int32)
    keys = jax.random.split(jax.random.key(0), 3)

    def loss(task, key):
        params, model_state = task.init(key)
        now = family.batch(task, "train", family.draw(key, 1)[0])
        return task.loss(params, model_state, key, now)[0]

    tasks = jax.jit(jax.vmap(family.sample))(keys, members)
    np.testing.assert_array_equal(tasks.task.member, members)
    together = jax.jit(jax.vmap(loss))(tasks, keys)
    one = jax.jit(lambda key, member: loss(family.sample(key, member), key))
    alone = [one(keys[i], members[i]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert sum(leaf.size for leaf in jax.tree.leaves(tasks)) == 3 * (1 + 4)  # member, factors; no data


def test_colour(sets):
    assert ImageMLPs(sets, size=4, grey=False).layers == (48, 32, 10)
    assert ImageMLPs(sets, size=4, grey=True).layers == (16, 32, 10)


# Augmentation


def test_an_augmented_family_has_the_same_losses_and_batches(key):
    plain = make_task("digits_8x8_mlp32")
    augmented = Augmented(plain, Reparametrisation("global", 0.01, 100.0))
    assert (augmented.members, augmented.loss_cap) == (plain.members, plain.loss_cap)
    task, other = (family.sample(key, jnp.int32(0)) for family in (plain, augmented))
    jax.tree.map(np.testing.assert_array_equal, plain.draw(key, 2), augmented.draw(key, 2))
    now = batch(plain, task, "train")
    jax.tree.map(np.testing.assert_array_equal, now, batch(augmented, other, "train"))
    losses = [jax.jit(lambda t: value_and_grad(t, *t.init(key), key, now)[0])(t) for t in (task, other)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    factor = other.factors["layer0"]["w"]
    assert abs(np.log(factor)) > 0.1
    start, start_there = task.init(key)[0]["layer0"]["w"], other.init(key)[0]["layer0"]["w"]
    np.testing.assert_allclose(start_there * factor, start, rtol=1e-5)
    again = augmented.sample(jax.random.key(1), jnp.int32(0))
    assert float(again.factors["layer0"]["w"]) != float(factor)


# The perceptron


def test_loss_is_the_cross_entropy_of_a_perceptron(key):
    task = ImageMLP(jnp.int32(0), (4, 6, 5, 3))
    params, model_state = task.init(key)
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases too
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 4)), rng.integers(0, 3, size=7)
    loss, (model_state, metrics) = task.loss(
        params, model_state, key, (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))
    )
    layers = [
        {name: np.asarray(array, np.float64) for name, array in params[f"layer{i}"].items()} for i in range(3)
    ]
    for layer in layers[:2]:
        x = np.maximum(x @ layer["w"] + layer["b"], 0)
    logits = x @ layers[2]["w"] + layers[2]["b"]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loss, -log_p[np.arange(7), y].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(logits.argmax(axis=1) == y), rtol=1e-6)
    assert loss.dtype == jnp.float32
    assert loss.shape == ()
    assert model_state == ()


def test_initial_parameters():
    params, _ = ImageMLP(jnp.int32(0), (64, 32, 10)).init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2410
    for name, fan_in in [("layer0", 64), ("layer1", 32)]:
        w = params[name]["w"]
        assert not np.any(params[name]["b"])
        assert np.abs(w).max() <= 2 / np.sqrt(fan_in)
        np.testing.assert_allclose(w.std() * np.sqrt(fan_in), 0.88, atol=0.08)  # of a normal cut at two
    assert np.any(params["layer0"]["w"][:32, :10] != params["layer1"]["w"])


def test_adam_learns_the_digits():
    """The task is the one it says it is: labels belong to their images, in all splits."""
    import optax

    family = make_task("digits_8x8_mlp32")
    task = family.sample(jax.random.key(0), jnp.int32(0))
    tx = optax.adam(0.01)

    @jax.jit
    def train(params, draws):
        def step(carry, draw):
            params, state = carry
            key = jax.random.key(0)  # the perceptron has no randomness
            _, grads, _ = value_and_grad(task, params, (), key, family.batch(task, "train", draw))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), draws)[0][0]

    with jax.numpy_dtype_promotion("standard"):  # optax.adam
        params = train(task.init(jax.random.key(0))[0], family.draw(jax.random.key(1), 300))
    for split in ("valid", "test"):
        _, (_, metrics) = task.loss(params, (), jax.random.key(0), batch(family, task, split))
        assert metrics["accuracy"] > 0.85, split


# Settings


def test_loss_cap_is_a_half_more_than_guessing(sets):
    assert (
        ImageMLPs(sets, size=4).loss_cap
        == pytest.approx(1.5 * math.log(10))
        == pytest.approx(3.4539, abs=1e-4)
    )


def test_no_data_set():
    with pytest.raises(CeloError, match="at least one data set"):
        ImageMLPs(())


def test_unknown_data_set():
    with pytest.raises(CeloError, match="unknown images data set 'digit'; known, nearest first: digits"):
        ImageMLPs(("digit",))


def test_sets_that_do_not_fit_together(monkeypatch):
    def load(name, *, size=None, grey=False):
        images = made_up("dark", size=size, grey=grey)
        return images._replace(num_classes=26) if name == "letters" else images

    monkeypatch.setattr("celo.tasks._sources.load_images", load)
    with pytest.raises(CeloError, match=r"shapes \[\(4, 4, 1\)\] and classes \[10, 26\] for dark, letters"):
        ImageMLPs(("dark", "letters"), size=4)


# Tables


WEIGHTS = {  # of two hidden layers of 128, or three, with a scale and a shift each where there is a norm
    "letters_mlp_relu": (16, 2, 26, 0),
    "letters_mlp_tanh": (16, 3, 26, 0),
    "letters_mlp_layernorm": (16, 3, 26, 2 * 128),
    "satellite_mlp_relu": (36, 2, 6, 0),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_tables_are_classified_by_the_perceptrons_of_images(monkeypatch, key, name):
    stand_ins.install(monkeypatch)
    features, layers, classes, norm = WEIGHTS[name]
    family = make_task(name)
    task = family.sample(key, jnp.int32(0))
    params, _ = task.init(key)
    expected = (features + 1) * 128 + (layers - 1) * 129 * 128 + 129 * classes + layers * norm
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    x, y = batch(family, task, "train")
    assert x.shape == (128, features)
    assert y.shape == (128,)
    losses = [task.loss(params, (), jax.random.key(seed), (x, y))[0] for seed in range(2)]
    assert losses[0] == losses[1]  # no dropout


def test_each_feature_is_standardised_by_the_training_rows(monkeypatch, key):
    stand_ins.install(monkeypatch)
    family = make_task("letters_mlp_relu", batch_size=20_000)
    x, _ = batch(family, family.sample(key, jnp.int32(0)), "train")
    np.testing.assert_allclose(x.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(x.std(0), 1.0, atol=0.05)
