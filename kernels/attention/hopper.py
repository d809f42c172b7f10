"""Prefill attention for Hopper: copies, matrix products and softmax of one tile run at the same time.

Single warps fetch queries, keys and values by the tensor memory accelerator (`hopper_copy.py`), cache block by cache
block through the block table, into rings of tiles in shared memory; so no contiguous copy of a row is needed. Two
warpgroups take 64 queries each. A warpgroup issues the scores of the next tile and the weighted values of this one
together, and works on the softmax of the former while the matrix units do the latter; meanwhile they also serve the
other warpgroup.

KV tiles go from the diagonal to the row's start: the tiles that need a mask come first, and the loop over the others
has none. Programs are persistent and share the items of `work.py` out from the heaviest tile of queries to the lightest.

Written in Gluon, Triton's language with explicit layouts and asynchronous instructions; it has no interpreter, so the
kernel of `prefill.py` is the one that tests without a GPU know.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.attention.hopper_copy import (
    BLOCK_M,
    PANEL,
    WARPGROUP_ROWS,
    fetch_kv,
    fetch_queries,
    pieces_of,
    work_item,
)

barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier  # the name changed


@gluon.jit
def mask_scores(scores, first, first_query, layout: gl.constexpr, BLOCK_N: gl.constexpr):
    """-inf where the key comes after the query."""
    key = first + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, layout))
    query = first_query + gl.arange(0, WARPGROUP_ROWS, layout=gl.SliceLayout(1, layout))
    return gl.where(key[None, :] <= query[:, None], scores, float("-inf"))


@gluon.jit
def softmax_step(scores, highest, scale_log2, MASKED: gl.constexpr):
    """Weights of a tile, the new log2 maximum and the factor that brings what was summed before to it."""
    new_highest = gl.maximum(highest, gl.max(scores, axis=1) * scale_log2)
    # A query may see nothing of this tile and of those before it: keep -inf minus -inf out of the exponent.
    base = gl.where(new_highest == float("-inf"), 0.0, new_highest) if MASKED else new_highest
    weights = gl.exp2(scores * scale_log2 - base[:, None])
    return weights, new_highest, gl.exp2(highest - base)


@gluon.jit
def zero_tail(v_pieces, slot, first, seq_len, D: gl.constexpr, BLOCK_N: gl.constexpr, PIECE: gl.constexpr):
    """Zero the values past the row's end in its last cache block: stale ones may be NaN, and weight 0 keeps NaN."""
    PANELS: gl.constexpr = D // PANEL
    PARTS: gl.constexpr = BLOCK_N // PIECE
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    part = (seq_len - first) // PIECE
    if (seq_len - first) % PIECE > 0 and part < PARTS:
        token = gl.arange(0, PIECE, layout=gl.SliceLayout(1, layout))
        real = first + part * PIECE + token < seq_len
        for panel in gl.static_range(PANELS):
            piece = v_pieces.index((slot * PANELS + panel) * PARTS + part)
            values = piece.load(layout)
            piece.store(gl.where(real[:, None], values, 0.0))
        fence_async_shared()
        barrier()


