"""Attention of a mixed batch (decodes and prefill chunks) over the paged KV cache."""

from __future__ import annotations

import torch

from kernels.attention import reference
from kernels.attention.meta import AttentionMeta, Workspace, make_workspace
from kernels.checks import require

__all__ = ["AttentionMeta", "Workspace", "make_workspace", "paged_attention"]


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    sliding_window: int | None = None,
) -> torch.Tensor:
    """Causal attention of `q` [T, Hq, D] over each row's cached tokens: [T, Hq, D].

    k_cache, v_cache: [num_blocks, block_size, Hkv, D], already holding this step's keys and values.
    Query i of row r sits at absolute position seq_lens[r] - query_len[r] + i. With `sliding_window` w it sees the
    last w positions, its own included. Softmax is taken in float32. Padding rows (seq_len 0) give finite values;
    tokens past query_start[R] are unspecified.

    Raises ValueError for shapes that do not match.
    """
    require(q.dim() == 3 and q.is_contiguous(), f"q must be contiguous [T, Hq, D], got {tuple(q.shape)}")
    require(
        k_cache.dim() == 4 and k_cache.shape == v_cache.shape, "caches must be [blocks, block_size, Hkv, D]"
    )
    require(q.shape[2] == k_cache.shape[3], f"head sizes differ: q {q.shape[2]}, cache {k_cache.shape[3]}")
    require(q.shape[1] % k_cache.shape[2] == 0, f"{q.shape[1]} query heads over {k_cache.shape[2]} KV heads")
    require(meta.query_start.shape[0] == meta.seq_lens.shape[0] + 1, "query_start needs R + 1 entries")
    if not q.is_cuda:
        return reference.paged_attention(q, k_cache, v_cache, meta, scale, sliding_window)
    from kernels.attention.launch import paged_attention_triton

    return paged_attention_triton(q, k_cache, v_cache, meta, scale, sliding_window)
