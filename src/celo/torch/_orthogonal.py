"""Orthogonalised steps in PyTorch: `celo._kernels.orthogonal` has the mathematics."""

import torch
from torch import Tensor

from celo._definitions import LARGEST, POLYNOMIALS, SMALLEST


def polar_factor(x: Tensor) -> Tensor:
    """Each matrix's polar factor, as long as the matrix was.

    Args:
      x: [..., rows, columns], float32. A matrix of zeros stays as it is.
    """
    largest = x.abs().amax(dim=(-2, -1), keepdim=True)
    usable = (largest >= SMALLEST) & (largest <= LARGEST)
    scaled = x / torch.where(usable, largest, 1.0)
    tall = x.shape[-2] >= x.shape[-1]
    gram = scaled.mT @ scaled if tall else scaled @ scaled.mT
    inverse_root = _inverse_root(gram)
    factor = scaled @ inverse_root if tall else inverse_root @ scaled
    length = _norm(scaled) / torch.where(usable, _norm(factor), 1.0) * largest
    return torch.where(usable, factor * length, x)


def _inverse_root(gram: Tensor) -> Tensor:
    """The polynomials' approximation of G^(-1/2), for [..., k, k]."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    square = gram @ gram
    bound = _norm(square).sqrt()
    bound = torch.where(bound > 0, bound, 1.0)  # of a matrix of zeros
    gram, square = gram / bound, square / bound**2
    root = None
    for last, (a, b, c) in zip((False, False, False, True), POLYNOMIALS, strict=True):
        factor = torch.add(a * identity + b * gram, square, alpha=c)
        root = factor if root is None else root @ factor
        if not last:
            gram = gram @ factor @ factor
            square = gram @ gram
    assert root is not None
    return root * bound.rsqrt()


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True)
