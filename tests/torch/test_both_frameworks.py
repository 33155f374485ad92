"""One task of the suite `laptop` trained in JAX and in PyTorch, on the same batches from the same start."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import celo
import celo.torch
from celo.data import load_images
from celo.tasks import make_task

TASK, STEPS, SEEDS, TAIL = "fashion_mnist_mlp_relu", 500, 3, 50
LAYERS = ("Dense_0", "Dense_1", "Dense_2")


def in_jax(params, task, batches):
    tx = celo.celo(num_steps=STEPS)

    @jax.jit
    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: task.loss(p, (), jax.random.key(0), batch)[0])(params)
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    carry, losses = (params, tx.init(params)), []
    for batch in batches:
        carry, loss = step(carry, batch)
        losses.append(float(loss))
    return losses


def in_torch(params, batches):
    linear = [torch.nn.Linear(*params[name]["kernel"].shape) for name in LAYERS]
    with torch.no_grad():
        for layer, name in zip(linear, LAYERS, strict=True):
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"])).T)
            layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(torch.nn.Flatten(), linear[0], relu, linear[1], relu, linear[2])
    optimizer = celo.torch.Celo(model.parameters(), num_steps=STEPS)
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(np.array(x)))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.array(y)).long())
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_both_end_within_the_noise_of_seeds():
    try:
        load_images("fashion_mnist")
    except celo.CeloError as error:
        pytest.skip(f"Fashion-MNIST is not here: {error}")
    family = make_task(TASK)
    ends = {"jax": [], "torch": []}
    for seed in range(SEEDS):
        key_task, key_init, key_data = jax.random.split(jax.random.key(seed), 3)
        task = family.sample(key_task, jnp.int32(0))
        params, _ = task.init(key_init)
        draws = family.draw(key_data, STEPS)
        select = jax.jit(lambda draw, task=task: family.batch(task, "train", draw))
        batches = [select(jax.tree.map(lambda x, i=i: x[i], draws)) for i in range(STEPS)]
        curves = {"jax": in_jax(params, task, batches), "torch": in_torch(params, batches)}
        # The first step is taken at equal losses. Then the square matrix tells: it is transposed here, and
        # among equal axes the later counts as larger.
        np.testing.assert_allclose(curves["torch"][:2], curves["jax"][:2], rtol=5e-3)
        for name, curve in curves.items():
            ends[name].append(np.mean(curve[-TAIL:]))
    means = {name: np.mean(values) for name, values in ends.items()}
    noise = np.std(ends["jax"], ddof=1)
    assert abs(means["torch"] - means["jax"]) < noise, ends
    assert means["jax"] < 0.6
