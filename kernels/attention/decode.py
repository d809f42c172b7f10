"""Triton kernel of paged decode attention: one query token per row, the KV split over programs.

One program takes one row, one KV head with all query heads that share it (padded to 16 for the matrix units) and
one span of the row's tokens. How many spans a row uses is decided on the device from its length, so a captured
graph with a fixed grid serves any lengths: surplus programs leave at once. The last program of a (row, KV head) to
finish joins the spans in order, so the result does not depend on who that was.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.pdl import launch_downstream, wait_upstream


@triton.jit
def span_of(
    row, split, seq_lens_ptr, window,
    SPLITS: tl.constexpr, FILL: tl.constexpr, BLOCK_N: tl.constexpr, MIN_SPAN: tl.constexpr, LONG_SPAN: tl.constexpr,
):  # fmt: skip
    """First and last-plus-one position of span `split` of `row`, and how many spans the row uses (at least 1)."""
    seq_len = tl.load(seq_lens_ptr + row)
    start = tl.maximum(seq_len - window, 0)
    length = seq_len - start
    spans = tl.maximum(FILL, tl.minimum(length // LONG_SPAN, SPLITS))
    span = tl.maximum(tl.cdiv(tl.cdiv(length, spans), BLOCK_N) * BLOCK_N, MIN_SPAN)
    begin = start + split * span
    return begin, tl.minimum(begin + span, seq_len), tl.maximum(tl.cdiv(length, span), 1)


@triton.jit
def attend_span(
    q, begin, end, table, k_ptr, v_ptr, kv_head, scale_log2,
    HKV: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_G: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax of q [BLOCK_G, BLOCK_D] over positions begin..end: unnormalised output, log2 maximum, sum."""
    columns = tl.arange(0, BLOCK_D)
    in_d = (columns < D)[None, :]
    highest = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    out = tl.zeros((BLOCK_G, BLOCK_D), tl.float32)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        position = first + tl.arange(0, BLOCK_N)
        inside = position < end
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        slot = block * BLOCK_SIZE + position % BLOCK_SIZE
        offset = (slot * HKV + kv_head)[:, None] * D + columns[None, :]
        k = tl.load(k_ptr + offset, mask=inside[:, None] & in_d, other=0.0)
        v = tl.load(v_ptr + offset, mask=inside[:, None] & in_d, other=0.0)
        scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision=PRECISION) * scale_log2
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, axis=1))
        shrink = tl.exp2(highest - new_highest)
        weights = tl.exp2(scores - new_highest[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        out = out * shrink[:, None]
        out = tl.dot(weights.to(q.dtype), v.to(q.dtype), out, input_precision=PRECISION)
        highest = new_highest
    return out, highest, total


@triton.jit
def join_spans(
    partial, log_sum, num_spans,
    D: tl.constexpr, BLOCK_D: tl.constexpr, MAX_SPLITS: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_G: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Weighted mean [BLOCK_G, BLOCK_D] of the spans' outputs, in span order."""
    group, columns = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
    spans = tl.arange(0, SPLITS)
    real = (group < GROUP)[:, None]
    logs = tl.load(
        log_sum + group[:, None] * MAX_SPLITS + spans[None, :],
        mask=real & (spans < num_spans)[None, :], other=float("-inf"),
    )  # fmt: skip
    highest = tl.max(logs, axis=1)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.sum(tl.exp2(logs - highest[:, None]), axis=1)
    out = tl.zeros((BLOCK_G, BLOCK_D), tl.float32)
    for span in tl.range(0, num_spans, loop_unroll_factor=4):
        log = tl.load(log_sum + group * MAX_SPLITS + span, mask=group < GROUP, other=float("-inf"))
        part = tl.load(
            partial + (group[:, None] * MAX_SPLITS + span) * D + columns[None, :],
            mask=real & (columns < D)[None, :], other=0.0,
        )  # fmt: skip
        out += part * tl.exp2(log - highest)[:, None]
    return out / tl.maximum(total, 1e-37)[:, None]


@triton.jit
def decode_kernel(
    q_ptr,  # [rows, Hq, D]
    k_ptr,  # [num_blocks, BLOCK_SIZE, Hkv, D]
    v_ptr,  # [num_blocks, BLOCK_SIZE, Hkv, D]
    table_ptr,  # [rows, max_blocks]
    seq_lens_ptr,  # [rows]
    out_ptr,  # [rows, Hq, D]
    partial_ptr,  # [max_rows, Hq, MAX_SPLITS, D]
    log_sum_ptr,  # [max_rows, Hq, MAX_SPLITS]
    arrivals_ptr,  # [max_rows, Hkv]
    scale_log2,
    window,  # tokens a query sees; a number past any length for all
    table_stride,
    HKV: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head
    BLOCK_G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,  # programs per (row, KV head), a power of two: the most spans of a row
    FILL: tl.constexpr,  # spans of a row of any length, where MIN_SPAN allows: they fill the GPU
    MAX_SPLITS: tl.constexpr,
    MIN_SPAN: tl.constexpr,  # tokens that make a span worth its own program, a multiple of BLOCK_N
    LONG_SPAN: tl.constexpr,  # rows have more than FILL spans where each is at least this long
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    wait_upstream(PDL)
    launch_downstream(PDL)
    begin, end, num_spans = span_of(
        row, split, seq_lens_ptr, window, SPLITS, FILL, BLOCK_N, MIN_SPAN, LONG_SPAN
    )
    if split < num_spans:
        group, columns = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
        real = (group < GROUP)[:, None] & (columns < D)[None, :]
        heads = (row * HKV + kv_head) * GROUP + group  # row of q seen as [rows * Hq, D]
        place = heads[:, None] * D + columns[None, :]
        q = tl.load(q_ptr + place, mask=real, other=0.0)
        out, highest, total = attend_span(
            q, begin, end, table_ptr + row * table_stride, k_ptr, v_ptr, kv_head, scale_log2,
            HKV, D, BLOCK_D, BLOCK_G, BLOCK_SIZE, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip
        out = out / tl.maximum(total, 1e-37)[:, None]
        if num_spans == 1:
            tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=real)
        else:
            partial_place = (heads[:, None] * MAX_SPLITS + split) * D + columns[None, :]
            tl.store(partial_ptr + partial_place, out, mask=real)
            tl.store(log_sum_ptr + heads * MAX_SPLITS + split, highest + tl.log2(total), mask=group < GROUP)
            # The barrier puts every thread's stores before the (release) count; the last to count sees all.
            tl.debug_barrier()
            arrived = tl.atomic_add(arrivals_ptr + row * HKV + kv_head, 1, sem="acq_rel")
            if arrived == num_spans - 1:
                first_head = (row * HKV + kv_head) * GROUP * MAX_SPLITS
                joined = join_spans(
                    partial_ptr + first_head * D, log_sum_ptr + first_head, num_spans,
                    D, BLOCK_D, MAX_SPLITS, GROUP, BLOCK_G, SPLITS,
                )  # fmt: skip
                tl.store(out_ptr + place, joined.to(out_ptr.dtype.element_ty), mask=real)
                tl.store(arrivals_ptr + row * HKV + kv_head, 0)
