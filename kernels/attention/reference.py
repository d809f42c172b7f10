"""PyTorch reference of paged attention; also what serves requests on CPU, so decode rows run as one padded batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.attention.meta import AttentionMeta


@dataclass(frozen=True)
class DecodeRows:
    """Where the decode rows' tokens lie in the cache; the same for all layers of a step with the same window.

    slots:   [rows * longest] int64, block * block_size + offset of each token; padding reads some token.
    visible: [rows, 1, 1, longest] bool, or None where no row needs padding.
    """

    slots: torch.Tensor
    longest: int
    visible: torch.Tensor | None


def cache_slots(block_tables: torch.Tensor, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Token slots (block * block_size + offset) of `positions` [rows, L]: [rows * L]. block_tables: [rows, max_blocks]."""
    blocks = block_tables.long().gather(1, positions // block_size)
    return (blocks * block_size + positions % block_size).flatten()


def gather_tokens(cache: torch.Tensor, slots: torch.Tensor, rows: int) -> torch.Tensor:
    """Cache entries at `slots` [rows * L]: [rows, Hkv, L, D]. cache: [num_blocks, block_size, Hkv, D]."""
    heads, head_dim = cache.shape[2:]
    return (
        cache.view(-1, heads * head_dim)
        .index_select(0, slots)
        .view(rows, -1, heads, head_dim)
        .transpose(1, 2)
    )


def decode_rows(
    block_tables: torch.Tensor, seq_lens: torch.Tensor, block_size: int, sliding_window: int | None
) -> DecodeRows:
    """Rows that see their last `seq_lens` (or window) tokens."""
    lengths = seq_lens.long()
    start = torch.zeros_like(lengths) if sliding_window is None else (lengths - sliding_window).clamp_(min=0)
    longest = max(int((lengths - start).max()), 1)
    positions = start.unsqueeze(1) + torch.arange(longest, device=seq_lens.device)
    visible = positions < lengths.unsqueeze(1)
    # A padding row attends to one (arbitrary) token, so that its output is finite; padded columns read position 0.
    visible[:, 0] = True
    slots = cache_slots(block_tables, positions.where(visible, 0), block_size)
    return DecodeRows(slots, longest, None if bool(visible.all()) else visible[:, None, None, :])


def decode(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, where: DecodeRows, scale: float
) -> torch.Tensor:
    """One query per row, `q` [rows, Hq, D], against the row's tokens: [rows, Hq, D]."""
    rows, num_q_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    k = gather_tokens(k_cache, where.slots, rows)
    v = gather_tokens(v_cache, where.slots, rows)
    # The query heads that share a KV head become the "sequence" of one attention: no KV is repeated.
    grouped = q.view(rows, num_kv_heads, num_q_heads // num_kv_heads, head_dim)
    mask = None
    if where.visible is not None:
        mask = where.visible.expand(rows, 1, grouped.shape[2], where.longest)
    out = F.scaled_dot_product_attention(grouped, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, scale=scale)
    return out.reshape(rows, num_q_heads, head_dim)


def prefill_row(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    seq_len: int,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """The last `q.shape[0]` positions of one row of `seq_len` tokens, causal: [Q, Hq, D]."""
    num_queries, num_q_heads, _ = q.shape
    first_query = seq_len - num_queries
    start = 0 if sliding_window is None else max(0, first_query - sliding_window + 1)
    positions = torch.arange(start, seq_len, device=q.device).unsqueeze(0)
    slots = cache_slots(block_table.unsqueeze(0), positions, k_cache.shape[1])
    k = gather_tokens(k_cache, slots, 1).to(q.dtype)
    v = gather_tokens(v_cache, slots, 1).to(q.dtype)
    mask = None
    if first_query > 0 or sliding_window is not None:
        query_positions = torch.arange(first_query, seq_len, device=q.device).unsqueeze(1)
        mask = positions <= query_positions
        if sliding_window is not None:
            mask &= positions > query_positions - sliding_window
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0), k, v,
        attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=num_q_heads != k_cache.shape[2],
    )  # fmt: skip
    return out.squeeze(0).transpose(0, 1)


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMeta,
    scale: float,
    sliding_window: int | None = None,
) -> torch.Tensor:
    """See `kernels.attention.paged_attention`."""
    split = meta.num_decodes
    decoded = None
    if split:
        where = meta.memo.get(sliding_window)
        if where is None:
            tables, seen = meta.block_tables[:split], meta.seq_lens[:split]
            where = meta.memo[sliding_window] = decode_rows(tables, seen, k_cache.shape[1], sliding_window)
        decoded = decode(q[:split], k_cache, v_cache, where, scale)
        if split == q.shape[0]:
            return decoded
    out = torch.zeros_like(q)
    if decoded is not None:
        out[:split] = decoded
    starts = meta.query_start[split:].tolist()
    lengths = meta.seq_lens[split:].tolist()
    for row, (begin, end, length) in enumerate(zip(starts, starts[1:], lengths, strict=False)):
        if end > begin and length >= end - begin:
            table = meta.block_tables[split + row]
            out[begin:end] = prefill_row(q[begin:end], k_cache, v_cache, table, length, scale, sliding_window)
    return out
