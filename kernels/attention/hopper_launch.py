"""Launching the Hopper prefill kernel, and saying which batches it cannot take."""

from __future__ import annotations

import functools

import torch
import triton
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.attention.hopper import hopper_prefill_kernel
from kernels.attention.hopper_copy import BLOCK_M, PANEL, WARPGROUP_ROWS
from kernels.attention.meta import AttentionMeta

# KV tile per head size; two of K and two of V stand in shared memory beside the queries: 98, 180 and 229 KB.
BLOCK_N = {64: 128, 128: 128, 256: 64}
SLOTS = 2


@functools.cache
def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def hopper_takes(q: torch.Tensor, k_cache: torch.Tensor, sliding_window: int | None) -> bool:
    """Whether the kernel knows such tensors on their device."""
    block_size = k_cache.shape[1]
    return (
        is_hopper(q.device)
        and q.dtype in (torch.bfloat16, torch.float16)
        and k_cache.dtype == q.dtype
        and q.shape[2] in BLOCK_N
        and block_size >= 8
        and block_size & (block_size - 1) == 0
        and sliding_window is None
    )


def prefill_hopper(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    scale_log2: float,
    out: torch.Tensor,
    programs: int,
) -> None:
    """Attention of the rows after the first `meta.num_decodes` into `out`, by at most `programs` programs."""
    num_q_heads, head_dim = q.shape[1:]
    num_blocks, block_size, num_kv_heads = k_cache.shape[:3]
    tokens, block_n = num_blocks * block_size, BLOCK_N[head_dim]
    rows, tiles = meta.seq_lens.shape[0] - meta.num_decodes, triton.cdiv(meta.max_query_len, BLOCK_M.value)
    layout, piece = gl.NVMMASharedLayout(128, 16, 2), min(block_n, block_size)
    q_tiles = TensorDescriptor.from_tensor(
        q.view(-1, num_q_heads * head_dim), [WARPGROUP_ROWS.value, head_dim], layout
    )
    k, v = (
        TensorDescriptor.from_tensor(
            cache.view(tokens, num_kv_heads * head_dim), [piece, PANEL.value], layout
        )
        for cache in (k_cache, v_cache)
    )
    hopper_prefill_kernel[(min(rows * tiles * num_q_heads, programs),)](
        q_tiles, k, v, meta.block_tables, meta.seq_lens, meta.query_start, out, meta.num_decodes, rows, tiles, tokens,
        meta.block_tables.stride(0), scale_log2, HQ=num_q_heads, HKV=num_kv_heads, D=head_dim, BLOCK_SIZE=block_size,
        BLOCK_N=block_n, PIECE=piece, SLOTS=SLOTS, PINGPONG=True, num_warps=4,
    )  # fmt: skip
