"""timm: Celo by its name, for a small MLP-Mixer; the stem, the head and vectors go to AdamW.

python examples/torch_timm.py
"""

import torch
from timm.models import MlpMixer  # pyright: ignore
from timm.optim import create_optimizer_v2  # pyright: ignore
from torch import nn

import celo.torch
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


def digits(split):
    return torch.tensor(split.x).reshape(-1, 1, 8, 8) / 255.0, torch.tensor(split.y).long()


def main(num_steps=NUM_STEPS):
    torch.manual_seed(0)
    images = load_images("digits")
    x, y = digits(images.train)
    model = MlpMixer(img_size=8, patch_size=2, in_chans=1, num_classes=10, num_blocks=2, embed_dim=64)
    celo.torch.register_timm()
    optimizer = create_optimizer_v2(
        model, "celo", num_steps=num_steps, param_group_fn=celo.torch.param_groups
    )
    assert isinstance(optimizer, celo.torch.Celo)
    print(celo.torch.plan(optimizer.param_groups))
    for step in range(num_steps):
        index = torch.randint(0, len(y), (BATCH,))
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.4f}")
    x, y = digits(images.test)
    model.eval()
    accuracy = (model(x).argmax(-1) == y).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