@gluon.jit
def attend(
    out, weights, highest, total, low, high, kv_tiles, first_query, q, k_smem, v_smem, k_full, k_empty, v_full, v_empty,
    consumed, scale_log2, MASKED: gl.constexpr, SCORES: gl.constexpr, OUT: gl.constexpr, WEIGHTS: gl.constexpr,
    BLOCK_N: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """Steps `low`..`high`: scores of the step's tile beside the weighted values of the tile before."""
    for back in range(low, high):
        slot = (consumed + back) % SLOTS
        last_slot = (consumed + back - 1) % SLOTS
        half = gl.convert_layout(weights.to(v_smem.dtype), WEIGHTS)
        empty = gl.zeros([WARPGROUP_ROWS, BLOCK_N], gl.float32, SCORES)
        pending = warpgroup_mma(q, k_smem.index(slot).permute((1, 0)), empty, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(last_slot), (consumed + back - 1) // SLOTS & 1)
        out_pending = warpgroup_mma(half, v_smem.index(last_slot), out, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[pending])
        mbarrier.arrive(k_empty.index(slot))
        if MASKED:
            scores = mask_scores(scores, (kv_tiles - 1 - back) * BLOCK_N, first_query, SCORES, BLOCK_N)
        weights, highest, shrink = softmax_step(scores, highest, scale_log2, MASKED)
        total = total * shrink + gl.sum(weights, axis=1)
        # The next step's keys are awaited here, since the compiler moves no arithmetic over this wait: the softmax
        # stays before the end of the product that runs beside it.
        next_ = consumed + back + 1
        mbarrier.wait(k_full.index(next_ % SLOTS), next_ // SLOTS & 1, pred=back + 1 < kv_tiles)
        out, weights = warpgroup_mma_wait(0, deps=[out_pending, weights])
        mbarrier.arrive(v_empty.index(last_slot))
        out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
    return out, weights, highest, total


@gluon.jit
def consume(
    out_ptr, q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    items_ptr, items, scale_log2,
    GROUP: gl.constexpr, HQ: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """Warpgroup `GROUP`: attention of its 64 queries of each of this program's items."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)
    STORE: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    dtype: gl.constexpr = v_smem.dtype
    v_pieces = pieces_of(v_smem, PIECE, SLOTS * (D // PANEL) * (BLOCK_N // PIECE))
    q = q_smem.index(GROUP)
    consumed = gl.to_tensor(0)
    done = gl.to_tensor(0)
    for round_ in range(gl.cdiv(items * HQ, gl.num_programs(0))):
        _, head, token, queries, first_position, seq_len, kv_tiles = work_item(
            round_, items_ptr, items, HQ, BLOCK_N
        )
        if queries > 0:
            first_query = first_position + GROUP * WARPGROUP_ROWS
            slot = consumed % SLOTS
            phase = consumed // SLOTS & 1
            mbarrier.wait(q_full.index(GROUP), done & 1)
            mbarrier.wait(k_full.index(slot), phase)
            empty = gl.zeros([WARPGROUP_ROWS, BLOCK_N], gl.float32, SCORES)
            pending = warpgroup_mma(
                q, k_smem.index(slot).permute((1, 0)), empty, use_acc=False, is_async=True
            )
            scores = warpgroup_mma_wait(0, deps=[pending])
            mbarrier.arrive(k_empty.index(slot))
            last_first = (kv_tiles - 1) * BLOCK_N
            scores = mask_scores(scores, last_first, first_query, SCORES, BLOCK_N)
            highest = gl.full([WARPGROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
            weights, highest, _shrink = softmax_step(scores, highest, scale_log2, True)
            total = gl.sum(weights, axis=1)
            mbarrier.wait(v_full.index(slot), phase)
            zero_tail(v_pieces, slot, last_first, seq_len, D, BLOCK_N, PIECE)
            next_ = consumed + 1
            mbarrier.wait(k_full.index(next_ % SLOTS), next_ // SLOTS & 1, pred=kv_tiles > 1)
            out = gl.zeros([WARPGROUP_ROWS, D], gl.float32, OUT)
            masked = gl.minimum(gl.maximum(kv_tiles - (first_query + 1) // BLOCK_N, 1), kv_tiles)
            out, weights, highest, total = attend(
                out, weights, highest, total, 1, masked, kv_tiles, first_query, q, k_smem, v_smem, k_full, k_empty,
                v_full, v_empty, consumed, scale_log2, True, SCORES, OUT, WEIGHTS, BLOCK_N, SLOTS,
            )  # fmt: skip
            out, weights, highest, total = attend(
                out, weights, highest, total, masked, kv_tiles, kv_tiles, first_query, q, k_smem, v_smem, k_full, k_empty,
                v_full, v_empty, consumed, scale_log2, False, SCORES, OUT, WEIGHTS, BLOCK_N, SLOTS,
            )  # fmt: skip
            mbarrier.arrive(q_empty.index(GROUP))
            consumed += kv_tiles
            done += 1
            slot = (consumed - 1) % SLOTS
            mbarrier.wait(v_full.index(slot), (consumed - 1) // SLOTS & 1)
            half = gl.convert_layout(weights.to(dtype), WEIGHTS)
            out_pending = warpgroup_mma(half, v_smem.index(slot), out, is_async=True)
            factor = gl.convert_layout(1.0 / gl.maximum(total, 1e-37), gl.SliceLayout(1, OUT))
            out = warpgroup_mma_wait(0, deps=[out_pending])
            mbarrier.arrive(v_empty.index(slot))
            result = gl.convert_layout((out * factor[:, None]).to(dtype), STORE)
            index = GROUP * WARPGROUP_ROWS + gl.arange(0, WARPGROUP_ROWS, layout=gl.SliceLayout(1, STORE))
            columns = gl.arange(0, D, layout=gl.SliceLayout(0, STORE))
            place = ((token + index).to(gl.int64) * HQ + head)[:, None] * D + columns[None, :]
            gl.store(out_ptr + place, result, mask=(index < queries)[:, None])


# A count that changes with every batch must not be compiled in: a compile in service stalls every stream.
@gluon.jit(
    do_not_specialize=["items", "beyond", "table_stride"],
    do_not_specialize_on_alignment=["table_ptr", "items_ptr"],
)
def hopper_prefill_kernel(
    q_tiles,  # descriptor of [T, Hq * D] in tiles [64, D]
    k_cache,  # descriptor of [num_blocks * BLOCK_SIZE, Hkv * D] in pieces [PIECE, 64]
    v_cache,
    table_ptr,  # [R, max_blocks]
    items_ptr,  # [items, FIELDS], see `work.py`
    out_ptr,  # [T, Hq, D]
    items,
    beyond,  # num_blocks * BLOCK_SIZE: reads there give zeros
    table_stride,
    scale_log2,
    HQ: gl.constexpr,
    HKV: gl.constexpr,
    D: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
    BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr,  # tokens of one copy: those of a KV tile that lie in one cache block
    SLOTS: gl.constexpr,
):
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    q_smem = gl.allocate_shared_memory(q_tiles.dtype, [BLOCK_M // WARPGROUP_ROWS, WARPGROUP_ROWS, D], layout)
    k_smem = gl.allocate_shared_memory(k_cache.dtype, [SLOTS, BLOCK_N, D], layout)
    v_smem = gl.allocate_shared_memory(v_cache.dtype, [SLOTS, BLOCK_N, D], layout)
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for group in gl.static_range(2):
        mbarrier.init(q_full.index(group), 1)
        mbarrier.init(q_empty.index(group), 1)
    for slot in gl.static_range(SLOTS):
        mbarrier.init(k_full.index(slot), 1)
        mbarrier.init(k_empty.index(slot), 2)
        mbarrier.init(v_full.index(slot), 1)
        mbarrier.init(v_empty.index(slot), 2)
    fence_async_shared()
    gl.warp_specialize(
        [
            (consume, (
                out_ptr, q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                items_ptr, items, scale_log2,
                0, HQ, D, BLOCK_N, PIECE, SLOTS,
            )),
            (consume, (
                out_ptr, q_smem, k_smem, v_smem, q_full, q_empty, k_full, k_empty, v_full, v_empty,
                items_ptr, items, scale_log2,
                1, HQ, D, BLOCK_N, PIECE, SLOTS,
            )),
            (fetch_kv, (
                k_cache, k_smem, k_full, k_empty, table_ptr, table_stride, items_ptr, items, beyond,
                HQ, HKV, D, BLOCK_SIZE, BLOCK_N, PIECE, SLOTS,
            )),
            (fetch_kv, (
                v_cache, v_smem, v_full, v_empty, table_ptr, table_stride, items_ptr, items, beyond,
                HQ, HKV, D, BLOCK_SIZE, BLOCK_N, PIECE, SLOTS,
            )),
            (fetch_queries, (
                q_tiles, q_smem, q_full, q_empty, items_ptr, items, HQ, D, BLOCK_N,
            )),
        ],
        [4, 1, 1, 1],
        [240, 24, 24, 24],
    )  # fmt: skip
