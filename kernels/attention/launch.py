"""Launching decode and prefill attention: grids from host-side bounds, never from device values."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from types import ModuleType

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention.backends import prefill_backend
from kernels.attention.decode import decode_kernel
from kernels.attention.meta import AttentionMeta, make_workspace
from kernels.attention.prefill import gather_kernel, prefill_kernel
from kernels.configs import tuned
from kernels.pdl import launch_options

logger = logging.getLogger(__name__)

NO_WINDOW = 1 << 30
LOG2_E = math.log2(math.e)
# A contiguous copy of more than this many tokens is not made: 64k tokens of 8 heads of 128 are 256 MiB.
MAX_COPY_TOKENS = 1 << 16


@dataclass(frozen=True)
class DecodeConfig:
    """Tile and split choices of decode. `programs_per_sm` is how many programs the spans should add up to."""

    block_n: int = 64
    min_span: int = 64
    programs_per_sm: int = 4
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class PrefillConfig:
    """Tile choices of prefill.

    Batches whose longest row has at least `specialized_from` queries, or eight times that context, take the kernel of
    `hopper.py` where it can run; the other choices are for all others. Its tiles of 128 queries are mostly empty when
    rows have few.
    `tma` fetches KV tiles by the tensor memory accelerator where rows are long enough to be worth a contiguous copy
    (`copy_from` tokens), or where cache blocks hold whole tiles.
    """

    block_m: int = 128
    block_n: int = 64
    warps: int = 8
    stages: int = 3
    tma: bool = False
    copy_from: int = 2048
    specialized_from: int | None = None


@functools.cache
def decode_config(device: torch.device) -> DecodeConfig:
    return DecodeConfig(**tuned(device).get("attention_decode", {}))


@functools.cache
def prefill_config(device: torch.device, head_dim: int) -> PrefillConfig:
    """The tuned choice for heads of up to `head_dim`, or one whose tiles fit any GPU since Ampere."""
    choices = tuned(device).get("attention_prefill", {})
    fitting = sorted(int(limit) for limit in choices if int(limit) >= head_dim)
    if fitting:
        return PrefillConfig(**choices[str(fitting[0])])
    return PrefillConfig() if head_dim <= 128 else PrefillConfig(block_m=64, block_n=32, warps=4, stages=2)


@functools.cache
def num_sms(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def num_splits(programs: int, max_seq_len: int, sms: int, config: DecodeConfig, limit: int) -> int:
    """Spans per (row, KV head), a power of two: enough programs for the GPU, none below `min_span` tokens."""
    wanted = min(
        config.programs_per_sm * sms // max(programs, 1), triton.cdiv(max_seq_len, config.min_span), limit
    )
    return 1 << (max(wanted, 1).bit_length() - 1)


def _precision(q: torch.Tensor) -> str:
    return "ieee" if q.dtype == torch.float32 else "tf32"


def decode_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    sliding_window: int | None,
    out: torch.Tensor,
    config: DecodeConfig,
) -> None:
    """Attention of the first `meta.num_decodes` rows into `out`."""
    rows, (num_q_heads, head_dim) = meta.num_decodes, q.shape[1:]
    block_size, num_kv_heads = k_cache.shape[1:3]
    group = num_q_heads // num_kv_heads
    workspace = meta.workspace or make_workspace(rows, num_q_heads, num_kv_heads, head_dim, q.device)
    longest = min(meta.max_seq_len, sliding_window or NO_WINDOW)
    splits = num_splits(rows * num_kv_heads, longest, num_sms(q.device), config, workspace.max_splits)
    decode_kernel[(num_kv_heads, splits, rows)](
        q, k_cache, v_cache, meta.block_tables, meta.seq_lens, out,
        workspace.partial, workspace.log_sum, workspace.arrivals,
        scale * LOG2_E, sliding_window or NO_WINDOW, meta.block_tables.stride(0), splits,
        HKV=num_kv_heads, GROUP=group, BLOCK_G=max(16, triton.next_power_of_2(group)),
        D=head_dim, BLOCK_D=max(16, triton.next_power_of_2(head_dim)), BLOCK_SIZE=block_size,
        BLOCK_N=config.block_n, MAX_SPLITS=workspace.max_splits, MIN_SPAN=config.min_span,
        STAGES=config.stages, PRECISION=_precision(q), num_warps=config.warps, **launch_options(q.device),
    )  # fmt: skip


def tile_source(
    config: PrefillConfig, rows: int, longest: int, block_size: int, head_dim: int, windowed: bool
) -> str:
    """How prefill fetches whole KV tiles; see `prefill.py`."""
    if not config.tma or windowed or head_dim & (head_dim - 1):
        return "pointers"
    if block_size % config.block_n == 0:
        return "blocks"
    return "copy" if longest >= config.copy_from and rows * longest <= MAX_COPY_TOKENS else "pointers"


def copy_rows(
    k_cache: torch.Tensor, v_cache: torch.Tensor, meta: AttentionMeta, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the prefill rows side by side: [rows * stride, Hkv, D] each, row r from r * stride."""
    rows = meta.seq_lens.shape[0] - meta.num_decodes
    block_size, num_kv_heads, head_dim = k_cache.shape[1:]
    k, v = k_cache.new_empty(2, rows * stride, num_kv_heads, head_dim).unbind(0)
    width = num_kv_heads * head_dim
    gather_kernel[(triton.cdiv(meta.max_seq_len, block_size), rows)](
        k_cache, v_cache, meta.block_tables, meta.seq_lens, k, v, stride, meta.num_decodes,
        meta.block_tables.stride(0), WIDTH=width, BLOCK_WIDTH=triton.next_power_of_2(width), BLOCK_SIZE=block_size,
        num_warps=8,
    )  # fmt: skip
    return k, v


