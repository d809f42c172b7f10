"""The copying warps of `hopper.py`: queries and KV tiles into shared memory, as far ahead as the rings allow."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

WARPGROUP_ROWS = gl.constexpr(64)  # queries per warpgroup, the height of one matrix instruction
BLOCK_M = gl.constexpr(128)
PANEL = gl.constexpr(64)  # columns of one swizzled panel of shared memory: 128 bytes
# Two names changed on the way from Triton 3.6 to 3.9.
RENAMED = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))
copy_tile = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared


@gluon.jit
def work_item(
    round_, rows, first_row, seq_lens_ptr, query_start_ptr, HQ: gl.constexpr, BLOCK_N: gl.constexpr
):
    """The tile of queries that this program takes in its `round_`-th turn.

    Returns row (of the rows after the decodes), head, first token of the tile in q, its queries (0 or less: nothing to
    do), position of its first query, the row's length and the number of KV tiles. Heaviest first, in a snake, so that
    programs get equal shares.
    """
    programs = gl.num_programs(0)
    turn = gl.program_id(0)
    if round_ % 2 == 1:
        turn = programs - 1 - turn
    item = round_ * programs + turn
    order = item // (HQ * rows)
    row = item % (HQ * rows) // HQ
    head = item % HQ
    query_begin = gl.load(query_start_ptr + first_row + row)
    query_len = gl.load(query_start_ptr + first_row + row + 1) - query_begin
    seq_len = gl.load(seq_lens_ptr + first_row + row)
    tile = gl.cdiv(query_len, BLOCK_M) - 1 - order
    queries = query_len - tile * BLOCK_M
    if tile < 0:
        queries = tile
    first_position = seq_len - query_len + tile * BLOCK_M
    kv_tiles = gl.cdiv(gl.minimum(first_position + BLOCK_M, seq_len), BLOCK_N)
    return row, head, query_begin + tile * BLOCK_M, queries, first_position, seq_len, kv_tiles


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
    q_tiles, q_smem, q_full, q_empty, seq_lens_ptr, query_start_ptr, first_row, rows, tiles,
    HQ: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """One warp: the queries of this program's items, each warpgroup's as soon as it is done with its last ones."""
    done = gl.to_tensor(0)
    for round_ in range(gl.cdiv(tiles * rows * HQ, gl.num_programs(0))):
        _, head, token, queries, _, _, _ = work_item(
            round_, rows, first_row, seq_lens_ptr, query_start_ptr, HQ, BLOCK_N
        )
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
    cache, ring, full, empty, table_ptr, table_stride, seq_lens_ptr, query_start_ptr, first_row, rows, tiles, beyond,
    HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr, BLOCK_SIZE: gl.constexpr, BLOCK_N: gl.constexpr,
    PIECE: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """One warp: the keys (or values) of this program's items, tile by tile; zeros past a row's last block."""
    PANELS: gl.constexpr = D // PANEL
    PARTS: gl.constexpr = BLOCK_N // PIECE
    pieces = pieces_of(ring, PIECE, SLOTS * PANELS * PARTS)
    fetched = gl.to_tensor(0)
    for round_ in range(gl.cdiv(tiles * rows * HQ, gl.num_programs(0))):
        row, head, _, queries, _, seq_len, kv_tiles = work_item(
            round_, rows, first_row, seq_lens_ptr, query_start_ptr, HQ, BLOCK_N
        )
        if queries > 0:
            table = table_ptr + (first_row + row).to(gl.int64) * table_stride
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
