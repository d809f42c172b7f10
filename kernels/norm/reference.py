"""PyTorch reference of RMS normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """See `kernels.norm.rms_norm`."""
    source = x if residual is None else residual.add_(x)
    if x.dtype == torch.float32:  # one operator instead of six; there is nothing to round in between
        return F.rms_norm(source, (x.shape[1],), weight, eps)
    wide = source.float()
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normalised.to(x.dtype) * weight
