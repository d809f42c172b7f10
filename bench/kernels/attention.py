"""Decode and prefill attention over paged caches, against PyTorch's attention on contiguous tensors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.kernels.measure import Group, Variant
from kernels.attention import AttentionMeta, make_workspace, reference
from kernels.attention.launch import DecodeConfig, PrefillConfig, paged_attention_triton

DEVICE = "cuda"
HEADS = {
    "8b": (32, 8, 128),
    "0.6b": (16, 8, 128),
    "32b-tp4": (10, 2, 128),
    "d64": (32, 8, 64),
    "d256": (16, 4, 256),
}
DECODES = [
    ("8b", [512], None), ("8b", [8192], None), ("8b", [1152] * 32, None), ("8b", [1152] * 256, None),
    ("8b", [7000] * 8, None), ("8b", list(range(100, 4100, 62)), None), ("8b", [8192] * 8, 1024),
    ("0.6b", [300], None), ("0.6b", [1152] * 256, None), ("32b-tp4", [1152] * 32, None), ("d64", [2048] * 32, None),
    ("d256", [2048] * 16, None),
]  # fmt: skip
# (heads, (query length, context length) of each row, window, block size)
PREFILLS = [
    ("8b", [(128, 128)], None, 16), ("8b", [(1024, 1024)], None, 16), ("8b", [(1024, 1024)] * 8, None, 16),
    ("8b", [(8192, 8192)], None, 16), ("8b", [(8192, 8192)], None, 64), ("8b", [(8192, 8192)], None, 128),
    ("8b", [(128, 2176)] * 32, None, 16), ("8b", [(2048, 8192)], None, 16), ("8b", [(8192, 8192)], 1024, 16),
    ("8b", [(777, 1000), (5, 2000), (1, 1), (2500, 2500)], None, 16),
    ("d64", [(4096, 4096)], None, 16), ("d256", [(2048, 2048)], None, 16),
]  # fmt: skip
# Block, least span, programs per multiprocessor, warps, stages. A tile's loads wait for that of its block table, so
# 2 to 4 stages compile to the same buffers (38 KiB at head size 128); the next that differ are 5 (72) and 7 (105).
DECODE_CONFIGS = [
    DecodeConfig(block_n, min_span, programs_per_sm=programs, warps=warps, stages=stages)
    for block_n, min_span, programs, warps, stages in [
        (64, 64, 4, 4, 3), (64, 64, 2, 4, 3), (64, 64, 8, 4, 3), (64, 128, 4, 4, 3), (32, 64, 4, 2, 3), (32, 32, 8, 2, 3),
        (128, 128, 4, 4, 3), (64, 64, 4, 2, 3), (128, 128, 4, 8, 3), (128, 256, 4, 8, 3),
        (64, 64, 4, 2, 5), (64, 64, 4, 2, 7), (64, 64, 2, 2, 7), (64, 64, 4, 4, 5), (32, 64, 4, 2, 5), (32, 64, 4, 2, 7),
    ]
]  # fmt: skip
PREFILL_CONFIGS = [
    PrefillConfig(128, 64, 8, 3), PrefillConfig(128, 64, 8, 2), PrefillConfig(128, 128, 8, 2),
    PrefillConfig(128, 128, 8, 3), PrefillConfig(128, 64, 4, 3), PrefillConfig(64, 64, 4, 3),
    PrefillConfig(64, 64, 4, 2), PrefillConfig(64, 128, 4, 2), PrefillConfig(128, 32, 8, 4),
    PrefillConfig(64, 32, 4, 2),
    PrefillConfig(128, 64, 8, 3, True), PrefillConfig(128, 64, 8, 4, True), PrefillConfig(128, 128, 8, 2, True),
    PrefillConfig(128, 128, 8, 3, True), PrefillConfig(64, 64, 4, 3, True),
    PrefillConfig(64, 64, 4, 3, True, specialized_from=128),
]  # fmt: skip


@dataclass
class Inputs:
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    meta: AttentionMeta
    scale: float
    laid_out: tuple[torch.Tensor, torch.Tensor] | None = None
    """See `contiguous`."""


@functools.lru_cache(maxsize=2)
def caches(
    tokens: int, block_size: int, num_kv_heads: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A cache of at least `tokens`, shared by the sets of a group: their tables point at different blocks."""
    shape = (tokens // block_size + 2, block_size, num_kv_heads, head_dim)
    return tuple(torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) for _ in "kv")


