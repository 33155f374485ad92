"""What a floor of the size that steps are taken for (`min_rms`) is worth at the end of a training.

    python -m benchmarks.floors --task flower_siren cifar10_8x8_mlp32 --steps 200 1000

For each task, or each kind of a family of tasks: final training loss without a floor, and that over the loss
with one; the mean of the last five evaluations, geometric mean of the seeds.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

import celo
from celo._kernels import native
from celo.evaluate._run.training import CurveProgram
from celo.tasks import make_task

FLOORS = (0.0, 0.01, 0.03, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", nargs="+", required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", default="celo")
    options = parser.parse_args()
    kernel = "native" if native.available() else "xla"
    table = Table("task", "steps", "loss at 0", *(f"/ at {floor:g}" for floor in FLOORS[1:]))
    for steps in options.steps:

        def make(floor, steps=steps):
            return celo.celo(steps, weights=options.weights, min_rms=floor, kernel=kernel)

        for name in options.task:
            family = make_task(name)
            for member, kind in enumerate(family.members):
                # The slot of the learning rate carries the floor.
                program = CurveProgram(family, member, make, num_steps=steps, eval_every=20)
                curves = program.curves(FLOORS, range(options.seeds))
                final = np.exp(np.log(curves.train_loss[..., -5:].mean(axis=-1)).mean(axis=-1))
                ratios = (f"{final[0] / one:.3g}" for one in final[1:])
                table.add_row(
                    kind if len(family.members) > 1 else name, f"{steps:,}", f"{final[0]:.4g}", *ratios
                )
    Console().print(table)


if __name__ == "__main__":
    main()
