"""Embedding gather, whole or as one rank's slice of the vocabulary."""

from __future__ import annotations

import torch

from kernels.checks import require, require_rows
from kernels.embedding import reference


def embedding(ids: torch.Tensor, weight: torch.Tensor, vocab_start: int = 0) -> torch.Tensor:
    """Rows of `weight` [V_local, H] for `ids` [T] (int32 or int64): [T, H].

    This rank holds the ids `vocab_start .. vocab_start + V_local - 1`; any other id gives a row of zeros, so that a
    sum over the ranks gives the whole embedding.
    """
    require(
        ids.dim() == 1 and ids.dtype in (torch.int32, torch.int64), "ids must be a vector of int32 or int64"
    )
    require_rows("weight", weight)
    if not weight.is_cuda:
        return reference.embedding(ids, weight, vocab_start)
    from kernels.embedding.kernel import embedding_triton

    return embedding_triton(ids, weight, vocab_start)
