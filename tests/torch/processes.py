"""Run by test_sharded.py: one training in one process, and in two of them whole (DDP) and sharded (FSDP2).

Writes into the folder it is given figures.json: by case, ‖θ - θ'‖ / ‖θ - θ at the start‖ for θ of two
processes and θ' of one, and what else is said there.
"""

import functools
import json
import os
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import usable_weights
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import celo.torch
from celo._errors import CeloError

PROCESSES, STEPS, BATCH = 2, 30, 32
# Celo's element-wise but for one: orthogonalised steps magnify rounding, so that orders of sums would show.
make_celo = functools.partial(celo.torch.Celo, num_steps=STEPS, weights="celo-1")
CASES = {
    "rule": make_celo,
    "orthogonalised": functools.partial(make_celo, orthogonalize=True),
    "guarded": functools.partial(make_celo, nonfinite="skip", weight_decay=1e-2),
    "with AdamW": make_celo,
    "CeloAdam": functools.partial(
        celo.torch.CeloAdam, num_steps=STEPS, weights=usable_weights.celo_adam(), lr=3.0
    ),
    "Celo2": functools.partial(celo.torch.Celo2, lr=0.002, weights=usable_weights.celo2(), weight_decay=0.1),
    "Celo2Base": functools.partial(celo.torch.Celo2Base, lr=0.0015, weights=usable_weights.celo2()),
    "VeLO": functools.partial(celo.torch.VeLO, num_steps=STEPS, weights=usable_weights.velo()),
}


