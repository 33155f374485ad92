"""What `benchmarks.comparison` found: scores of records, the table, the paper's claims, the figure.

The table, the claims and the figure are of comparison.json alone, which is `known` here.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from celo.evaluate import Record, aggregate, leaderboard
from celo.evaluate._settings import ADAM

AUGMENTATIONS = ("global", "none")
JOINT = "celo_joint"
SUITE, EVALUATION_SEED = "laptop", 0
BASELINES = {"velo_s": "VeLO-S", "rnn_mlp": "RNN-MLP", "adafac_mlp": "AdaFac-MLP", "nn_adam": "NN-Adam"}


class Claim(NamedTuple):
    """That `higher` has the higher loss ratio; each side is (variant, augmentation) or Adam."""

    text: str
    higher: tuple[str, str] | str
    lower: tuple[str, str] | str


_CELO = ("celo", "global")
CLAIMS = (
    Claim("Celo ends above Adam (paper: 1.20)", _CELO, ADAM),
    Claim("Trained in one phase Celo ends below Adam (paper: 0.89)", ADAM, (JOINT, "global")),
    Claim("Two phases are better than one", _CELO, (JOINT, "global")),
    Claim("Augmentation helps Celo", _CELO, ("celo", "none")),
    Claim("The learned rule helps: Celo ends above Celo-Adam", _CELO, ("celo_adam", "global")),
    *(
        Claim(f"Celo ends above {title}, both augmented", _CELO, (x, "global"))
        for x, title in BASELINES.items()
    ),
    *(
        Claim(f"{title} without augmentation ends below Adam", ADAM, (x, "none"))
        for x, title in BASELINES.items()
    ),
)


def one_seed(record: Record) -> Record:
    """The record as if the evaluation seed were its only one: the recorded Adam has three."""
    place = record.seeds.index(EVALUATION_SEED)
    protocol = dataclasses.replace(record.settings.protocol, seeds=(EVALUATION_SEED,))
    return dataclasses.replace(
        record,
        train_loss=record.train_loss[[place]],
        valid_loss=record.valid_loss[[place]],
        metrics={name: values[[place]] for name, values in record.metrics.items()},
        settings=dataclasses.replace(record.settings, protocol=protocol),
        equal_time=None,
    )


def scores_of(records: Sequence[Record], adams: Sequence[Record]) -> dict[str, Any]:
    """Contestant -> its scores beside Adam's; whoever lacks tasks that others have is left out."""
    counts = Counter(one.contestant for one in records)
    whole = [one for one in records if counts[one.contestant] == max(counts.values())]
    tasks = {one.task for one in whole}
    board = leaderboard([*(one_seed(one) for one in adams if one.task in tasks), *whole])
    return {
        one.contestant: {
            "ratio": float(one.scores["ratio_iqm"].value),
            "speedup": float(one.scores["speedup_iqm"].value),
            "step_cost": one.cost,
            "diverged": one.diverged,
            "ratios": {task: float(one.entries[task].ratio[0]) for task in one.counted},
        }
        for one in board.standings
        if one.contestant != ADAM
    }


def scored(known: Mapping[str, Any]) -> dict[tuple[str, str], list[tuple[Any, Any]]]:
    """(variant, augmentation) -> (run, scores) of each training that has both; the best first."""
    found: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for name, run in known["runs"].items():
        if name in known["scores"]:
            found.setdefault((run["variant"], run["augmentation"]), []).append((run, known["scores"][name]))
    return dict(sorted(found.items(), key=lambda item: -pooled(item[1])))


def pooled(seeds: Sequence[tuple[Any, Any]]) -> float:
    """Interquartile mean of the loss ratios over tasks and trainings."""
    return float(aggregate.iqm([[score["ratios"][x] for _, score in seeds] for x in seeds[0][1]["ratios"]]))


