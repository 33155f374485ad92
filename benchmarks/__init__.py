"""Speed and memory, each benchmark with the ratio it reports; run as `python -m benchmarks.NAME`."""

from celo._jaxlib import avoid_faults

avoid_faults()
