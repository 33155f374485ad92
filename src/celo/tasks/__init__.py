"""Tasks, one family a file, and their registry: a new task is one file and one line here."""

from collections.abc import Callable
from functools import partial

import jax

from celo._errors import unknown_name
from celo.tasks._augment import Augmented, Reparametrisation
from celo.tasks._base import Task, TaskFamily
from celo.tasks._image_sets import CELO_DATASETS
from celo.tasks._models.image_mlps import ImageMLPs
from celo.tasks._models.quadratic import Quadratics
from celo.tasks._task_at import task_at


def _suite(place: str, *args, **settings) -> Callable[..., TaskFamily]:
    """A factory in a module that needs Flax and is imported when its task is made."""
    return partial(task_at, f"celo.tasks._models.{place}", *args, **settings)


TASKS: dict[str, Callable[..., TaskFamily]] = {
    "celo_image_mlps": ImageMLPs,  # the meta-training set: all four image sets at 8x8, 64-32-10
    **{f"{name}_8x8_mlp32": partial(ImageMLPs, (name,)) for name in (*CELO_DATASETS, "digits", "svhn")},
    "digits_mlp128x128": partial(ImageMLPs, ("digits",), hidden=(128, 128)),
    "fashion_mnist_mlp128x128": partial(
        ImageMLPs, ("fashion_mnist",), size=28, hidden=(128, 128), batch_size=128
    ),
    "quadratic": Quadratics,
    # More to meta-train on, at 8x8 too.
    "small_deep_perceptrons": _suite("small_models:deep_perceptrons"),
    "small_convnets": _suite("small_models:convnets"),
    "small_transformers": _suite("small_models:transformers"),
    "small_recurrent": _suite("small_models:recurrent"),
    "small_autoencoders": _suite("small_models:autoencoders"),
    # The evaluation suite: `celo.evaluate._run.suites` says which of these make it up.
    "fashion_mnist_mlp_relu": _suite("perceptrons:classifier", "fashion_mnist", hidden=(128, 128)),
    "cifar10_mlp_layernorm": _suite(
        "perceptrons:classifier", "cifar10", size=16, hidden=(128, 128, 128), layer_norm=True
    ),
    "cifar10_mlp_tanh": _suite(
        "perceptrons:classifier", "cifar10", size=16, hidden=(128, 128, 128), activation=jax.numpy.tanh
    ),
    "cifar10_conv": _suite("convnets:convnet", "cifar10", size=16),
    "cifar10_conv_batchnorm": _suite("convnets:convnet", "cifar10", size=16, norm="batch"),
    "cifar10_conv_layernorm": _suite("convnets:convnet", "cifar10", size=16, norm="layer"),
    "fashion_mnist_resnet_groupnorm": _suite("convnets:resnet", "fashion_mnist", size=14),
    "cifar10_vit": _suite("transformers:vision_transformer", "cifar10", size=16),
    "fashion_mnist_mixer": _suite("mixer:classifier", "fashion_mnist"),
    "mnist_autoencoder": _suite("autoencoders:autoencoder", "mnist"),
    "cifar10_autoencoder": _suite("autoencoders:autoencoder", "cifar10", size=16),
    "mnist_vae": _suite("autoencoders:variational", "mnist"),
    "kjv_transformer": _suite("transformers:language_model"),
    "kjv_lstm": _suite("recurrent:language_model", cell="lstm"),
    "kjv_gru": _suite("recurrent:language_model", cell="gru"),
    "breast_cancer_mlp": _suite("tabular:perceptron", "breast_cancer"),
    "diabetes_mlp": _suite("tabular:perceptron", "diabetes"),
    "china_fourier": _suite("coordinates:photograph", "china", network="fourier"),
    "china_siren": _suite("coordinates:photograph", "china", network="siren"),
    # Celo's own evaluation tasks as published but for the data: those under the names of other sets than were
    # published are substitutes, where the published ones cannot be had.
    "cifar10_mlp_layernorm_full": _suite(
        "perceptrons:classifier", "cifar10", hidden=(128, 128, 128), layer_norm=True
    ),
    "cifar10_mlp_tanh_full": _suite(
        "perceptrons:classifier", "cifar10", hidden=(128, 128, 128), activation=jax.numpy.tanh
    ),
    **{
        f"{dataset}_conv{suffix}_full": _suite(
            "convnets:convnet",
            dataset,
            **{"channels": (32, 64, 64), "norm": norm, "strided": 1, "norm_last": True, "batch_size": 128},
        )
        for dataset in ("cifar10", "cifar100", "fashion_mnist")
        for suffix, norm in (("", "none"), ("_batchnorm", "batch"), ("_layernorm", "layer"))
    },
    **{
        f"{dataset}_vit_{shape}": _suite(
            "published:vision_transformer", dataset, patch=16, batch_size=128, **sizes
        )
        for dataset in ("cifar10", "cifar100")
        for shape, sizes in (
            ("wideshallow", {"width": 384, "depth": 6, "heads": 6}),
            ("skinnydeep", {"width": 128, "depth": 10, "heads": 4}),
        )
    },
    **{
        f"{dataset}_transformer_lm{number}": _suite("published:language_transformer", dataset, **sizes)
        for dataset in ("kjv", "lm1b")
        for number, sizes in (
            (0, {"width": 20, "depth": 1, "heads": 5, "length": 8, "dropout": 0.1, "batch_size": 4}),
            (2, {"width": 32, "depth": 2, "heads": 4, "length": 8, "dropout": 0.0, "batch_size": 8}),
            (5, {"width": 32, "depth": 1, "heads": 4, "length": 32, "dropout": 0.0, "batch_size": 8}),
        )
    },
    **{
        f"{dataset}_lstm256": _suite(
            "published:language_lstm", dataset, width=256, embedding=128, length=32, batch_size=128
        )
        for dataset in ("kjv", "austen", "lm1b", "wikipedia")
    },
    "cifar10_autoencoder_full": _suite("autoencoders:autoencoder", "cifar10", batch_size=256),
    # The probe that recipes and weights are chosen by: other data than those of meta-training and evaluation.
    "digits_autoencoder": _suite("autoencoders:autoencoder", "digits", hidden=(64, 16, 64), batch_size=64),
    "digits_conv": _suite("convnets:convnet", "digits", channels=(8, 16, 16), batch_size=32),
    "digits_vit": _suite("transformers:vision_transformer", "digits", patch=2, width=16),
    "flower_fourier": _suite("coordinates:photograph", "flower", network="fourier"),
    "flower_siren": _suite("coordinates:photograph", "flower", network="siren", hidden=(32, 32)),
    "wine_mlp": _suite("tabular:perceptron", "wine"),
}


def make_task(name: str, **settings) -> TaskFamily:
    """The task family registered under `name`; settings are those of its constructor.

    Raises:
      CeloError: if there is no such task, or its data or a package it needs cannot be had.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name](**settings)


__all__ = [
    "CELO_DATASETS",
    "TASKS",
    "Augmented",
    "ImageMLPs",
    "Quadratics",
    "Reparametrisation",
    "Task",
    "TaskFamily",
    "make_task",
    "task_at",
]
