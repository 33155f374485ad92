"""PyTorch: two lines differ from a loop with AdamW.

python examples/torch_loop.py
"""

import torch
from torch import nn

import celo.torch
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


def digits(split):
    return torch.tensor(split.x).reshape(-1, 64) / 255.0, torch.tensor(split.y).long()


def main(num_steps=NUM_STEPS):
    torch.manual_seed(0)
    images = load_images("digits")
    x, y = digits(images.train)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = celo.torch.Celo(model.parameters(), num_steps=num_steps)  # was: torch.optim.AdamW(…, lr=1e-3)
    for step in range(num_steps):
        index = torch.randint(0, len(y), (BATCH,))
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)  # was: optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.4f}")
    x, y = digits(images.test)
    accuracy = (model(x).argmax(-1) == y).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