def prefill_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    sliding_window: int | None,
    out: torch.Tensor,
    config: PrefillConfig,
) -> None:
    """Attention of the rows after the first `meta.num_decodes` into `out`."""
    num_q_heads, head_dim = q.shape[1:]
    block_size, num_kv_heads = k_cache.shape[1:3]
    rows = meta.seq_lens.shape[0] - meta.num_decodes
    source = tile_source(config, rows, meta.max_seq_len, block_size, head_dim, sliding_window is not None)
    stride = triton.cdiv(meta.max_seq_len, 128) * 128
    k_tiles = v_tiles = None
    if source != "pointers":
        k, v = (k_cache, v_cache) if source == "blocks" else copy_rows(k_cache, v_cache, meta, stride)
        tile, width = [config.block_n, head_dim], num_kv_heads * head_dim
        k_tiles = TensorDescriptor.from_tensor(k.view(-1, width), tile)
        v_tiles = TensorDescriptor.from_tensor(v.view(-1, width), tile)
    prefill_kernel[(triton.cdiv(meta.max_query_len, config.block_m), num_q_heads, rows)](
        q, k_cache, v_cache, meta.block_tables, meta.seq_lens, meta.query_start, out, k_tiles, v_tiles, stride,
        meta.num_decodes, scale * LOG2_E, sliding_window or NO_WINDOW, meta.block_tables.stride(0),
        HQ=num_q_heads, HKV=num_kv_heads, D=head_dim, BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_SIZE=block_size, BLOCK_M=config.block_m, BLOCK_N=config.block_n, STAGES=config.stages,
        WINDOWED=sliding_window is not None, SOURCE=source, PRECISION=_precision(q), num_warps=config.warps,
    )  # fmt: skip


@functools.cache
def hopper() -> ModuleType | None:
    """`hopper_launch`, loaded where a table asks for it: it is written in an experimental part of Triton."""
    try:
        from kernels.attention import hopper_launch
    except (ImportError, AttributeError) as error:
        logger.warning("the Hopper prefill kernel does not know Triton %s: %s", triton.__version__, error)
        return None
    return hopper_launch


def takes_specialized(config: PrefillConfig, meta: AttentionMeta) -> bool:
    """Whether a batch is large enough for the kernel of `hopper.py`: by its queries, or by a context to attend to."""
    if config.specialized_from is None:
        return False
    return max(meta.max_query_len, meta.max_seq_len // 8) >= config.specialized_from


def paged_attention_triton(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    sliding_window: int | None = None,
    decode: DecodeConfig | None = None,
    prefill: PrefillConfig | None = None,
) -> torch.Tensor:
    """See `kernels.attention.paged_attention`."""
    out = torch.empty_like(q)
    # Decodes first: their padding rows write to tokens that belong to chunks.
    if meta.num_decodes:
        config = decode or decode_config(q.device)
        decode_triton(q, k_cache, v_cache, meta, scale, sliding_window, out, config)
    if meta.seq_lens.shape[0] > meta.num_decodes:
        backend = prefill_backend(q, k_cache) if prefill is None else None
        if backend is not None:
            backend.run(q, k_cache, v_cache, meta, scale, sliding_window, out)
            return out
        tiles = prefill or prefill_config(q.device, q.shape[2])
        if (
            takes_specialized(tiles, meta)
            and (specialized := hopper())
            and specialized.takes(q, k_cache, sliding_window)
        ):
            specialized.prefill_hopper(q, k_cache, v_cache, meta, scale * LOG2_E, out, num_sms(q.device))
        else:
            prefill_triton(q, k_cache, v_cache, meta, scale, sliding_window, out, tiles)
    return out
