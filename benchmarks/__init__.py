"""Speed and memory, each benchmark with the ratio it reports; run as `python -m benchmarks.NAME`."""
