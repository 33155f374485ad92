"""The registry of tasks: a new one is a file in `_models` and a line here.

A line is a name and a factory of a `TaskFamily`, whose settings are keyword arguments.
"""

from collections.abc import Callable
from functools import partial

from jax import numpy as jnp

from celo._errors import CeloError, in_a_line, unknown_name
from celo._import_path import attribute_at, top_level
from celo.tasks._base import TaskFamily
from celo.tasks._models.perceptrons import ImageMLPs
from celo.tasks._models.quadratic import Quadratics
from celo.tasks._sources import CELO_DATASETS


def task_at(path: str, *args, **settings) -> TaskFamily:
    """The task family at an import path: a `TaskFamily`, or a function that makes one of the arguments.

    Args:
      path: "package.module:attribute"; the module is imported only now.
      args: for the function.
      settings: for the function.

    Raises:
      CeloError: the path is malformed, nothing is there, it is no task, the function fails, or it needs Flax,
        which is missing.
    """
    attribute = attribute_at(path, "task")
    if not isinstance(attribute, TaskFamily) and callable(attribute):
        try:
            attribute = attribute(*args, **settings)
        except ModuleNotFoundError as error:  # of a function that imports Flax when it is called
            if (error.name or "").partition(".")[0] == "flax":
                raise CeloError(f"task {path!r} needs flax: pip install 'celo[suite]'") from error
            raise
        except CeloError:
            raise
        except Exception as error:
            if path.startswith("celo."):
                raise
            raise CeloError(
                f"task {path!r} cannot be made: {in_a_line(error, (top_level(path),))}"
            ) from error
    if not isinstance(attribute, TaskFamily):
        raise CeloError(
            f"task {path!r} is a {type(attribute).__name__}: name a TaskFamily or a function that returns one"
        )
    return attribute


def _model(path: str, *args, **settings) -> Callable[..., TaskFamily]:
    """A factory in `_models`, imported only when its task is made, because most of that folder needs Flax."""
    return partial(task_at, f"celo.tasks._models.{path}", *args, **settings)


