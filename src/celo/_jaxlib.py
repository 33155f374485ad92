"""Faults of releases of jaxlib that change what programs of ours compute, and the way around them."""

import os
from importlib import metadata

# On x86-64 these hand dot products and sums to YNNPACK, which gets them wrong over more than 32,768 rows (JAX
# issue 39103), and crashes or waits for ever with seven axes or more, which vmap makes (39257, 40412).
YNN_FAULTS = ("0.10.2", "0.11.0")
_YNN = "--xla_cpu_experimental_ynn_fusion_type"


def avoid_faults() -> None:
    """Tells XLA by XLA_FLAGS not to use YNNPACK, where that is faulty and the user has not said otherwise.

    Works in this process if JAX has not computed yet, and in those that it starts. The command line,
    benchmarks and tests call it; the library leaves the environment of its users alone.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if metadata.version("jaxlib") in YNN_FAULTS and _YNN not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN}=".strip()
