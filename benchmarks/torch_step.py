"""Optimizers in PyTorch beside torch.optim.AdamW: the time of a step, and of a training step of a GPT.

    python -m benchmarks.torch_step                  # on the CPU, beside AdamW(foreach=True)
    python -m benchmarks.torch_step --device cuda    # beside AdamW(fused=True); a GPT of 124 M, too

Models are those of `benchmarks.step`, in PyTorch's layouts. The contestants take turns, so that ratios hold
when the machine's speed drifts. Weights of Celo2 and VeLO are fresh ones: a step costs what it costs.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import celo.torch
from benchmarks.step import MODELS, Shapes
from celo.optimizers import Celo2, LearnedOptimizer, Velo

BASE = "AdamW"
Params = list[nn.Parameter]
Make = Callable[[Params], list[torch.optim.Optimizer]]
# Layers, width, heads, vocabulary, context, sequences in a batch.
GPTS = {"tiny": (1, 32, 2, 100, 16, 2), "124 M": (12, 768, 12, 50_304, 1024, 8)}


def muon(params: Params) -> list[torch.optim.Optimizer]:
    """Muon for matrices, the only ones that it takes, and AdamW for the rest."""
    matrices = [p for p in params if p.dim() == 2]
    rest = [p for p in params if p.dim() != 2]
    others = [torch.optim.AdamW(rest, foreach=True)] if rest else []
    return [torch.optim.Muon(matrices), *others]


def contestants(device: str) -> dict[str, Make]:
    """What makes the optimizers of parameters, by name; the first is what others are compared with."""
    base = {"fused": True} if device == "cuda" else {"foreach": True}

    def one(make: Callable[..., torch.optim.Optimizer], *args: Any, **options: Any) -> Make:
        return lambda params: [make(params, *args, **options)]

    found: dict[str, Make] = {BASE: one(torch.optim.AdamW, **base), "Muon + AdamW": muon}
    celo2, velo = _fresh(Celo2()), _fresh(Velo())
    for kernel in ("triton" if device == "cuda" else "native", "eager"):
        of_celo = {"kernel": kernel, "weights": "celo"}
        found |= {
            f"Celo {kernel}": one(celo.torch.Celo, 1_000, orthogonalize=False, **of_celo),
            f"Celo {kernel}, orthogonalised": one(celo.torch.Celo, 1_000, orthogonalize=True, **of_celo),
            f"VeLO-S {kernel}": one(celo.torch.VeLO, 1_000, weights=velo, kernel=kernel),
        }
        if kernel != "triton":  # it has none of Celo2's rule
            found |= {
                f"Celo2 {kernel}": one(celo.torch.Celo2, weights=celo2, kernel=kernel),
                f"Celo2-base {kernel}": one(celo.torch.Celo2Base, weights=celo2, kernel=kernel),
            }
    return found


def _fresh(optimizer: LearnedOptimizer) -> Any:
    return jax.jit(optimizer.init_theta)(jax.random.key(0))


def take_step(optimizers: list[torch.optim.Optimizer], loss: Any) -> None:
    for optimizer in optimizers:
        if isinstance(optimizer, celo.torch.Celo | celo.torch.VeLO):
            optimizer.step(loss=loss)
        else:
            optimizer.step()


def parameters(shapes: Shapes, device: str) -> Params:
    """Parameters with gradients; kernels of convolutions as [out, in, height, width]."""
    torch.manual_seed(0)
    params = []
    for shape in shapes.values():
        turned = shape[::-1] if len(shape) == 4 else shape
        p = nn.Parameter(0.1 * torch.randn(turned, device=device))
        p.grad = torch.randn_like(p)
        params.append(p)
    return params


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """GPT-2's architecture, the head tied to the embedding."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, context: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.blocks(self.tokens(tokens) + self.places.weight))
        return nn.functional.cross_entropy((x @ self.tokens.weight.T).flatten(0, 1), targets.flatten())


def standing(params: Params, device: str) -> dict[str, list[torch.optim.Optimizer]]:
    """All contestants on the same parameters, which stay where they are: rates are 0."""
    made = {name: make(params) for name, make in contestants(device).items()}
    for group in (g for own in made.values() for optimizer in own for g in optimizer.param_groups):
        group["lr"] = 0.0
    return made


def of_steps(model: str, device: str) -> dict[str, Callable[[], None]]:
    """One step of each contestant."""
    made = standing(parameters(MODELS[model](), device), device)
    return {name: lambda own=own: take_step(own, 1.0) for name, own in made.items()}


def of_training(size: str, device: str) -> dict[str, Callable[[], None]]:
    """One training step by each contestant, in bfloat16 on a GPU."""
    layers, width, heads, vocabulary, context, sequences = GPTS[size]
    torch.manual_seed(0)
    model = GPT(layers, width, heads, vocabulary, context).to(device)
    tokens = torch.randint(0, vocabulary, (sequences, context + 1), device=device)

    def train(own: list[torch.optim.Optimizer]) -> None:
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        take_step(own, loss)

    made = standing(list(model.parameters()), device)
    return {name: lambda own=own: train(own) for name, own in made.items()}


def times(
    calls: dict[str, Callable[[], None]], device: str, rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of one call, in each round, by contestant."""

    def elapsed(call: Callable[[], None]) -> float:
        count, start = 0, clock()
        while count == 0 or clock() - start < seconds:
            call()
            count += 1
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) / count

    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.synchronize()
            found[name].append(elapsed(call))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each contestant in each round")
    parser.add_argument(
        "--models", nargs="*", choices=MODELS, metavar="MODEL", help="default: up to 10 M on a CPU"
    )
    parser.add_argument("--gpt", choices=GPTS, help="time training steps, too; default on a GPU: 124 M")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds, of all cores")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    models = ["transformer 100 M"] if on_gpu else [name for name in MODELS if not name.endswith("100 M")]
    models = models if options.models is None else options.models
    made = {name: partial(of_steps, name, options.device) for name in models}
    if gpt := options.gpt or ("124 M" if on_gpu else None):
        made[f"training step, GPT {gpt}"] = partial(of_training, gpt, options.device)
    clock = time.process_time if options.cpu else time.perf_counter
    table = Table("optimizer", *made)
    rows: dict[str, list[str]] = {}
    for calls in made.values():
        found = times(calls(), options.device, options.rounds, options.seconds, clock)
        base = np.array(found[BASE])
        for name, mine in found.items():
            ratio = statistics.median(np.array(mine) / base)
            cell = f"{ratio:.2f}" if name != BASE else f"1 ({1e3 * statistics.median(mine):.2f} ms)"
            rows.setdefault(name, []).append(cell)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    Console().print(f"times as multiples of {BASE}'s ({'fused' if on_gpu else 'foreach'}), {where}", table)


if __name__ == "__main__":
    main()
