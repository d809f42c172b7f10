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
def span_of(row, split, splits, seq_lens_ptr, window, BLOCK_N: tl.constexpr, MIN_SPAN: tl.constexpr):
    """First and last-plus-one position of span `split` of `row`, and how many spans the row uses (at least 1)."""
    seq_len = tl.load(seq_lens_ptr + row)
    start = tl.maximum(seq_len - window, 0)
    length = seq_len - start
    span = tl.maximum(tl.cdiv(tl.cdiv(length, splits), BLOCK_N) * BLOCK_N, MIN_SPAN)
    begin = start + split * span
    return begin, tl.minimum(begin + span, seq_len), tl.maximum(tl.cdiv(length, span), 1)


@triton.jit
def load_tile(pointers, inside, columns, D: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr):
    """Keys or values [BLOCK_N, BLOCK_D]; a tile that is WHOLE has no position outside of the span."""
    if WHOLE and BLOCK_D == D:
        tile = tl.load(pointers)
    elif WHOLE:
        tile = tl.load(pointers, mask=(columns < D)[None, :], other=0.0)
    else:
        tile = tl.load(pointers, mask=inside[:, None] & (columns < D)[None, :], other=0.0)
    return tile


@triton.jit
def attend_tile(
    q, out, highest, total, first, end, table, k_ptr, v_ptr, kv_head, scale_log2,
    HKV: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
    WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds positions first .. first + BLOCK_N - 1, those before `end`, to the online softmax of a span."""
    columns = tl.arange(0, BLOCK_D)
    position = first + tl.arange(0, BLOCK_N)
    inside = position < end
    if WHOLE:
        block = tl.load(table + position // BLOCK_SIZE).to(tl.int64)
    else:
        block = tl.load(table + position // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
    slot = block * BLOCK_SIZE + position % BLOCK_SIZE
    offset = (slot * HKV + kv_head)[:, None] * D + columns[None, :]
    k = load_tile(k_ptr + offset, inside, columns, D, BLOCK_D, WHOLE)
    v = load_tile(v_ptr + offset, inside, columns, D, BLOCK_D, WHOLE)
    scores = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision=PRECISION) * scale_log2
    if not WHOLE:
        scores = tl.where(inside[None, :], scores, float("-inf"))
    new_highest = tl.maximum(highest, tl.max(scores, axis=1))
    shrink = tl.exp2(highest - new_highest)
    weights = tl.exp2(scores - new_highest[:, None])
    total = total * shrink + tl.sum(weights, axis=1)
    out = out * shrink[:, None]
    out = tl.dot(weights.to(q.dtype), v.to(q.dtype), out, input_precision=PRECISION)
    return out, new_highest, total


@triton.jit
def attend_span(
    q, begin, end, table, k_ptr, v_ptr, kv_head, scale_log2,
    HKV: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_G: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online softmax of q [BLOCK_G, BLOCK_D] over positions begin..end: unnormalised output, log2 maximum, sum.

    Only the last tile pays for masks: they take instructions, and so power, from a kernel that should only read.
    """
    highest = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    out = tl.zeros((BLOCK_G, BLOCK_D), tl.float32)
    rest = begin + (end - begin) // BLOCK_N * BLOCK_N
    for first in tl.range(begin, rest, BLOCK_N, num_stages=STAGES):
        out, highest, total = attend_tile(
            q, out, highest, total, first, end, table, k_ptr, v_ptr, kv_head, scale_log2,
            HKV, D, BLOCK_D, BLOCK_SIZE, BLOCK_N, True, PRECISION,
        )  # fmt: skip
    if rest < end:
        out, highest, total = attend_tile(
            q, out, highest, total, rest, end, table, k_ptr, v_ptr, kv_head, scale_log2,
            HKV, D, BLOCK_D, BLOCK_SIZE, BLOCK_N, False, PRECISION,
        )  # fmt: skip
    return out, highest, total


@triton.jit
def join_spans(
    partial, log_sum, num_spans,
    D: tl.constexpr, BLOCK_D: tl.constexpr, MAX_SPLITS: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Weighted mean [BLOCK_G, BLOCK_D] of the spans' outputs, in span order."""
    group, columns = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D)
    spans = tl.arange(0, MAX_SPLITS)
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


# Steps of few rows have more splits than those of many: one kernel serves all, compiled once.
@triton.jit(do_not_specialize=["splits"])
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
    splits,  # programs per (row, KV head): the spans of a row, where MIN_SPAN allows
    HKV: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head
    BLOCK_G: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MAX_SPLITS: tl.constexpr,  # a power of two
    MIN_SPAN: tl.constexpr,  # tokens that make a span worth its own program, a multiple of BLOCK_N
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    # Programs that run at the same time read the heads of the same tokens, which lie side by side.
    kv_head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    wait_upstream(PDL)
    launch_downstream(PDL)
    begin, end, num_spans = span_of(row, split, splits, seq_lens_ptr, window, BLOCK_N, MIN_SPAN)
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
                    D, BLOCK_D, MAX_SPLITS, GROUP, BLOCK_G,
                )  # fmt: skip
                tl.store(out_ptr + place, joined.to(out_ptr.dtype.element_ty), mask=real)
                tl.store(arrivals_ptr + row * HKV + kv_head, 0)
