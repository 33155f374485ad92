"""PyTorch Lightning: the optimizer is made in `configure_optimizers`, and nothing else differs.

Lightning hands `step()` a closure that returns the loss, which is all that Celo asks for.

python examples/torch_lightning.py
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import celo.torch
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        # was: torch.optim.AdamW(self.parameters(), lr=1e-3)
        return celo.torch.Celo(self.parameters(), num_steps=int(self.trainer.estimated_stepping_batches))


def digits(split):
    return torch.tensor(split.x).reshape(-1, 64) / 255.0, torch.tensor(split.y).long()


def main(num_steps=NUM_STEPS):
    lightning.seed_everything(0, verbose=False)
    images = load_images("digits")
    model = Classifier()
    trainer = lightning.Trainer(
        max_steps=num_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(*digits(images.train)), batch_size=BATCH, shuffle=True))
    x, y = digits(images.test)
    accuracy = (model.net(x).argmax(-1) == y).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
