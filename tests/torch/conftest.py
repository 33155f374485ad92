"""PyTorch is an extra: without it there is nothing here to test."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
