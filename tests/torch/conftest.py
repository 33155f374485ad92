"""PyTorch is an extra: without it there is nothing here to test."""

import importlib.util
import os

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    if not torch.cuda.is_available():  # then in Triton's interpreter, which must know before it is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
