"""PyTorch reference of QK norm, rotary embedding and the write to the paged cache."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def rotation(cos_sin: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors that `rotate` multiplies with, [T, 1, D_rot] each: cosines twice over, and sines, first half negative."""
    cos, sin = cos_sin.index_select(0, positions.long()).unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first `cos.shape[-1]` of the last dimension of `x` [T, heads, D] (neox halves), in float32.

    cos, sin: from `rotation`. The remaining dimensions pass through unchanged.
    """
    turning = cos.shape[-1]
    wide = x[..., :turning].float()
    rotated = torch.addcmul(wide * cos, wide.roll(turning // 2, -1), sin).to(x.dtype)
    return rotated if turning == x.shape[-1] else torch.cat((rotated, x[..., turning:]), dim=-1)


def head_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS-normalise each head of `x` [T, heads, D] by itself and scale it by `weight` [D]."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rope_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_q_heads: int,
    num_kv_heads: int,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    memo: dict[Any, Any] | None = None,
) -> torch.Tensor:
    """See `kernels.rope_kv.rope_and_store`."""
    if qkv.dim() == 3:
        qkv = qkv.sum(0).to(k_cache.dtype)
    memo = {} if memo is None else memo
    if "rotation" not in memo:
        memo["rotation"] = rotation(cos_sin, positions)
        stored = slot_mapping >= 0
        memo["stored"] = None if bool(stored.all()) else stored
    cos, sin = memo["rotation"]
    stored = memo["stored"]
    num_tokens, head_dim = qkv.shape[0], k_cache.shape[-1]
    heads = qkv.view(num_tokens, -1, head_dim)
    if q_norm_weight is None and k_norm_weight is None:
        qk = rotate(heads[:, : num_q_heads + num_kv_heads], cos, sin)
        q, k = qk[:, :num_q_heads], qk[:, num_q_heads:]
    else:
        q, k = heads[:, :num_q_heads], heads[:, num_q_heads : num_q_heads + num_kv_heads]
        q = rotate(q if q_norm_weight is None else head_norm(q, q_norm_weight, eps), cos, sin)
        k = rotate(k if k_norm_weight is None else head_norm(k, k_norm_weight, eps), cos, sin)
    v = heads[:, num_q_heads + num_kv_heads :]
    if stored is not None:
        k, v, slot_mapping = k[stored], v[stored], slot_mapping[stored]
    k_cache.view(-1, num_kv_heads, head_dim).index_copy_(0, slot_mapping, k.to(k_cache.dtype))
    v_cache.view(-1, num_kv_heads, head_dim).index_copy_(0, slot_mapping, v.to(v_cache.dtype))
    return q.contiguous()
