"""Celo beside AdamW, Muon and Schedule-Free AdamW on one MLP: a table, and curves in a PNG.

The others take the best of five learning rates by their validation loss, AdamW and Muon with a cosine to
zero; Celo has nothing to choose. Schedule-Free AdamW takes part where `schedulefree` is installed.

python examples/torch_compare.py --data fashion_mnist --steps 1000
"""

import argparse
import importlib.util

import torch
from matplotlib.figure import Figure
from torch import nn

import celo.torch
from celo.data import load_images


def celo_of(model, steps, lr):
    return [celo.torch.Celo(model.parameters(), num_steps=steps, lr=lr)], []


def adamw_of(model, steps, lr):
    adamw = torch.optim.AdamW(model.parameters(), lr=lr)
    return [adamw], [torch.optim.lr_scheduler.CosineAnnealingLR(adamw, steps)]


def muon_of(model, steps, lr):
    """Hidden matrices by Muon; the last layer and biases by AdamW, at a rate that suits both."""
    groups = celo.torch.param_groups(model, head=r"^4\.")
    hidden = [p for group in groups if group["label"] == "matrix" for _, p in group["params"]]
    rest = [p for group in groups if group["label"] != "matrix" for _, p in group["params"]]
    muon = torch.optim.Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw")
    optimizers = [muon, torch.optim.AdamW(rest, lr=lr)]
    return optimizers, [torch.optim.lr_scheduler.CosineAnnealingLR(o, steps) for o in optimizers]


def schedule_free_of(model, steps, lr):
    schedulefree = importlib.import_module("schedulefree")
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=lr, warmup_steps=steps // 20)
    optimizer.train()
    return [optimizer], []


def train(make, lr, images, steps, batch=64):
    """(loss of each step, validation loss, test loss, test accuracy)."""
    torch.manual_seed(0)
    (x, y), valid, test = images
    wide = nn.Linear(x.shape[1], 128)
    model = nn.Sequential(wide, nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizers, schedulers = make(model, steps, lr)
    losses = []
    for _ in range(steps):
        index = torch.randint(0, len(y), (batch,))
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step(lambda loss=loss: loss)
            optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
        losses.append(loss.item())
    if make is schedule_free_of:
        optimizers[0].eval()
    with torch.no_grad():
        valid_loss, test_loss = (nn.functional.cross_entropy(model(x), y).item() for x, y in (valid, test))
        return losses, valid_loss, test_loss, (model(test[0]).argmax(-1) == test[1]).float().mean().item()


def main(data="digits", steps=500, out="torch_compare.png", rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2)):
    splits = load_images(data)
    splits = (splits.train, splits.valid, splits.test)
    images = [(torch.tensor(part.x).flatten(1) / 255.0, torch.tensor(part.y).long()) for part in splits]
    rivals = {"Celo": celo_of, "AdamW": adamw_of, "Muon + AdamW": muon_of}
    if importlib.util.find_spec("schedulefree"):
        rivals["Schedule-Free AdamW"] = schedule_free_of
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    print(f"{data}, {steps} steps{'':<9} lr  training loss  test loss  test accuracy")
    accuracies = {}
    for name, make in rivals.items():
        runs = {lr: train(make, lr, images, steps) for lr in ((1.0,) if make is celo_of else rates)}
        lr = min(runs, key=lambda lr: runs[lr][1])
        losses, _, test_loss, accuracies[name] = runs[lr]
        smooth = torch.tensor(losses).unfold(0, max(1, steps // 20), 1).mean(1).tolist()
        print(f"{name:<20} {lr:>6g}  {smooth[-1]:>13.1e}  {test_loss:>9.4f}  {accuracies[name]:>13.3f}")
        axes.semilogy(range(steps - len(smooth), steps), smooth, label=f"{name}, lr {lr:g}")
    axes.legend(title=f"training loss on {data}, mean of 5% of all steps")
    figure.savefig(out, dpi=150)
    return accuracies["Celo"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits", choices=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="torch_compare.png")
    main(**vars(parser.parse_args()))
