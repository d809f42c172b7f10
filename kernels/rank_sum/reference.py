"""PyTorch reference of the sum over ranks with residual add and RMS normalisation."""

from __future__ import annotations

import torch

from kernels.norm import reference as norm


def share_of(rank: int, ranks: int, tokens: int) -> slice:
    """The tokens whose residual stream `rank` keeps where they are shared out."""
    share = -(-tokens // ranks)
    return slice(min(rank * share, tokens), min((rank + 1) * share, tokens))


def rank_sum_rms_norm(
    partials: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised stream [T, H] that every rank gets, and the new residual stream [T, H].

    partials: [ranks, T, H], each rank's result. The sum is taken in float32 and rounded once.
    """
    total = (residual.float() + partials.float().sum(0)).to(residual.dtype)
    return norm.rms_norm(total, weight, eps), total
