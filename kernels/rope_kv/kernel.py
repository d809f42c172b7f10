"""Triton kernel of QK norm, rotary embedding and the write to the paged cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.pdl import launch_downstream, launch_options, wait_upstream

# A program turns this many heads of one token: few programs for a long prefill, many for a single decode row.
HEADS_FEW_TOKENS, HEADS_MANY_TOKENS, MANY_TOKENS = 1, 8, 128


@triton.jit
def _load_part(base, between, head, columns, inside, dtype, D: tl.constexpr, PARTS: tl.constexpr):
    """[HEADS, columns] float32 slice of each head of one token, summed over parts that are `between` apart."""
    place = base + head[:, None] * D + columns[None, :]
    value = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if PARTS > 1:
        for part in tl.static_range(1, PARTS):
            value += tl.load(place + part * between, mask=inside, other=0.0)
        value = value.to(dtype).to(tl.float32)  # as the product would have been rounded
    return value


@triton.jit
def _store_part(
    part, columns, inside, head, token, slot, q_ptr, k_cache_ptr, v_cache_ptr,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write a [HEADS, columns] slice to q, to the k cache or to the v cache, by what each head is."""
    head, columns = head[:, None], columns[None, :]
    tl.store(
        q_ptr + token * HQ * D + head * D + columns,
        part.to(q_ptr.dtype.element_ty),
        mask=inside & (head < HQ),
    )
    stored = inside & (slot >= 0)
    k_head, v_head = head - HQ, head - HQ - HKV
    base = slot * HKV * D + columns
    is_k = (k_head >= 0) & (v_head < 0)
    tl.store(k_cache_ptr + base + k_head * D, part.to(k_cache_ptr.dtype.element_ty), mask=stored & is_k)
    tl.store(
        v_cache_ptr + base + v_head * D, part.to(v_cache_ptr.dtype.element_ty), mask=stored & (v_head >= 0)
    )


@triton.jit
def _scaled(
    part, scale, columns, inside, head, q_weight_ptr, k_weight_ptr, HQ: tl.constexpr, HKV: tl.constexpr
):
    """Apply the per-head norm's scale and weight to a slice of the q and k heads; v heads pass through."""
    head, columns = head[:, None], columns[None, :]
    is_q, is_k = head < HQ, (head >= HQ) & (head < HQ + HKV)
    weight = tl.load(q_weight_ptr + columns, mask=inside & is_q, other=0.0).to(tl.float32)
    weight += tl.load(k_weight_ptr + columns, mask=inside & is_k, other=0.0).to(tl.float32)
    rounded = (part * scale[:, None]).to(q_weight_ptr.dtype.element_ty).to(tl.float32)
    normed = (rounded * weight).to(q_weight_ptr.dtype.element_ty).to(tl.float32)
    return tl.where(is_q | is_k, normed, part)


@triton.jit
def rope_and_store_kernel(
    qkv_ptr,  # [PARTS, T, (Hq + 2 Hkv) D]: float32 where there are several, which add up to it
    positions_ptr,  # [T]
    cos_sin_ptr,  # [max_pos, 2 HALF]
    slot_ptr,  # [T]
    q_weight_ptr,  # [D]
    k_weight_ptr,  # [D]
    q_ptr,  # [T, Hq, D]
    k_cache_ptr,  # [slots, Hkv, D]
    v_cache_ptr,  # [slots, Hkv, D]
    eps,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    HALF: tl.constexpr,  # rotated dimensions / 2
    BLOCK_HALF: tl.constexpr,  # HALF to the next power of two
    BLOCK_REST: tl.constexpr,  # dimensions that do not turn, to the next power of two; 0 for none
    HEADS: tl.constexpr,  # heads per program, a power of two
    PARTS: tl.constexpr,
    NORM: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    real = (head < HQ + 2 * HKV)[:, None]
    half = tl.arange(0, BLOCK_HALF)
    half_inside = real & (half < HALF)[None, :]
    wait_upstream(PDL)
    launch_downstream(PDL)
    base = qkv_ptr + token * (HQ + 2 * HKV) * D
    between = tl.num_programs(0).to(tl.int64) * (HQ + 2 * HKV) * D
    dtype = q_ptr.dtype.element_ty
    left = _load_part(base, between, head, half, half_inside, dtype, D, PARTS)
    right = _load_part(base, between, head, half + HALF, half_inside, dtype, D, PARTS)
    if BLOCK_REST:
        rest_columns = 2 * HALF + tl.arange(0, BLOCK_REST)
        rest_inside = real & (rest_columns < D)[None, :]
        rest = _load_part(base, between, head, rest_columns, rest_inside, dtype, D, PARTS)
    if NORM:
        square = tl.sum(left * left, axis=1) + tl.sum(right * right, axis=1)
        if BLOCK_REST:
            square += tl.sum(rest * rest, axis=1)
        scale = tl.rsqrt(square / D + eps)
        left = _scaled(left, scale, half, half_inside, head, q_weight_ptr, k_weight_ptr, HQ, HKV)
        right = _scaled(right, scale, half + HALF, half_inside, head, q_weight_ptr, k_weight_ptr, HQ, HKV)
        if BLOCK_REST:
            rest = _scaled(rest, scale, rest_columns, rest_inside, head, q_weight_ptr, k_weight_ptr, HQ, HKV)
    row = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * 2 * HALF
    cos = tl.load(row + half, mask=half < HALF, other=0.0)[None, :]
    sin = tl.load(row + HALF + half, mask=half < HALF, other=0.0)[None, :]
    turns = (head < HQ + HKV)[:, None]
    new_left = tl.where(turns, left * cos - right * sin, left)
    new_right = tl.where(turns, right * cos + left * sin, right)
    slot = tl.load(slot_ptr + token + tl.zeros_like(head)).to(tl.int64)[:, None]
    _store_part(new_left, half, half_inside, head, token, slot, q_ptr, k_cache_ptr, v_cache_ptr, HQ, HKV, D)
    _store_part(
        new_right, half + HALF, half_inside, head, token, slot, q_ptr, k_cache_ptr, v_cache_ptr, HQ, HKV, D
    )
    if BLOCK_REST:
        _store_part(
            rest, rest_columns, rest_inside, head, token, slot, q_ptr, k_cache_ptr, v_cache_ptr, HQ, HKV, D
        )


def rope_and_store_triton(
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
    num_tokens, head_dim, half = qkv.shape[-2], k_cache.shape[-1], cos_sin.shape[1] // 2
    parts, dtype = (len(qkv), k_cache.dtype) if qkv.dim() == 3 else (1, qkv.dtype)
    q = qkv.new_empty(num_tokens, num_q_heads, head_dim, dtype=dtype)
    if not num_tokens:
        return q
    heads = HEADS_MANY_TOKENS if num_tokens >= MANY_TOKENS else HEADS_FEW_TOKENS
    rest = head_dim - 2 * half
    rope_and_store_kernel[(num_tokens, triton.cdiv(num_q_heads + 2 * num_kv_heads, heads))](
        qkv, positions, cos_sin, slot_mapping,
        qkv if q_norm_weight is None else q_norm_weight, qkv if k_norm_weight is None else k_norm_weight,
        q, k_cache, v_cache, eps, num_q_heads, num_kv_heads, head_dim,
        half, triton.next_power_of_2(half), triton.next_power_of_2(rest) if rest else 0, heads, parts,
        q_norm_weight is not None, num_warps=4 if heads > 1 else 1, **launch_options(qkv.device),
    )  # fmt: skip
    return q
