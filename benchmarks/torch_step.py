"""One optimizer step in PyTorch beside torch.optim.AdamW(foreach=True): time, in one run.

    python -m benchmarks.torch_step

Models are those of `benchmarks.step`, in PyTorch's layouts. The contestants take turns, so that ratios hold
when the machine's speed drifts.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import celo.torch
from benchmarks.step import MODELS, Shapes

BASE = "AdamW foreach"
Params = list[torch.nn.Parameter]


def muon(params: Params) -> list[torch.optim.Optimizer]:
    """Muon for matrices, the only ones that it takes, and AdamW for the rest."""
    matrices = [p for p in params if p.dim() == 2]
    rest = [p for p in params if p.dim() != 2]
    others = [torch.optim.AdamW(rest, foreach=True)] if rest else []
    return [torch.optim.Muon(matrices), *others]


def celo_with(kernel: str, orthogonalize: bool) -> Callable[[Params], list[torch.optim.Optimizer]]:
    def make(params: Params) -> list[torch.optim.Optimizer]:
        return [celo.torch.Celo(params, 1_000, kernel=kernel, orthogonalize=orthogonalize)]

    return make


CONTESTANTS: dict[str, Callable[[Params], list[torch.optim.Optimizer]]] = {
    BASE: lambda params: [torch.optim.AdamW(params, foreach=True)],
    "Muon + AdamW": muon,
    "Celo native": celo_with("native", False),
    "Celo native, orthogonalised": celo_with("native", True),
    "Celo eager": celo_with("eager", False),
    "Celo eager, orthogonalised": celo_with("eager", True),
}


def parameters(shapes: Shapes) -> Params:
    """Parameters with gradients; kernels of convolutions as [out, in, height, width]."""
    torch.manual_seed(0)
    params = []
    for shape in shapes.values():
        turned = shape[::-1] if len(shape) == 4 else shape
        p = torch.nn.Parameter(torch.randn(turned) * 0.1)
        p.grad = torch.randn(turned)
        params.append(p)
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each contestant in each round")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    table = Table("optimizer", *options.models)
    rows: dict[str, list[str]] = {name: [] for name in CONTESTANTS}
    for model in options.models:
        steps = {}
        for name, make in CONTESTANTS.items():
            optimizers = make(parameters(MODELS[model]()))
            steps[name] = lambda optimizers=optimizers: [
                o.step(**({"loss": 1.0} if isinstance(o, celo.torch.Celo) else {})) for o in optimizers
            ]
        times: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()
        for _ in range(options.rounds):
            for name, step in steps.items():
                count, start = 0, time.perf_counter()
                while (passed := time.perf_counter() - start) < options.seconds or count == 0:
                    step()
                    count += 1
                times[name].append(passed / count if count else passed)
        base = statistics.median(times[BASE])
        for name in steps:
            ratio = statistics.median(np.array(times[name]) / np.array(times[BASE]))
            rows[name].append(f"{ratio:.1f}" if name != BASE else f"1 ({1e3 * base:.2f} ms)")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console().print(f"times as multiples of {BASE}, {torch.get_num_threads()} threads", table)


if __name__ == "__main__":
    main()
