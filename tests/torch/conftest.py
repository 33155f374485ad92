"""PyTorch is an extra: without it there is nothing here to test."""

import importlib.util
import os

# Triton's kernels run in its interpreter here, GPU or not. It must know before it is imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