class Net(nn.Module):
    """Matrices that divide by two and that do not, a stack of them, a kernel, vectors, a scalar."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Conv2d(1, 5, 3, padding=1)
        self.first = nn.Linear(320, 33)
        self.stack = nn.Parameter(torch.randn(3, 33, 33) / 10)
        self.norm = nn.LayerNorm(33)
        self.scale = nn.Parameter(torch.ones(1))
        self.last = nn.Linear(33, 10)

    def forward(self, x):
        x = self.first(self.kernel(x).relu().flatten(1)).relu()
        for matrix in self.stack:
            x = x + (x @ matrix).relu()
        return self.last(self.norm(x) * self.scale)


def new_net():
    torch.manual_seed(0)
    return Net()


def new_optimizer(net, case):
    groups = [p for name, p in net.named_parameters() if "stack" not in name]
    groups = [{"params": groups}, {"params": [net.stack], "per_layer": 1}]
    if case == "with AdamW":
        vectors = [p for p in groups[0]["params"] if p.dim() < 2]
        groups[0]["params"] = [p for p in groups[0]["params"] if p.dim() >= 2]
        groups.append({"params": vectors, "rule": "adamw", "weight_decay": 0.1})
    return CASES[case](groups)


def batches(seed=1):
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16.0).float().unsqueeze(1), torch.tensor(digits.target)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        index = torch.randint(0, len(y), (BATCH,), generator=draw)
        yield x[index], y[index]


def train(net, optimizer, parts=(0, 1), start=0, stop=STEPS, spoiled=(), at_once=False):
    """Steps `start` to `stop` on these halves of each batch; the gradients of steps `spoiled` have a NaN.

    Halves are accumulated, so that sums are taken in the order in which two processes take them: steps that
    are orthogonalised magnify rounding. `at_once` takes the batch as it is.
    """
    losses = []
    for i, (x, y) in enumerate(batches()):
        if not start <= i < stop:
            continue
        optimizer.zero_grad()
        pieces = [(x, y)] if at_once else [(x.chunk(PROCESSES)[k], y.chunk(PROCESSES)[k]) for k in parts]
        for x, y in pieces:
            loss = nn.functional.cross_entropy(net(x), y) / len(pieces)
            loss.backward()
            optimizer.report_loss(loss * len(pieces))
        if i in spoiled and parts != (0,):  # in the last row, which is the last process's
            grad = next(p.grad for name, p in net.named_parameters() if name.endswith("first.weight"))
            (grad.to_local() if isinstance(grad, DTensor) else grad)[-1, -1] = torch.nan
        optimizer.step()
        losses.append(loss.item() * len(pieces))
    return losses


def whole(net):
    return [(p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for p in net.parameters()]


def apart(net, other):
    """How far the parameters of two nets are apart, as a part of how far they have moved."""
    start = whole(new_net())
    pairs = list(zip(whole(net), whole(other), start, strict=True))
    square = sum((a - b).square().sum() for a, b, _ in pairs)
    return (square / sum((b - c).square().sum() for _, b, c in pairs)).sqrt().item()


def sharded_net(axes=(PROCESSES,)):
    """Sharded along the last of these axes of processes, and copied along the first of two."""
    names = ("copies", "shards")[-len(axes) :]
    net, mesh = new_net(), init_device_mesh("cpu", axes, mesh_dim_names=names)
    for part in (net.first, net.last):
        fully_shard(part, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def split_net():
    """Tensor parallel: each process has columns of one matrix and rows of the next."""
    plan = {
        "first": ColwiseParallel(output_layouts=Replicate()),
        "last": RowwiseParallel(input_layouts=Replicate()),
    }
    return parallelize_module(new_net(), init_device_mesh("cpu", (PROCESSES,)), plan)


def alone(case, **options):
    """In one process, which averages its loss with no other: (net, first and last loss)."""
    net = new_net()
    optimizer = new_optimizer(net, case)
    optimizer._average_loss = False
    losses = train(net, optimizer, **options)
    return net, [losses[0], losses[-1]]


def in_two(rank, folder):
    figures = {}
    for case in CASES:
        one, figures[f"loss, {case}"] = alone(case)
        at_once, _ = alone(case, at_once=True)
        figures[f"whole batch, {case}"] = apart(at_once, one)

        net = DistributedDataParallel(new_net())
        train(net, new_optimizer(net.module, case), (rank,))
        figures[f"DDP, {case}"] = apart(net.module, one)

        spoiled = (3, 4) if case == "guarded" else ()
        if spoiled:
            one, _ = alone(case, spoiled=spoiled)
        net = sharded_net()
        optimizer = new_optimizer(net, case)
        train(net, optimizer, (rank,), spoiled=spoiled)
        figures[f"FSDP2, {case}"] = apart(net, one)
        if spoiled:
            figures["bad gradients"] = optimizer.param_groups[0]["bad_gradients"].item()
        figures["parts of the state that lie here"] = {
            name: (x.to_local() if isinstance(x, DTensor) else x).numel() / x.numel()
            for name, x in optimizer.state[net.first.weight].items()
        }
        figures[f"resumed, {case}"] = resumed(rank, folder / case, case, net, spoiled)
        figures[f"resumed by one, {case}"] = resumed_alone(folder / case, case, one)
    one, _ = alone("rule", at_once=True)
    for case, net in (("tensor parallel", split_net()), ("FSDP2 on two axes", sharded_net((2, 1)))):
        train(net, new_optimizer(net, "rule"), (rank,), at_once=case == "tensor parallel")
        figures[case] = apart(net, one)
    figures["refusal"] = refusal()
    if rank == 0:
        (folder / "figures.json").write_text(json.dumps(figures, indent=2))


def saved_state(net, optimizer):
    return {"model": get_model_state_dict(net), "optimizer": get_optimizer_state_dict(net, optimizer)}


def resumed(rank, folder, case, uninterrupted, spoiled):
    """Saved in the middle and resumed with all made anew, against a run without a pause."""
    middle = STEPS // 2
    net = sharded_net()
    optimizer = new_optimizer(net, case)
    train(net, optimizer, (rank,), stop=middle, spoiled=spoiled)
    dcp.save(saved_state(net, optimizer), checkpoint_id=folder)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = {
        "model": get_model_state_dict(net, options=options),
        "optimizer": get_optimizer_state_dict(net, optimizer, options=options),
    }
    if rank == 0:
        torch.save(full, folder / "full.pt")
    dist.barrier()
    net = sharded_net()
    optimizer = new_optimizer(net, case)
    state = saved_state(net, optimizer)
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(net, state["model"])
    set_optimizer_state_dict(net, optimizer, state["optimizer"])
    train(net, optimizer, (rank,), start=middle)
    return apart(net, uninterrupted)


def resumed_alone(folder, case, uninterrupted):
    """What two processes saved whole, resumed in one."""
    full = torch.load(folder / "full.pt", weights_only=True)
    net = new_net()
    optimizer = new_optimizer(net, case)
    optimizer._average_loss = False
    set_model_state_dict(net, full["model"])
    set_optimizer_state_dict(net, optimizer, full["optimizer"])
    train(net, optimizer, start=STEPS // 2)
    return apart(net, uninterrupted)


def refusal():
    """What is said to parameters of FSDP1."""
    net = FullyShardedDataParallel(new_net(), device_id=torch.device("cpu"), use_orig_params=True)
    try:
        celo.torch.Celo(net.parameters(), num_steps=STEPS)
    except CeloError as error:
        return str(error)
    return None


def process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    in_two(rank, Path(folder))
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (port, sys.argv[1]), nprocs=PROCESSES)
