"""Fused residual add and RMS normalisation."""

from __future__ import annotations

import torch

from kernels.checks import require, require_rows, require_vector
from kernels.norm import reference


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """Normalise each row of `x` [T, H] by its root mean square and scale it by `weight` [H].

    With `residual` [T, H], `residual += x` happens in place first and the sum is normalised. The mean is taken in
    float32; the normalised value is rounded to `x.dtype` before the scale, as Hugging Face's Llama does.

    Returns a new tensor [T, H] of `x.dtype`. Raises ValueError for shapes that do not match.
    """
    require_rows("x", x)
    require_vector("weight", weight, x.shape[1])
    if residual is not None:
        require_rows("residual", residual, x.shape[1])
        require(residual.shape == x.shape, f"residual {tuple(residual.shape)} must match x {tuple(x.shape)}")
    if not x.is_cuda:
        return reference.rms_norm(x, weight, eps, residual)
    from kernels.norm.kernel import rms_norm_triton

    return rms_norm_triton(x, weight, eps, residual)
