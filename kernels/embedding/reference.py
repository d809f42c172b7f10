"""PyTorch reference of the (vocabulary-parallel) embedding gather."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def embedding(ids: torch.Tensor, weight: torch.Tensor, vocab_start: int = 0) -> torch.Tensor:
    """See `kernels.embedding.embedding`."""
    local = ids.long() - vocab_start
    inside = (local >= 0) & (local < weight.shape[0])
    rows = F.embedding(local.where(inside, 0), weight)
    return rows.masked_fill_(~inside.unsqueeze(-1), 0)
