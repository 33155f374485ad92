"""What each change of the recipe of the shipped weights was worth on suite `probe`: a figure.

    python -m benchmarks.stages

`results/ablation/probe.json` has, for each stage and its three seeds, the loss ratios by task: that of the
weights `celo-1` over its own, from the entries of `results/LOG.md` that say how they were measured.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from celo._plotting import LIGHT
from celo.evaluate import aggregate

FOLDER = Path("results/ablation")
STAGES = {  # what it is called in the log -> what was new in it
    "short": "steps of the rule, orthogonalised",
    "fix": "+ first sizes (start_power)",
    "long": "+ twice the outer steps and particles",
    "floor": "+ floor of sizes put back to 0.01",
    "unit": "+ matrices along their momentum, untrained",
    "sequence": "momentum trained from phase 2 on (celo)",
}


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    by_stage = json.loads((FOLDER / "probe.json").read_text(encoding="utf-8"))
    with rc_context(LIGHT.style()):
        figure = Figure(figsize=(8.5, 3.4), dpi=110, layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(reversed(STAGES)):
            scores = [float(aggregate.iqm(np.array(list(seed.values())))) for seed in by_stage[name]]
            axes.plot(scores, [place] * len(scores), "o", color=LIGHT.celo, alpha=0.55, markeredgewidth=0)
            axes.plot([np.median(scores)] * 2, [place - 0.28, place + 0.28], color=LIGHT.celo, linewidth=2)
            print(f"{STAGES[name]:45s}", " ".join(f"{score:.2f}" for score in scores))
        axes.axvline(1.0, color=LIGHT.ink, linewidth=0.8)
        axes.text(1.0, len(STAGES) - 0.4, " celo-1, element-wise", va="bottom", fontsize="small")
        axes.set(
            ylim=(-0.6, len(STAGES)), xlabel="loss ratio to celo-1 over eleven tasks, interquartile mean"
        )
        axes.set_yticks(range(len(STAGES)), list(STAGES.values())[::-1])
        figure.savefig(FOLDER / "probe.png")


if __name__ == "__main__":
    main()
