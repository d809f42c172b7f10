"""The copying warps of `hopper.py`: queries and KV tiles into shared memory, as far ahead as the rings allow."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from kernels.attention import work

WARPGROUP_ROWS = gl.constexpr(64)  # queries per warpgroup, the height of one matrix instruction
BLOCK_M = gl.constexpr(work.TILE)
FIELDS = gl.constexpr(work.FIELDS)
PANEL = gl.constexpr(64)  # columns of one swizzled panel of shared memory: 128 bytes
# Two names changed on the way from Triton 3.6 to 3.9.
RENAMED = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))
copy_tile = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared


@gluon.jit
def work_item(round_, items_ptr, items, HQ: gl.constexpr, BLOCK_N: gl.constexpr):
    """The tile of queries of one head that this program takes in its `round_`-th turn; `work.py` has their order.

    Returns row, head, first token of the tile in q, its queries (0: nothing to do), position of its first query, the
    row's length and the number of KV tiles. Turns go in a snake, so that programs get equal shares.
    """
    programs = gl.num_programs(0)
    turn = gl.program_id(0)
    if round_ % 2 == 1:
        turn = programs - 1 - turn
    index = round_ * programs + turn
    item = items_ptr + index // HQ * FIELDS
    here = index < items * HQ
    row = gl.load(item, mask=here, other=0)
    token = gl.load(item + 1, mask=here, other=0)
    queries = gl.load(item + 2, mask=here, other=0)
    first_position = gl.load(item + 3, mask=here, other=0)
    seq_len = gl.load(item + 4, mask=here, other=0)
    kv_tiles = gl.cdiv(gl.minimum(first_position + BLOCK_M, seq_len), BLOCK_N)
    return row, index % HQ, token, queries, first_position, seq_len, kv_tiles


@gluon.jit
def pieces_of(ring, PIECE: gl.constexpr, COUNT: gl.constexpr):
    """The ring of tiles as [slot, panel, part] pieces [PIECE, PANEL]: what one copy fills."""
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    if RENAMED:
        pieces = ring.reinterpret(ring.dtype, [COUNT, PIECE, PANEL], layout)
    else:
        pieces = ring._reinterpret(ring.dtype, [COUNT, PIECE, PANEL], layout)
    return pieces


@gluon.jit
def fetch_queries(
    q_tiles, q_smem, q_full, q_empty, items_ptr, items,
    HQ: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """One warp: the queries of this program's items, each warpgroup's as soon as it is done with its last ones."""
    done = gl.to_tensor(0)
    for round_ in range(gl.cdiv(items * HQ, gl.num_programs(0))):
        _, head, token, queries, _, _, _ = work_item(round_, items_ptr, items, HQ, BLOCK_N)
        if queries > 0:
            for group in gl.static_range(BLOCK_M // WARPGROUP_ROWS):
                mbarrier.wait(q_empty.index(group), (done & 1) ^ 1)
                mbarrier.expect(q_full.index(group), WARPGROUP_ROWS * D * 2)
                copy_tile(
                    q_tiles, [token + group * WARPGROUP_ROWS, head * D], q_full.index(group), q_smem.index(group)
                )  # fmt: skip
            done += 1


@gluon.jit
def fetch_kv(
    cache, ring, full, empty, table_ptr, table_stride, items_ptr, items, beyond,
    HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr, BLOCK_SIZE: gl.constexpr, BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """One warp: the keys (or values) of this program's items, tile by tile; zeros past a row's last block."""
    PANELS: gl.constexpr = D // PANEL
    PARTS: gl.constexpr = BLOCK_N // PIECE
    pieces = pieces_of(ring, PIECE, SLOTS * PANELS * PARTS)
    fetched = gl.to_tensor(0)
    for round_ in range(gl.cdiv(items * HQ, gl.num_programs(0))):
        row, head, _, queries, _, seq_len, kv_tiles = work_item(round_, items_ptr, items, HQ, BLOCK_N)
        if queries > 0:
            table = table_ptr + row.to(gl.int64) * table_stride
            column = head // (HQ // HKV) * D
            for back in range(kv_tiles):
                first = (kv_tiles - 1 - back) * BLOCK_N
                slot = fetched % SLOTS
                starts = ()  # before the wait, so that the table is read meanwhile
                for part in gl.static_range(PARTS):
                    position = first + part * PIECE
                    block = gl.load(table + position // BLOCK_SIZE, mask=position < seq_len, other=0)
                    start = gl.where(position < seq_len, block * BLOCK_SIZE + position % BLOCK_SIZE, beyond)
                    starts += (start,)  # type: ignore[assignment]
                mbarrier.wait(empty.index(slot), fetched // SLOTS & 1 ^ 1)
                mbarrier.expect(full.index(slot), BLOCK_N * D * 2)
                for part in gl.static_range(PARTS):
                    for panel in gl.static_range(PANELS):
                        copy_tile(
                            cache, [starts[part], column + panel * PANEL], full.index(slot),
                            pieces.index((slot * PANELS + panel) * PARTS + part),
                        )  # fmt: skip
                fetched += 1
