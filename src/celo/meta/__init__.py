"""Meta-training: unrolled problems, gradient estimators, and the loop that trains θ."""
