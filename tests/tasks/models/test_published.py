"""The tasks of Celo's paper: their sizes, and what is peculiar to their models, on made-up data."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo.evaluate._run.suites import CELO_TASKS, SUITES
from celo.evaluate._run.training import train_curve
from celo.tasks import make_task
from celo.tasks._models.published import LanguageLSTM, LanguageTransformer, TokenTransformer

# name: (shape of a batch's inputs, dropout, number of parameters). The numbers are those of the architectures
# published in google/learned_optimization, learned_optimization/tasks/fixed, summed up by hand: weights and,
# where nothing else is said, biases.
EXPECTED = {
    # 784-128-128-10: 100,480 + 16,512 + 1,290
    "fashion_mnist_mlp_relu": ((128, 28, 28, 1), 0.0, 118_282),
    # 3072-128-128-128-10: 393,344 + 2 * 16,512 + 1,290; the norms have a scale and a shift, 3 * 256
    "cifar10_mlp_tanh_full": ((128, 32, 32, 3), 0.0, 427_658),
    "cifar10_mlp_layernorm_full": ((128, 32, 32, 3), 0.0, 427_658 + 768),
    # 3 x 3 convolutions 3-32-64-64 and a layer 64-10: 896 + 18,496 + 36,928 + 650; norms 2 * (32 + 64 + 64)
    "cifar10_conv_full": ((128, 32, 32, 3), 0.0, 56_970),
    "cifar10_conv_batchnorm_full": ((128, 32, 32, 3), 0.0, 56_970 + 320),
    "cifar10_conv_layernorm_full": ((128, 32, 32, 3), 0.0, 56_970 + 320),
    # the same with one channel (320 for 896), or with a hundred classes (6,500 for 650)
    "fashion_mnist_conv_full": ((128, 28, 28, 1), 0.0, 56_394),
    "cifar100_conv_full": ((128, 32, 32, 3), 0.0, 62_820),
    # Patches 16 * 16 * 3 to width d: 768 d + d; a token d; positions of it and four patches 5 d; blocks of
    # two norms 4 d, attention 4 (d d + d), a perceptron d-4d-d 8 d d + 5 d; a norm 2 d; the answer d c + c.
    # d = 384, six blocks: 295,296 + 384 + 1,920 + 6 * (1,536 + 591,360 + 1,181,568) + 768 + 3,850 or 38,500
    "cifar10_vit_wideshallow": ((128, 32, 32, 3), 0.0, 10_949_002),
    "cifar100_vit_wideshallow": ((128, 32, 32, 3), 0.0, 10_983_652),
    # d = 128, ten blocks: 98,432 + 128 + 640 + 10 * (512 + 66,048 + 131,712) + 256 + 1,290 or 12,900
    "cifar10_vit_skinnydeep": ((128, 32, 32, 3), 0.0, 2_083_466),
    "cifar100_vit_skinnydeep": ((128, 32, 32, 3), 0.0, 2_095_076),
    # Embedding of v tokens v d; blocks of two norms 4 d, attention of h heads of 32: 3 (32 h d + 32 h) in and
    # 32 h d + d out, a perceptron d-4d-d 8 d d + 5 d; a norm 2 d; the answer d v + v. No positions.
    # d = 20, h = 5: a block of 80 + 10,080 + 3,220 + 3,300, a norm 40; v = 63: 1,260 + 1,323; v = 32,100:
    # 642,000 + 674,100
    "kjv_transformer_lm0": ((4, 8), 0.1, 19_303),
    "lm1b_transformer_lm0": ((4, 8), 0.1, 1_332_820),
    # d = 32, h = 4: blocks, two and one, of 128 + 12,672 + 4,128 + 8,352, a norm 64; v = 63: 2,016 + 2,079;
    # v = 32,100: 1,027,200 + 1,059,300
    "kjv_transformer_lm2": ((8, 8), 0.0, 54_719),
    "lm1b_transformer_lm2": ((8, 8), 0.0, 2_137_124),
    "kjv_transformer_lm5": ((8, 32), 0.0, 29_439),
    "lm1b_transformer_lm5": ((8, 32), 0.0, 2_111_844),
    # 3072-128-32-128-3072: 393,344 + 4,128 + 4,224 + 396,288; 784-128-32-128-784: 100,480 + 8,352 + 101,136
    "cifar10_autoencoder_full": ((256, 32, 32, 3), 0.0, 797_984),
    "mnist_autoencoder": ((128, 28, 28, 1), 0.0, 209_968),
    # Embedding 128 v; gates (128 + 256) * 1,024 + 1,024; the start 2 * 256; the answer 256 v + v
    "kjv_lstm256": ((128, 32), 0.0, 419_007),
    "austen_lstm256": ((128, 32), 0.0, 425_937),
    "lm1b_lstm256": ((128, 32), 0.0, 12_753_252),
    "wikipedia_lstm256": ((128, 32), 0.0, 12_753_252),
    # AdaFac-MLP: 39-4-4-2, 160 + 20 + 10, and 7 decays; fifty steps of 128 pictures of 8 x 8
    "celo.evaluate:training_adafac_mlp": ((50, 128, 64), 0.0, 197),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_sizes_are_the_published_ones(name, make):
    shape, dropout, parameters = EXPECTED[name]
    family = make(name)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == parameters
    draw = jax.tree.map(lambda x: x[0], family.draw(jax.random.key(0), 1))
    *_, inputs, _targets = jax.eval_shape(lambda draw: family.batch(task, "train", draw), draw)
    assert inputs.shape == shape
    assert getattr(getattr(family, "module", None), "dropout", 0.0) == dropout


def test_every_task_of_both_suites_is_measured():
    assert set(EXPECTED) == {task.name for suite in ("paper", "published") for task in SUITES[suite]}
    assert len(CELO_TASKS) == 17
    for suite in ("paper", "published"):
        assert [task.stands_for for task in SUITES[suite]] == [name for name, *_ in CELO_TASKS]
        assert len({task.name for task in SUITES[suite]}) == 17  # archives know tasks by name


def test_a_vision_transformer_starts_from_guessing_and_reads_its_token():
    module = TokenTransformer(10, patch=4, width=8, depth=1, heads=2)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    params = jax.jit(lambda key: module.init(key, x, train=False))(jax.random.key(0))["params"]
    run = jax.jit(lambda params: module.apply({"params": params}, x, train=True))
    assert not run(params).any()
    params["Dense_1"]["kernel"] = jax.random.normal(jax.random.key(2), (8, 10))
    other = params | {"token": params["token"] + jnp.arange(8.0)}
    assert abs(run(other) - run(params)).max() > 0.1


def test_a_language_transformer_knows_no_positions():
    """A text of one letter looks the same from everywhere in it."""
    module = LanguageTransformer(5, width=8, depth=2, heads=2, dropout=0.1)
    tokens = jnp.full((1, 6), 3)
    run = jax.jit(lambda key: module.apply(module.init(key, tokens, train=False), tokens, train=False))
    logits = run(jax.random.key(0))
    np.testing.assert_allclose(logits, np.tile(logits[:, :1], (1, 6, 1)), rtol=1e-4, atol=1e-5)


def test_a_language_lstm_starts_where_it_has_learned_to():
    """Against its recurrence written out."""
    module = LanguageLSTM(5, width=3, embedding=4)
    tokens = np.asarray([[1, 4, 0], [2, 2, 3]])

    @jax.jit
    def run(key):
        params = module.init(key, tokens, train=False)["params"]
        params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
        return params, module.apply({"params": params}, tokens, train=True)

    params, found = jax.device_get(run(jax.random.key(0)))
    assert params["start_hidden"].shape == (1, 3)
    hidden, cell = (np.tile(params[name], (2, 1)) for name in ("start_hidden", "start_cell"))
    for position in range(3):
        x = params["Embed_0"]["embedding"][tokens[:, position]]
        gates = np.concatenate([x, hidden], axis=1) @ params["w"] + params["b"]
        write, candidate, forget, read = np.split(gates, 4, axis=1)
        cell = expit(forget + 1) * cell + expit(write) * np.tanh(candidate)
        hidden = expit(read) * np.tanh(cell)
        expected = hidden @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        np.testing.assert_allclose(found[:, position], expected, rtol=1e-4, atol=1e-5)


def expit(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("task", SUITES["paper"], ids=lambda task: task.stands_for)
def test_the_papers_tasks_run_fifty_steps_on_real_data(task):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax.adam
        curve = train_curve(
            make_task(task.name), 0, optax.adam(1e-3), num_steps=50, seeds=(0,), eval_every=25
        )
    assert np.isfinite(curve.train_loss).all()
    assert curve.train_loss[0, -1] < curve.train_loss[0, 0]
    assert np.isfinite(curve.valid_loss).all()
