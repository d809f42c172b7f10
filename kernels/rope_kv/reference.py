"""PyTorch reference of QK norm, rotary embedding and the write to the paged cache."""

from __future__ import annotations

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first `2 * cos.shape[-1]` of the last dimension of `x` [T, heads, D] (neox halves), in float32.

    cos, sin: [T, rot / 2] float32. The remaining dimensions pass through unchanged.
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    wide = x[..., : 2 * half].float()
    left, right = wide[..., :half], wide[..., half:]
    rotated = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1).to(x.dtype)
    return rotated if 2 * half == x.shape[-1] else torch.cat((rotated, x[..., 2 * half :]), dim=-1)


def head_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS-normalise each head of `x` [T, heads, D] by itself and scale it by `weight` [D]."""
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
) -> torch.Tensor:
    """See `kernels.rope_kv.rope_and_store`."""
    num_tokens, head_dim = qkv.shape[0], k_cache.shape[-1]
    q, k, v = qkv.view(num_tokens, -1, head_dim).split((num_q_heads, num_kv_heads, num_kv_heads), dim=1)
    if q_norm_weight is not None:
        q = head_norm(q, q_norm_weight, eps)
    if k_norm_weight is not None:
        k = head_norm(k, k_norm_weight, eps)
    cos, sin = cos_sin[positions.long()].chunk(2, dim=-1)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    stored = slot_mapping >= 0
    if not bool(stored.all()):
        k, v, slot_mapping = k[stored], v[stored], slot_mapping[stored]
    k_cache.view(-1, num_kv_heads, head_dim)[slot_mapping] = k.to(k_cache.dtype)
    v_cache.view(-1, num_kv_heads, head_dim)[slot_mapping] = v.to(v_cache.dtype)
    return q.contiguous()
