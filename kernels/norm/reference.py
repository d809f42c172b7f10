"""PyTorch reference of RMS normalisation."""

from __future__ import annotations

import torch


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """See `kernels.norm.rms_norm`."""
    source = x if residual is None else residual.add_(x)
    wide = source.float()
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normalised.to(x.dtype) * weight
