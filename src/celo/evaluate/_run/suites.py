"""Suites: fixed lists of tasks to judge optimizers by, and how each is run."""

import dataclasses
from collections.abc import Sequence

from celo._errors import CeloError, unknown_name
from celo.evaluate._run.training import EVAL_EVERY
from celo.evaluate._settings import TaskSettings
from celo.tasks._registry import TASKS

# The 17 tasks of Celo's paper (arXiv 2501.12670): the published name, the task here and, where that one has
# other data, the task on the published data, which no package hands out. Fashion-MNIST and CIFAR-10 stand in
# for CIFAR-100, the characters of the King James Bible for the word pieces of LM1B, those of Jane Austen's
# novels for Wikipedia's.
CELO_TASKS: tuple[tuple[str, str, str | None], ...] = (
    ("ImageMLP_FashionMnist_Relu128x128", "fashion_mnist_mlp_relu", None),
    ("ImageMLP_Cifar10_128x128x128_LayerNorm_Relu", "cifar10_mlp_layernorm_full", None),
    ("ImageMLP_Cifar10_128x128x128_Tanh_bs128", "cifar10_mlp_tanh_full", None),
    ("Conv_Cifar10_32x64x64", "cifar10_conv_full", None),
    ("Conv_Cifar10_32x64x64_batchnorm", "cifar10_conv_batchnorm_full", None),
    ("Conv_Cifar10_32x64x64_layernorm", "cifar10_conv_layernorm_full", None),
    ("Conv_Cifar100_32x64x64", "fashion_mnist_conv_full", "cifar100_conv_full"),
    ("VIT_Cifar100_wideshallow", "cifar10_vit_wideshallow", "cifar100_vit_wideshallow"),
    ("VIT_Cifar100_skinnydeep", "cifar10_vit_skinnydeep", "cifar100_vit_skinnydeep"),
    ("TransformerLM_LM1B_MultiRuntime_0", "kjv_transformer_lm0", "lm1b_transformer_lm0"),
    ("TransformerLM_LM1B_MultiRuntime_2", "kjv_transformer_lm2", "lm1b_transformer_lm2"),
    ("TransformerLM_LM1B_MultiRuntime_5", "kjv_transformer_lm5", "lm1b_transformer_lm5"),
    ("ImageMLPAE_Cifar10_128x32x128_bs256", "cifar10_autoencoder_full", None),
    ("ImageMLPAE_Mnist_128x32x128_bs128", "mnist_autoencoder", None),
    ("RNNLM_lm1b32k_Patch32_LSTM256_Embed128", "kjv_lstm256", "lm1b_lstm256"),
    ("RNNLM_wikipediaen32k_Patch32_LSTM256_Embed128", "austen_lstm256", "wikipedia_lstm256"),
    ("LOpt_AdafacMLPLOpt_FashionMnist_50", "celo.evaluate:training_adafac_mlp", None),
)


def _celo_tasks(*, published_data: bool) -> tuple[TaskSettings, ...]:
    return tuple(
        TaskSettings(
            original if published_data and original else here, eval_every=EVAL_EVERY, stands_for=name
        )
        for name, here, original in CELO_TASKS
    )


SUITES: dict[str, tuple[TaskSettings, ...]] = {
    # Each a run of seconds on one core.
    "laptop": tuple(
        TaskSettings(name)
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
    # What recipes and weights are chosen by: neither the data of meta-training nor those of evaluation. The
    # classifiers would know their examples by heart before 2,000 steps.
    "probe": (
        *(
            TaskSettings(name, num_steps=300, eval_every=5)
            for name in (
                "digits_mlp128x128",
                "digits_mlp_tanh",
                "digits_conv",
                "digits_conv_batchnorm",
                "digits_vit",
                "digits_mixer",
                "wine_mlp",
            )
        ),
        *(
            TaskSettings(name, num_steps=500, eval_every=5)
            for name in (
                "letters_mlp_relu",
                "letters_mlp_tanh",
                "letters_mlp_layernorm",
                "satellite_mlp_relu",
            )
        ),
        *(
            TaskSettings(name)
            for name in (
                "digits_autoencoder",
                "digits_vae",
                "flower_fourier",
                "flower_siren",
                "moby_dick_transformer",
                "moby_dick_lstm",
                "moby_dick_gru",
            )
        ),
    ),
    # Each a run of minutes, of 0.3 to 1.5 million parameters.
    "medium": tuple(
        TaskSettings(name, num_steps=1000)
        for name in (
            "austen_gpt",
            "kjv_word_gpt",
            "cifar10_resnet32",
            "cifar10_vit32",
            "fashion_mnist_denoiser",
        )
    ),
    "paper": _celo_tasks(published_data=False),
    "published": _celo_tasks(published_data=True),  # needs CIFAR-100, LM1B and Wikipedia
}
"""The suites by name; a task of several of them runs alone as in the first of these."""


def suite_tasks(suite: str | None, tasks: Sequence[str], num_steps: int | None) -> tuple[TaskSettings, ...]:
    """The tasks of a suite, "laptop" if nothing is named, or those named; `num_steps` replaces theirs.

    With both, the tasks are some of the suite's. A task named alone runs as in the first suite that has it,
    which is "laptop" where that does, and one that is in none as tasks of "laptop" do.

    Raises:
      CeloError: if there is no such suite or task, the suite has no such task, or the steps are not positive.
    """
    if suite is not None and suite not in SUITES:
        raise unknown_name("suite", suite, SUITES)
    if num_steps is not None and num_steps < 1:
        raise CeloError(f"num_steps must be at least 1, got {num_steps}")
    known: dict[str, TaskSettings] = {}
    for task in (task for name in ([suite] if suite else SUITES) for task in SUITES[name]):
        known.setdefault(task.name, task)
    for name in tasks:
        if suite is not None and name not in known:
            raise unknown_name(f"task of suite {suite}", name, known)
        if ":" not in name and name not in TASKS:
            raise unknown_name("task", name, TASKS)
    found = tuple(known.get(name, TaskSettings(name)) for name in tasks) or SUITES[suite or "laptop"]
    return found if num_steps is None else tuple(dataclasses.replace(t, num_steps=num_steps) for t in found)