TASKS: dict[str, Callable[..., TaskFamily]] = {
    # Meta-training: Celo's perceptrons 64-32-10 on all four image sets at 8x8, and other small networks.
    "celo_image_mlps": ImageMLPs,
    "small_deep_perceptrons": _model("small:deep_perceptrons"),
    "small_convnets": _model("small:convnets"),
    "small_transformers": _model("small:transformers"),
    "small_recurrent": _model("small:recurrent"),
    "small_autoencoders": _model("small:autoencoders"),
    "small_coordinates": _model("small:coordinates"),
    "small_language": _model(
        "transformers:language_model",
        "state_of_the_union",
        **{"length": 16, "width": 24, "depth": 1, "heads": 2, "batch_size": 8},
    ),
    # The same kind of perceptron on one set.
    **{f"{name}_8x8_mlp32": partial(ImageMLPs, (name,)) for name in (*CELO_DATASETS, "digits", "svhn")},
    "digits_mlp128x128": partial(ImageMLPs, ("digits",), hidden=(128, 128)),
    "fashion_mnist_mlp128x128": partial(
        ImageMLPs, ("fashion_mnist",), size=28, hidden=(128, 128), batch_size=128
    ),
    # The evaluation suite; which tasks belong to which suite is said in `celo.evaluate`.
    "quadratic": Quadratics,
    "fashion_mnist_mlp_relu": _model("perceptrons:image_classifier", "fashion_mnist", hidden=(128, 128)),
    "cifar10_mlp_layernorm": _model(
        "perceptrons:image_classifier", "cifar10", size=16, hidden=(128, 128, 128), layer_norm=True
    ),
    "cifar10_mlp_tanh": _model(
        "perceptrons:image_classifier", "cifar10", size=16, hidden=(128, 128, 128), activation=jnp.tanh
    ),
    "cifar10_conv": _model("convnets:convnet", "cifar10", size=16),
    "cifar10_conv_batchnorm": _model("convnets:convnet", "cifar10", size=16, norm="batch"),
    "cifar10_conv_layernorm": _model("convnets:convnet", "cifar10", size=16, norm="layer"),
    "fashion_mnist_resnet_groupnorm": _model("convnets:resnet", "fashion_mnist", size=14),
    "cifar10_vit": _model("transformers:vision_transformer", "cifar10", size=16),
    "fashion_mnist_mixer": _model("transformers:mixer", "fashion_mnist"),
    "mnist_autoencoder": _model("autoencoders:autoencoder", "mnist"),
    "cifar10_autoencoder": _model("autoencoders:autoencoder", "cifar10", size=16),
    "mnist_vae": _model("autoencoders:variational", "mnist"),
    "kjv_transformer": _model("transformers:language_model"),
    "kjv_lstm": _model("recurrent:language_model", cell="lstm"),
    "kjv_gru": _model("recurrent:language_model", cell="gru"),
    "breast_cancer_mlp": _model("perceptrons:table_model", "breast_cancer"),
    "diabetes_mlp": _model("perceptrons:table_model", "diabetes"),
    "china_fourier": _model("coordinates:photograph", "china", network="fourier"),
    "china_siren": _model("coordinates:photograph", "china", network="siren"),
    # Celo's own evaluation tasks as published, except for the data: Fashion-MNIST, CIFAR-10, kjv and austen
    # replace published sets that no package provides.
    "cifar10_mlp_layernorm_full": _model(
        "perceptrons:image_classifier", "cifar10", hidden=(128, 128, 128), layer_norm=True
    ),
    "cifar10_mlp_tanh_full": _model(
        "perceptrons:image_classifier", "cifar10", hidden=(128, 128, 128), activation=jnp.tanh
    ),
    **{
        f"{dataset}_conv{suffix}_full": _model(
            "convnets:convnet",
            dataset,
            **{"channels": (32, 64, 64), "norm": norm, "strided": 1, "norm_last": True, "batch_size": 128},
        )
        for dataset in ("cifar10", "cifar100", "fashion_mnist")
        for suffix, norm in (("", "none"), ("_batchnorm", "batch"), ("_layernorm", "layer"))
    },
    **{
        f"{dataset}_vit_{shape}": _model(
            "published:vision_transformer", dataset, patch=16, batch_size=128, **sizes
        )
        for dataset in ("cifar10", "cifar100")
        for shape, sizes in (
            ("wideshallow", {"width": 384, "depth": 6, "heads": 6}),
            ("skinnydeep", {"width": 128, "depth": 10, "heads": 4}),
        )
    },
    **{
        f"{dataset}_transformer_lm{number}": _model("published:language_transformer", dataset, **sizes)
        for dataset in ("kjv", "lm1b")
        for number, sizes in (
            (0, {"width": 20, "depth": 1, "heads": 5, "length": 8, "dropout": 0.1, "batch_size": 4}),
            (2, {"width": 32, "depth": 2, "heads": 4, "length": 8, "dropout": 0.0, "batch_size": 8}),
            (5, {"width": 32, "depth": 1, "heads": 4, "length": 32, "dropout": 0.0, "batch_size": 8}),
        )
    },
    **{
        f"{dataset}_lstm256": _model(
            "published:language_lstm", dataset, width=256, embedding=128, length=32, batch_size=128
        )
        for dataset in ("kjv", "austen", "lm1b", "wikipedia")
    },
    "cifar10_autoencoder_full": _model("autoencoders:autoencoder", "cifar10", batch_size=256),
    # Suite `medium`: 0.3 to 1.5 million parameters.
    "austen_gpt": _model(
        "transformers:language_model", "austen", length=64, width=128, depth=4, heads=4, batch_size=16
    ),
    "kjv_word_gpt": _model(
        "transformers:language_model",
        "kjv",
        **{"words": 4096, "length": 32, "width": 128, "depth": 2, "heads": 4, "batch_size": 16},
    ),
    "cifar10_resnet32": _model("convnets:resnet", "cifar10", channels=(32, 64, 128), batch_size=16),
    "cifar10_vit32": _model(
        "transformers:vision_transformer", "cifar10", width=128, depth=4, heads=4, batch_size=16
    ),
    "fashion_mnist_denoiser": _model(
        "denoisers:denoiser", "fashion_mnist", channels=(32, 64, 96), batch_size=8
    ),
    # The probe, by which recipes and weights are chosen: data of neither meta-training nor evaluation.
    "digits_autoencoder": _model("autoencoders:autoencoder", "digits", hidden=(64, 16, 64), batch_size=64),
    "digits_conv": _model("convnets:convnet", "digits", channels=(8, 16, 16), batch_size=32),
    "digits_vit": _model("transformers:vision_transformer", "digits", patch=2, width=16),
    "flower_fourier": _model("coordinates:photograph", "flower", network="fourier"),
    "flower_siren": _model("coordinates:photograph", "flower", network="siren", hidden=(32, 32)),
    "wine_mlp": _model("perceptrons:table_model", "wine"),
    **{
        name: _model("perceptrons:table_model", dataset, dropout=0.0, batch_size=128, **settings)
        for name, dataset, settings in (
            ("letters_mlp_relu", "letters", {"hidden": (128, 128)}),
            ("letters_mlp_tanh", "letters", {"hidden": (128, 128, 128), "activation": jnp.tanh}),
            ("letters_mlp_layernorm", "letters", {"hidden": (128, 128, 128), "layer_norm": True}),
            ("satellite_mlp_relu", "satellite", {"hidden": (128, 128)}),
        )
    },
    "digits_mlp_tanh": _model(
        "perceptrons:image_classifier", "digits", hidden=(64, 64, 64), activation=jnp.tanh
    ),
    "digits_conv_batchnorm": _model(
        "convnets:convnet", "digits", channels=(8, 16, 16), norm="batch", batch_size=32
    ),
    "digits_mixer": _model("transformers:mixer", "digits", patch=2, width=16),
    "digits_vae": _model("autoencoders:variational", "digits", batch_size=64),
    "moby_dick_transformer": _model("transformers:language_model", "moby_dick"),
    "moby_dick_lstm": _model("recurrent:language_model", "moby_dick", cell="lstm"),
    "moby_dick_gru": _model("recurrent:language_model", "moby_dick", cell="gru", batch_size=32),
}
"""Factories of all task families by name."""


def make_task(name: str, **settings) -> TaskFamily:
    """The task family registered under `name`, or your own at "package.module:attribute".

    Args:
      name: a key of `TASKS` or an import path.
      settings: replace those of its factory.

    Raises:
      CeloError: there is no such task, or its data or a package it needs is unavailable.
    """
    if ":" in name:
        return task_at(name, **settings)
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name](**settings)