def table(known: Mapping[str, Any]) -> str:
    """In Markdown."""
    lines = [
        "| optimizer | augmentation | loss ratio | of each seed | speedup | meta-loss | learning rate | "
        "outer steps | inner steps/CPU s | CPU min | set-up, min |",
        "| :-- | :-- | --: | :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for (_, augmentation), seeds in scored(known).items():
        runs, scores = [run for run, _ in seeds], [score for _, score in seeds]
        speed = np.mean([one["inner_steps"] * sum(one["steps"].values()) / one["seconds"] for one in runs])
        cells = [
            *(runs[0]["title"], augmentation, f"{pooled(seeds):.2f}"),
            " ".join(f"{score['ratio']:.2f}" for score in scores),
            f"{np.mean([score['speedup'] for score in scores]):.2f}",
            f"{np.mean([run['meta_loss'] for run in runs]):.3f}",
            f"{runs[0]['rate']:g}",
            " + ".join(f"{count:,}" for count in runs[0]["steps"].values()),
            f"{speed:,.0f}",
            *(f"{np.mean([run[part] for run in runs]) / 60:.1f}" for part in ("seconds", "setup")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    budget = f"{known['minutes']:g} core-minutes of meta-training each, compiling apart"
    return "\n".join([*lines, "", f"{budget}; tuned Adam has the loss ratio 1."])


def verdicts(known: Mapping[str, Any]) -> list[str]:
    """What becomes of each claim: all seeds of one side must be on one side of all of the other's."""
    ratios: dict[Any, list[float]] = {ADAM: [1.0]}
    ratios |= {key: [score["ratio"] for _, score in seeds] for key, seeds in scored(known).items()}
    told = []
    for claim in CLAIMS:
        if claim.higher in ratios and claim.lower in ratios:
            high, low = ratios[claim.higher], ratios[claim.lower]
            word = "confirmed" if min(high) > max(low) else "refuted" if max(high) < min(low) else "undecided"
            sides = [", ".join(f"{ratio:.2f}" for ratio in side) for side in (high, low)]
            told.append(f"- {claim.text}: **{word}** ({sides[0]} against {sides[1]})")
    return told


def draw(known: Mapping[str, Any], path: Path) -> None:
    """A row for each optimizer: a dot for each training, their range, and a bar for all together."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from celo._plotting import LIGHT

    found = scored(known)
    titles = list(dict.fromkeys(seeds[0][0]["title"] for seeds in found.values()))
    colours: dict[str, str] = {"global": LIGHT.celo, "none": LIGHT.others[0]}
    with rc_context(LIGHT.style()):
        figure = Figure(figsize=(9, 1.4 + 0.5 * len(titles)), layout="constrained", dpi=150)
        axes = figure.subplots()
        for (_, augmentation), seeds in found.items():
            colour = colours[augmentation]
            height = -titles.index(seeds[0][0]["title"]) + (0.16 if augmentation == "global" else -0.16)
            dots = [score["ratio"] for _, score in seeds]
            axes.plot([min(dots), max(dots)], [height] * 2, color=colour, linewidth=5, alpha=0.25)
            axes.plot(dots, [height] * len(dots), "o", color=colour, markersize=4)
            axes.plot([pooled(seeds)], [height], "|", color=colour, markersize=13, markeredgewidth=2.5)
        for augmentation, colour in colours.items():
            axes.plot([], [], "o", color=colour, label=f"augmentation: {augmentation}")
        axes.axvline(1.0, color=LIGHT.ink, linewidth=1)
        axes.annotate("tuned Adam", (1.0, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
        axes.set_yticks([-number for number in range(len(titles))], titles)
        axes.set_ylim(0.5 - len(titles), 0.5)
        axes.set_xlabel(f"loss ratio on {SUITE}, {known['minutes']:g} core-minutes of meta-training each")
        axes.grid(axis="x", alpha=0.25)
        figure.legend(loc="outside lower right", frameon=False, ncols=2)
        figure.savefig(path)
