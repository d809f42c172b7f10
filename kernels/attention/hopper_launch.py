"""Launching the Hopper prefill kernel, and saying which batches it cannot take."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch
import triton
from triton.compiler import CompiledKernel
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.attention.hopper import hopper_prefill_kernel
from kernels.attention.hopper_copy import PANEL, WARPGROUP_ROWS
from kernels.attention.meta import AttentionMeta
from kernels.attention.work import prefill_work

logger = logging.getLogger(__name__)

# KV tile per head size; two of K and two of V stand in shared memory beside the queries: 98, 180 and 229 KB.
BLOCK_N = {64: 128, 128: 128, 256: 64}
SLOTS = 2
LAYOUT = gl.NVMMASharedLayout(128, 16, 2)


@functools.cache
def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


@dataclass(frozen=True)
class Address:
    """A tensor as far as its descriptor is concerned: the cached descriptors keep no memory alive."""

    pointer: int
    dtype: torch.dtype

    def data_ptr(self) -> int:
        return self.pointer


@functools.lru_cache(maxsize=4096)
def tiles_of(
    pointer: int, dtype: torch.dtype, rows: int, width: int, tile_rows: int, tile_columns: int
) -> TensorDescriptor:
    """Descriptor of a contiguous [rows, width] at `pointer`. Caches and activations come back at the same places."""
    return TensorDescriptor(
        Address(pointer, dtype), [rows, width], [width, 1], [tile_rows, tile_columns], LAYOUT
    )


@functools.cache
def compiled_kernel(
    device: torch.device,
    dtype: torch.dtype,
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
) -> tuple[CompiledKernel, tuple[int, ...]] | None:
    """The kernel for such tensors and its compile-time arguments; None if this Triton does not compile it.

    Launched by itself: Triton's way from a function and descriptors to its compiled kernel takes 70 us of every call.
    """
    block_n = BLOCK_N[head_dim]
    piece = min(block_n, block_size)
    constants = (num_q_heads, num_kv_heads, head_dim, block_size, block_n, piece, SLOTS)
    q_tiles = tiles_of(0, dtype, WARPGROUP_ROWS.value, num_q_heads * head_dim, WARPGROUP_ROWS.value, head_dim)
    pieces = tiles_of(0, dtype, block_size, num_kv_heads * head_dim, piece, PANEL.value)
    try:
        kernel = hopper_prefill_kernel.warmup(
            q_tiles, pieces, pieces, torch.int32, torch.int32, dtype, 1, block_size, 1, 1.0, *constants, grid=(1,), num_warps=4
        )  # fmt: skip
    except (triton.CompilationError, RuntimeError) as error:
        logger.warning(
            "the Hopper prefill kernel does not compile with Triton %s: %s", triton.__version__, error
        )
        return None
    return kernel, constants


def takes(q: torch.Tensor, k_cache: torch.Tensor, sliding_window: int | None) -> bool:
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
        and compiled_kernel(q.device, q.dtype, q.shape[1], k_cache.shape[2], q.shape[2], block_size)
        is not None
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
    num_tokens, num_q_heads, head_dim = q.shape
    num_blocks, block_size, num_kv_heads, _ = k_cache.shape
    compiled = compiled_kernel(q.device, q.dtype, num_q_heads, num_kv_heads, head_dim, block_size)
    assert compiled is not None, "ask `takes` first"
    kernel, constants = compiled
    slots, width, piece = num_blocks * block_size, num_kv_heads * head_dim, min(BLOCK_N[head_dim], block_size)
    work = prefill_work(meta, num_tokens)
    kernel[(min(len(work) * num_q_heads, programs), 1, 1)](
        tiles_of(q.data_ptr(), q.dtype, num_tokens, num_q_heads * head_dim, WARPGROUP_ROWS.value, head_dim),
        tiles_of(k_cache.data_ptr(), q.dtype, slots, width, piece, PANEL.value),
        tiles_of(v_cache.data_ptr(), q.dtype, slots, width, piece, PANEL.value),
        meta.block_tables, work, out, len(work), slots, meta.block_tables.stride(0), scale_log2, *constants,
    )  # fmt: skip