def make_inputs(
    heads: str, num_decodes: int, rows: list[tuple[int, int]], block_size: int, seed: int
) -> Inputs:
    """`rows`: (query length, context length); the first `num_decodes` are decodes."""
    num_q_heads, num_kv_heads, head_dim = HEADS[heads]
    generator = torch.Generator(DEVICE).manual_seed(seed)
    blocks_per_row = [-(-length // block_size) for _, length in rows]
    needed = sum(blocks_per_row) * block_size
    k_cache, v_cache = caches(max(needed, 200_000), block_size, num_kv_heads, head_dim)
    order = torch.randperm(k_cache.shape[0], generator=generator, device=DEVICE).int()
    tables = torch.zeros(len(rows), max(blocks_per_row), dtype=torch.int32, device=DEVICE)
    for row, (start, count) in enumerate(
        zip(itertools.accumulate([0, *blocks_per_row]), blocks_per_row, strict=False)
    ):
        tables[row, :count] = order[start : start + count]
    starts = torch.tensor([0, *(query for query, _ in rows)], device=DEVICE).cumsum(0).int()
    workspace = make_workspace(max(num_decodes, 1), num_q_heads, num_kv_heads, head_dim, DEVICE)
    meta = AttentionMeta(
        tables, torch.tensor([length for _, length in rows], dtype=torch.int32, device=DEVICE), starts, num_decodes,
        max(query for query, _ in rows), max(length for _, length in rows), workspace,
    )  # fmt: skip
    shape = (int(starts[-1]), num_q_heads, head_dim)
    q = torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.bfloat16)
    return Inputs(q, k_cache, v_cache, meta, head_dim**-0.5)


def make_laid_out(
    heads: str, num_decodes: int, rows: list[tuple[int, int]], block_size: int, seed: int
) -> Inputs:
    """`make_inputs`, and keys and values side by side, for `contiguous`."""
    inputs = make_inputs(heads, num_decodes, rows, block_size, seed)
    inputs.laid_out = side_by_side(inputs)
    return inputs


def answer(window: int | None, inputs: Inputs) -> torch.Tensor:
    """Our reference in float64, itself checked on CPU against a naive one; by KV head, or the scores would not fit."""
    out = torch.zeros_like(inputs.q, dtype=torch.float64)
    num_kv_heads = inputs.k_cache.shape[2]
    group = inputs.q.shape[1] // num_kv_heads
    for kv_head in range(num_kv_heads):
        heads = slice(kv_head * group, (kv_head + 1) * group)
        k, v = (
            cache[:, :, kv_head : kv_head + 1].double().contiguous()
            for cache in (inputs.k_cache, inputs.v_cache)
        )
        with sdpa_kernel(SDPBackend.MATH):
            out[:, heads] = reference.paged_attention(
                inputs.q[:, heads].double().contiguous(), k, v, inputs.meta, inputs.scale, window
            )
    return out


def ours(
    window: int | None, decode: DecodeConfig | None, prefill: PrefillConfig | None, inputs: Inputs
) -> torch.Tensor:
    return paged_attention_triton(
        inputs.q, inputs.k_cache, inputs.v_cache, inputs.meta, inputs.scale, window, decode, prefill
    )


def side_by_side(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's keys and values [rows, Hq, S, D], rows of one length, one head per query head.

    Heads are expanded because not every backend lets query heads share them. That is for prefill, where the products
    count and not the bytes.
    """
    meta, length = inputs.meta, inputs.meta.max_seq_len
    rows, group = len(meta.seq_lens), inputs.q.shape[1] // inputs.k_cache.shape[2]
    positions = torch.arange(length, device=inputs.q.device).expand(rows, -1)
    slots = reference.cache_slots(meta.block_tables, positions, inputs.k_cache.shape[1])
    k, v = (reference.gather_tokens(cache, slots, rows) for cache in (inputs.k_cache, inputs.v_cache))
    return k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


def contiguous(backend: SDPBackend, inputs: Inputs) -> torch.Tensor:
    """PyTorch's attention as if keys and values lay side by side: the ceiling that paging is measured against.

    For rows that are whole prompts of one length. The inputs are made with them side by side: that is not timed.
    """
    assert inputs.laid_out is not None
    rows, (_, heads, head_dim) = len(inputs.meta.seq_lens), inputs.q.shape
    q = inputs.q.view(rows, -1, heads, head_dim).transpose(1, 2)
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(q, *inputs.laid_out, is_causal=True, scale=inputs.scale)
    return out.transpose(1, 2).reshape(inputs.q.shape)


def seen(rows: list[tuple[int, int]], window: int | None) -> tuple[float, float]:
    """(query, key) pairs that count, and distinct keys read at least once."""
    pairs = keys = 0.0
    for query, length in rows:
        limit = min(length, window or length)
        first = length - query
        pairs += sum(min(position + 1, limit) for position in range(first, length))
        keys += min(length, limit + query - 1)
    return pairs, keys


def groups() -> Iterator[Group]:
    for heads, lengths, window in DECODES:
        rows = [(1, length) for length in lengths]
        variants = [
            Variant("/".join(map(str, asdict(config).values())), functools.partial(ours, window, config, None), asdict(config))
            for config in DECODE_CONFIGS
        ]  # fmt: skip
        span = f"{lengths[0]}" if len(set(lengths)) == 1 else f"{min(lengths)}..{max(lengths)}"
        yield group(
            heads, len(rows), rows, window, 16, "attention_decode", f"{heads} B{len(rows)} S{span}", variants
        )
    for heads, rows, window, block_size in PREFILLS:
        variants = [
            Variant("/".join(map(str, asdict(config).values())), functools.partial(ours, window, None, config), asdict(config))
            for config in PREFILL_CONFIGS
        ]  # fmt: skip
        query, length = rows[0]
        whole = len(set(rows)) == 1 and window is None and query == length
        if whole:
            for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
                name = f"contiguous {backend.name}"
                variants.append(Variant(name, functools.partial(contiguous, backend)))
        span = f"{query}/{length}" if len(set(rows)) == 1 else "ragged"
        label = f"{heads} B{len(rows)} {span} bs{block_size}"
        found = group(heads, 0, rows, window, block_size, "attention_prefill", label, variants)
        make = functools.partial(make_laid_out, heads, 0, rows, block_size)
        yield replace(found, make=make) if whole else found


def group(
    heads: str,
    num_decodes: int,
    rows: list[tuple[int, int]],
    window: int | None,
    block_size: int,
    op: str,
    label: str,
    variants: list[Variant],
) -> Group:
    num_q_heads, num_kv_heads, head_dim = HEADS[heads]
    pairs, keys = seen(rows, window)
    queries = sum(query for query, _ in rows)
    return Group(
        op=op,
        shape=label + (f" w{window}" if window else ""),
        variants=variants,
        make=functools.partial(make_inputs, heads, num_decodes, rows, block_size),
        answer=functools.partial(answer, window),
        bytes=2.0 * (2 * keys * num_kv_heads * head_dim + 2 * queries * num_q_heads * head_dim),
        flops=4.0 * pairs * num_q_heads * head_dim,
        key=str(head_dim),
    )
