"""Triton kernel of prefill attention: ragged chunks of queries over paged KV, prefix included, causal.

One program takes one tile of queries of one row and one query head. Tiles below the causal diagonal need no mask, so
the loop over the KV runs in two parts: whole tiles first, then those the diagonal (or the row's end) crosses.

Whole tiles come by pointers through the block table, or, faster on Hopper, by the tensor memory accelerator. That
copies rectangles, so it needs KV tiles that lie in one piece: cache blocks no smaller than a tile, or a copy of the
row's KV side by side (`gather_kernel`), which costs little against the arithmetic of a long row.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_tile(
    base, table, position, seq_len, columns,
    MASKED: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Cache entries [BLOCK_N, BLOCK_D] of one head at `position`; zeros past the row's end and the head's width."""
    if MASKED:
        block = tl.load(table + position // BLOCK_SIZE, mask=position < seq_len, other=0).to(tl.int64)
    else:
        block = tl.load(table + position // BLOCK_SIZE).to(tl.int64)
    slot = block * BLOCK_SIZE + position % BLOCK_SIZE
    pointer = base + slot[:, None] * (HKV * D) + columns[None, :]
    if MASKED:
        return tl.load(pointer, mask=(position < seq_len)[:, None] & (columns < D)[None, :], other=0.0)
    if D != BLOCK_D:
        return tl.load(pointer, mask=(columns < D)[None, :], other=0.0)
    return tl.load(pointer)


@triton.jit
def tile_start(first, table, copy_start, BLOCK_SIZE: tl.constexpr, SOURCE: tl.constexpr):
    """Where the tile at position `first` begins, in tokens of the descriptors' tensor."""
    if SOURCE == "blocks":
        start = tl.load(table + first // BLOCK_SIZE) * BLOCK_SIZE + first % BLOCK_SIZE
    else:
        start = copy_start + first
    return start


@triton.jit
def attend(
    out, highest, total, q, low, high, first_position, seq_len, window, table, k_base, v_base, scale_log2,
    k_tiles, v_tiles, copy_start, column, SOURCE: tl.constexpr, MASKED: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Extend the online softmax of q [BLOCK_M, BLOCK_D] by the KV tiles in low..high."""
    columns = tl.arange(0, BLOCK_D)
    for first in tl.range(low, high, BLOCK_N, num_stages=STAGES):
        position = first + tl.arange(0, BLOCK_N)
        if SOURCE == "pointers":
            k = load_tile(k_base, table, position, seq_len, columns, MASKED, HKV, D, BLOCK_D, BLOCK_SIZE)
        else:
            start = tile_start(first, table, copy_start, BLOCK_SIZE, SOURCE)
            k = k_tiles.load([start, column])
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if MASKED:
            query = first_position + tl.arange(0, BLOCK_M)
            seen = (position[None, :] <= query[:, None]) & (position[None, :] > query[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1) * scale_log2)
        # A query may see nothing of this tile and of those before it: keep -inf minus -inf out of the exponent.
        base = tl.where(new_highest == float("-inf"), 0.0, new_highest) if MASKED else new_highest
        shrink = tl.exp2(highest - base)
        weights = tl.exp2(scores * scale_log2 - base[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        out = out * shrink[:, None]
        if SOURCE == "pointers":
            v = load_tile(v_base, table, position, seq_len, columns, MASKED, HKV, D, BLOCK_D, BLOCK_SIZE)
        else:
            v = v_tiles.load([start, column])
        out = tl.dot(weights.to(v.dtype), v, out, input_precision=PRECISION)
        highest = new_highest
    return out, highest, total


# A count that changes with every batch must not be compiled in: a compile in service stalls every stream.
@triton.jit(do_not_specialize=["first_row", "copy_stride"])
def prefill_kernel(
    q_ptr,  # [T, Hq, D]
    k_ptr,  # [num_blocks, BLOCK_SIZE, Hkv, D]
    v_ptr,  # [num_blocks, BLOCK_SIZE, Hkv, D]
    table_ptr,  # [R, max_blocks]
    seq_lens_ptr,  # [R]
    query_start_ptr,  # [R + 1]
    out_ptr,  # [T, Hq, D]
    k_tiles,  # descriptor of [tokens, Hkv * D] in tiles [BLOCK_N, D], or None: the cache or a copy, by SOURCE
    v_tiles,
    copy_stride,  # tokens per row of the copy
    first_row,  # rows before it are decodes
    scale_log2,
    window,
    table_stride,
    HQ: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOURCE: tl.constexpr,  # of whole tiles: "pointers", "blocks" (cache blocks hold whole tiles) or "copy"
    PRECISION: tl.constexpr,
):
    row = first_row + tl.program_id(2)
    head = tl.program_id(1)
    # The last tile of a row has the most KV to read: start with it, so that no long program starts last.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    query_begin = tl.load(query_start_ptr + row)
    query_len = tl.load(query_start_ptr + row + 1) - query_begin
    seq_len = tl.load(seq_lens_ptr + row)
    if tile * BLOCK_M < query_len:
        first_position = seq_len - query_len + tile * BLOCK_M
        index = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        columns = tl.arange(0, BLOCK_D)
        real = (index < query_len)[:, None] & (columns < D)[None, :]
        place = ((query_begin + index).to(tl.int64) * HQ + head)[:, None] * D + columns[None, :]
        q = tl.load(q_ptr + place, mask=real, other=0.0)

        out = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        table = table_ptr + row.to(tl.int64) * table_stride
        kv_head = head // (HQ // HKV)
        k_base, v_base = k_ptr + kv_head * D, v_ptr + kv_head * D
        end = tl.minimum(first_position + BLOCK_M, seq_len)
        if WINDOWED:
            whole_end = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
        else:
            whole_end = (first_position + 1) // BLOCK_N * BLOCK_N
            out, highest, total = attend(
                out, highest, total, q, 0, whole_end, first_position, seq_len, window, table, k_base, v_base,
                scale_log2, k_tiles, v_tiles, tl.program_id(2) * copy_stride, kv_head * D, SOURCE, False, HKV, D, BLOCK_D, BLOCK_SIZE, BLOCK_M, BLOCK_N, STAGES, PRECISION,
            )  # fmt: skip
        out, highest, total = attend(
            out, highest, total, q, whole_end, end, first_position, seq_len, window, table, k_base, v_base,
            scale_log2, None, None, 0, 0, "pointers", True, HKV, D, BLOCK_D, BLOCK_SIZE, BLOCK_M, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip
        out = out / tl.maximum(total, 1e-37)[:, None]
        tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["copy_stride", "first_row"])
def gather_kernel(
    k_ptr,  # [num_blocks, BLOCK_SIZE, WIDTH]
    v_ptr,  # [num_blocks, BLOCK_SIZE, WIDTH]
    table_ptr,  # [R, max_blocks]
    seq_lens_ptr,  # [R]
    k_out_ptr,  # [rows, copy_stride, WIDTH]
    v_out_ptr,  # [rows, copy_stride, WIDTH]
    copy_stride,
    first_row,
    table_stride,
    WIDTH: tl.constexpr,  # Hkv * D
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Copy one cache block of one row to its place in the rows' contiguous KV."""
    index, block = tl.program_id(1), tl.program_id(0)
    row = first_row + index
    if block * BLOCK_SIZE < tl.load(seq_lens_ptr + row):
        source = tl.load(table_ptr + row.to(tl.int64) * table_stride + block).to(tl.int64) * BLOCK_SIZE
        target = index.to(tl.int64) * copy_stride + block * BLOCK_SIZE
        columns = tl.arange(0, BLOCK_WIDTH)[None, :]
        for first in tl.static_range(0, BLOCK_SIZE, 16 if BLOCK_SIZE > 16 else BLOCK_SIZE):
            token = first + tl.arange(0, 16 if BLOCK_SIZE > 16 else BLOCK_SIZE)[:, None]
            inside = columns < WIDTH
            k = tl.load(k_ptr + (source + token) * WIDTH + columns, mask=inside, other=0.0)
            v = tl.load(v_ptr + (source + token) * WIDTH + columns, mask=inside, other=0.0)
            tl.store(k_out_ptr + (target + token) * WIDTH + columns, k, mask=inside)
            tl.store(v_out_ptr + (target + token) * WIDTH + columns, v, mask=inside)
