"""PyTorch reference of paged attention; also what serves requests on CPU, so decode rows run as one padded batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kernels.attention.meta import AttentionMeta


def gather_tokens(cache: torch.Tensor, block_tables: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Cache entries at `positions` [rows, L] of each row: [rows, L, Hkv, D].

    cache: [num_blocks, block_size, Hkv, D]; block_tables: [rows, max_blocks].
    """
    num_blocks, block_size, heads, head_dim = cache.shape
    blocks = block_tables.long().gather(1, positions // block_size)
    slots = (blocks * block_size + positions % block_size).flatten()
    tokens = cache.view(num_blocks * block_size, heads * head_dim).index_select(0, slots)
    return tokens.view(*positions.shape, heads, head_dim)


def decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """One query per row, `q` [rows, Hq, D], against the row's last `seq_lens` (or window) tokens: [rows, Hq, D]."""
    rows, num_q_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    lengths = seq_lens.long()
    start = torch.zeros_like(lengths) if sliding_window is None else (lengths - sliding_window).clamp_(min=0)
    longest = max(int((lengths - start).max()), 1)
    positions = start.unsqueeze(1) + torch.arange(longest, device=q.device)
    visible = positions < lengths.unsqueeze(1)
    # A padding row attends to one (arbitrary) token, so that its output is finite; padded columns read position 0.
    visible[:, 0] = True
    positions = positions.where(visible, 0)
    k = gather_tokens(k_cache, block_tables, positions).transpose(1, 2)
    v = gather_tokens(v_cache, block_tables, positions).transpose(1, 2)
    # The query heads that share a KV head become the "sequence" of one attention: no KV is repeated.
    grouped = q.view(rows, num_kv_heads, num_q_heads // num_kv_heads, head_dim)
    mask = visible[:, None, None, :].expand(rows, 1, grouped.shape[2], longest)
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
    k = gather_tokens(k_cache, block_table.unsqueeze(0), positions).transpose(1, 2).to(q.dtype)
    v = gather_tokens(v_cache, block_table.unsqueeze(0), positions).transpose(1, 2).to(q.dtype)
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
    out = torch.zeros_like(q)
    split = meta.num_decodes
    if split:
        out[:split] = decode(
            q[:split],
            k_cache,
            v_cache,
            meta.block_tables[:split],
            meta.seq_lens[:split],
            scale,
            sliding_window,
        )
    starts = meta.query_start[split:].tolist()
    lengths = meta.seq_lens[split:].tolist()
    for row, (begin, end, length) in enumerate(zip(starts, starts[1:], lengths, strict=False)):
        if end > begin and length >= end - begin:
            table = meta.block_tables[split + row]
            out[begin:end] = prefill_row(q[begin:end], k_cache, v_cache, table, length, scale, sliding_window)
    return out
