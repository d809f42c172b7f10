"""PyTorch references of the matrix products with fused neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.activation.reference import silu_and_mul
from kernels.norm.reference import rms_norm


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `kernels.linear.linear`."""
    result = F.linear(x, weight, bias)
    return result if out is None else out.copy_(result)


def linear_silu_and_mul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """See `kernels.linear.linear_silu_and_mul`."""
    return silu_and_mul(F.linear(x, weight))


def linear_add(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """See `kernels.linear.linear_add`."""
    return residual.add_(F.linear(x, weight))


def norm_linear(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `kernels.linear.norm_linear`."""
    return F.linear(rms_norm(x, norm_weight, eps), weight, bias)


def norm_linear_silu_and_mul(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: torch.Tensor
) -> torch.Tensor:
    """See `kernels.linear.norm_linear_silu_and_mul`."""
    return silu_and_mul(norm_linear(x, norm_weight, eps, weight))
