"""Made-up records for tests and for work on the report: python tests/evaluate/synthetic.py FOLDER"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from celo.evaluate._records import EqualTime, Record, write_record
from celo.evaluate._settings import (
    PAPER_RATES,
    ContestantFacts,
    Protocol,
    Provenance,
    Settings,
    TaskSettings,
)

TASKS = ("cifar10_conv", "digits_vit", "kjv_lstm", "mnist_autoencoder", "quadratic", "wine_mlp")
STARTS = {"cifar10_conv": 2.30, "digits_vit": 2.34, "kjv_lstm": 4.4, "mnist_autoencoder": 0.23}
RATES = PAPER_RATES

# name -> (speed beside Adam, cost of a step, best learning rate or None)
CONTESTANTS = {
    "celo": (1.6, 1.5, None),
    "celo_paper": (0.9, 1.5, None),
    "adam": (1.0, 1.0, 1e-3),
    "adam_cosine": (1.25, 1.01, 3e-3),
    "muon": (1.4, 1.3, 1e-2),
    "rmsprop": (0.85, 0.95, 1e-3),
    "momentum": (0.55, 0.9, 1e-1),
    "lion": (0.8, 0.92, 3e-4),
}
DIVERGED = {
    ("momentum", "quadratic"): (0, 1, 2),
    ("lion", "kjv_lstm"): (2,),
    ("celo_paper", "digits_vit"): (0,),
}


def record(task, contestant, *, seeds=3, num_steps=2000, eval_every=20, start=0):
    """One record; the first evaluation is exactly the task's loss at the start."""
    speed, cost, rate = CONTESTANTS[contestant]
    number = TASKS.index(task) if task in TASKS else 0
    luck = np.random.default_rng([number, *contestant.encode()])
    steps = np.append(np.arange(0, num_steps, eval_every), num_steps)
    early = round(0.15 * (len(steps) - 1))
    floor = 1e-4 if task == "quadratic" else 0.04
    first = STARTS.get(task, 2.0 + 0.2 * number)
    speed = speed * np.exp(0.25 * luck.normal())

    def losses(pace, steps=steps):
        fall = first * (1 + 9 * pace * steps / num_steps) ** -(0.8 + 0.25 * number) + floor * first
        return fall

    paces = [speed * np.exp(0.06 * luck.normal()) for _ in range(seeds)]
    curves = np.stack([losses(pace) for pace in paces])
    noise = np.exp(0.03 * luck.normal(size=curves.shape))
    train = (curves * np.where(steps == 0, 1.0, noise)).astype(np.float32)
    for seed in DIVERGED.get((contestant, task), ()):
        if seed < seeds:
            train[seed, len(steps) // (seed + 2) :] = np.nan
    gap = 1 + 0.3 * steps / num_steps
    seconds = 3e-4 * (1 + number) * (1 + (cost - 1) / (1 + 0.3 * number))
    horizon = int(num_steps * 3e-4 * (1 + number) / seconds)
    fewer = np.linspace(0, horizon, len(steps)).astype(np.int64)
    in_time = np.stack([losses(pace, fewer) for pace in paces]).astype(np.float32)
    in_time[~np.isfinite(train[:, -1])] = np.nan
    tuned = rate is not None
    rungs = np.full((2, len(RATES)) if tuned else (0, 0), np.nan)
    if tuned:
        off = np.log10(np.array(RATES) / rate)
        rungs[0] = [losses(speed * 10 ** -(0.5 * o**2))[early] for o in off]
        rungs[0, off > 1.6] = np.inf
        near = np.argsort(rungs[0])[:3]
        rungs[1, near] = [losses(speed * 10 ** -(0.5 * o**2))[-1] for o in off[near]]
    return Record(
        task=task,
        contestant=contestant,
        rate=rate,
        steps=steps,
        train_loss=train,
        valid_loss=(train * gap).astype(np.float32),
        metrics={"accuracy": np.clip(1 - train / 3, 0, 1)},
        rates=np.array(RATES if tuned else (), np.float64),
        rung_steps=np.array((steps[early], num_steps) if tuned else (), np.int64),
        rung_losses=rungs,
        seconds_per_step=seconds,
        adam_seconds_per_step=3e-4 * (1 + number),
        settings=Settings(
            TaskSettings(task, num_steps, eval_every),
            Protocol(RATES, seeds=tuple(range(start, start + seeds))),
            ContestantFacts(optimizer="made up")
            if tuned
            else ContestantFacts(weights_sha256="0123456789abcdef" * 4),
            kernel=None if tuned else "xla",
        ),
        provenance=Provenance(environment={"celo": "0.0.0", "machine": "made up"}),
        equal_time=None if contestant == "adam" else EqualTime(fewer, in_time, in_time * gap),
    )


def records(**settings):
    """All of them."""
    return [record(task, name, **settings) for task in TASKS for name in CONTESTANTS]


def write(folder):
    """An archive of them; returns the folder."""
    for one in records():
        write_record(Path(folder), one)
    return Path(folder)


def crowd(count):
    """Records of Adam and many more on one task, of all speeds and prices."""
    adam = record("quadratic", "adam", num_steps=400)
    rng = np.random.default_rng(0)
    others = []
    for number in range(count - 1):
        factors = np.linspace(1.0, rng.uniform(0.5, 1.2), adam.train_loss.shape[1])
        seconds = adam.adam_seconds_per_step * rng.uniform(0.8, 2.0)
        changes = {"train_loss": adam.train_loss * factors, "seconds_per_step": seconds}
        others.append(dataclasses.replace(adam, contestant=f"optimizer_{number}", **changes))
    return [adam, *others]


if __name__ == "__main__":
    write(sys.argv[1])
