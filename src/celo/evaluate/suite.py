"""Suites: fixed lists of tasks to judge optimizers by, and how each is run."""

import dataclasses
from collections.abc import Sequence

from celo.errors import CeloError, unknown_name
from celo.evaluate.curve import EVAL_EVERY
from celo.tasks import TASKS, TaskFamily, make_task, task_at


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """A task of a suite and what a training curve of it needs; the batches of an evaluation are Celo's.

    Attributes:
      name: what `load_task` takes.
      num_steps: training steps of a run.
      eval_every: steps between evaluations.
      stands_for: the published task, where this one is not under its name.
    """

    name: str
    num_steps: int = 2000
    eval_every: int = 20  # a hundred points; at Celo's 10, evaluation would cost a third of the training
    stands_for: str = ""


SUITES: dict[str, tuple[SuiteTask, ...]] = {
    # The 17 tasks of Celo's paper (arXiv 2501.12670). Where data cannot be had others stand in: Fashion-MNIST
    # and CIFAR-10 for CIFAR-100, the characters of the King James Bible for the word pieces of LM1B and, to a
    # GRU, of Wikipedia; and Celo's rule for AdaFac-MLP. Who has the data finds the published tasks as
    # cifar100_…, lm1b_… and wikipedia_….
    "paper": tuple(
        SuiteTask(name, eval_every=EVAL_EVERY, stands_for=published)
        for name, published in (
            ("fashion_mnist_mlp_relu", "ImageMLP_FashionMnist_Relu128x128"),
            ("cifar10_mlp_layernorm_full", "ImageMLP_Cifar10_128x128x128_LayerNorm_Relu"),
            ("cifar10_mlp_tanh_full", "ImageMLP_Cifar10_128x128x128_Tanh_bs128"),
            ("cifar10_conv_full", "Conv_Cifar10_32x64x64"),
            ("cifar10_conv_batchnorm_full", "Conv_Cifar10_32x64x64_batchnorm"),
            ("cifar10_conv_layernorm_full", "Conv_Cifar10_32x64x64_layernorm"),
            ("fashion_mnist_conv_full", "Conv_Cifar100_32x64x64"),
            ("cifar10_vit_wideshallow", "VIT_Cifar100_wideshallow"),
            ("cifar10_vit_skinnydeep", "VIT_Cifar100_skinnydeep"),
            ("kjv_transformer_lm0", "TransformerLM_LM1B_MultiRuntime_0"),
            ("kjv_transformer_lm2", "TransformerLM_LM1B_MultiRuntime_2"),
            ("kjv_transformer_lm5", "TransformerLM_LM1B_MultiRuntime_5"),
            ("cifar10_autoencoder_full", "ImageMLPAE_Cifar10_128x32x128_bs256"),
            ("mnist_autoencoder", "ImageMLPAE_Mnist_128x32x128_bs128"),
            ("kjv_lstm256", "RNNLM_lm1b32k_Patch32_LSTM256_Embed128"),
            ("kjv_gru256", "RNNLM_wikipediaen32k_Patch32_LSTM256_Embed128"),
            ("celo.evaluate.inner_training:fashion_mnist", "LOpt_AdafacMLPLOpt_FashionMnist_50"),
        )
    ),
    # What recipes and weights are chosen by: neither the data of meta-training nor those of evaluation.
    "probe": tuple(
        SuiteTask(name)
        for name in (
            "digits_mlp128x128",
            "digits_autoencoder",
            "digits_conv",
            "digits_vit",
            "flower_fourier",
            "flower_siren",
            "wine_mlp",
        )
    ),
    # Each a run of seconds on one core.
    "laptop": tuple(
        SuiteTask(name)
        for name in (
            "quadratic",
            "breast_cancer_mlp",
            "diabetes_mlp",
            "china_fourier",
            "china_siren",
            "fashion_mnist_mlp_relu",
            "cifar10_mlp_layernorm",
            "cifar10_mlp_tanh",
            "cifar10_conv",
            "cifar10_conv_batchnorm",
            "cifar10_conv_layernorm",
            "fashion_mnist_resnet_groupnorm",
            "fashion_mnist_mixer",
            "cifar10_vit",
            "mnist_autoencoder",
            "cifar10_autoencoder",
            "mnist_vae",
            "kjv_lstm",
            "kjv_gru",
            "kjv_transformer",
        )
    ),
}


def suite_tasks(suite: str | None, tasks: Sequence[str], num_steps: int | None) -> tuple[SuiteTask, ...]:
    """The tasks of a suite, "laptop" if nothing is named, or single ones; `num_steps` replaces theirs.

    A task named alone that is not in a suite runs as tasks of "laptop" do.

    Raises:
      CeloError: if there is no such suite or task, both are given, or the steps are not positive.
    """
    if suite is not None and tasks:
        raise CeloError(f"--suite {suite} and --task {' '.join(tasks)}: name a suite or tasks, not both")
    if suite is not None and suite not in SUITES:
        raise unknown_name("suite", suite, SUITES)
    if num_steps is not None and num_steps < 1:
        raise CeloError(f"steps must be at least 1, got {num_steps}")
    for name in tasks:
        if ":" not in name and name not in TASKS:
            raise unknown_name("task", name, TASKS)
    known = {task.name: task for members in SUITES.values() for task in members}
    found = tuple(known.get(name, SuiteTask(name)) for name in tasks) or SUITES[suite or "laptop"]
    return found if num_steps is None else tuple(dataclasses.replace(t, num_steps=num_steps) for t in found)


def load_task(name: str) -> TaskFamily:
    """The task family registered under `name`, or your own at "package.module:attribute".

    Raises:
      CeloError: if there is no such task, or its data or a package it needs cannot be had.
    """
    return task_at(name) if ":" in name else make_task(name)
