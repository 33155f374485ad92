"""Hugging Face Trainer: one line attaches Celo, which reads the loss and the number of steps from it.

python examples/torch_trainer.py
"""

import tempfile

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

import celo.torch
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x, labels=None):
        logits = self.net(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def digits(split):
    return torch.tensor(split.x).reshape(-1, 64) / 255.0, torch.tensor(split.y).long()


def main(num_steps=NUM_STEPS):
    torch.manual_seed(0)
    images = load_images("digits")
    rows = [{"x": x, "labels": y} for x, y in zip(*digits(images.train), strict=True)]
    model = Classifier()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=BATCH,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        trainer = Trainer(model, args, train_dataset=rows)
        celo.torch.attach(
            trainer
        )  # embeddings, heads and norms to AdamW: attach(trainer, adamw={"lr": 1e-3})
        trainer.train()
    x, y = digits(images.test)
    accuracy = (model(x)["logits"].argmax(-1) == y).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
