"""The work of a step's prefill, item by item and heaviest first: what persistent programs share out among them.

Made on the device, once for all layers of a step: captured steps pad their rows, and only the device knows which are
real. One launch; every item finds its own place in the order by counting those before it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.attention.meta import AttentionMeta

TILE = 128
"""Queries of one item."""
FIELDS = 5
"""int32 per item: row, first token in q, queries (0: nothing to do), position of the first one, the row's length."""


# A count that changes with every batch must not be compiled in: a compile in service stalls every stream.
@triton.jit(
    do_not_specialize=["first_row", "rows"],
    do_not_specialize_on_alignment=["seq_lens_ptr", "query_start_ptr"],
)
def work_kernel(
    seq_lens_ptr,  # [R]
    query_start_ptr,  # [R + 1]
    items_ptr,  # [items, FIELDS], zeros
    first_row,  # rows before it are decodes
    rows,  # after the decodes
    TILE: tl.constexpr,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row: its tiles go where the number of heavier ones (of equals, those of earlier rows) says."""
    mine = tl.program_id(0)
    begin = tl.load(query_start_ptr + first_row + mine)
    query_len = tl.load(query_start_ptr + first_row + mine + 1) - begin
    seq_len = tl.load(seq_lens_ptr + first_row + mine)
    for first in range(0, tl.cdiv(query_len, TILE), BLOCK):
        tile = first + tl.arange(0, BLOCK)
        real = tile * TILE < query_len
        position = seq_len - query_len + tile * TILE
        place = tl.zeros_like(tile)
        for row in range(rows):
            others = tl.load(query_start_ptr + first_row + row + 1) - tl.load(
                query_start_ptr + first_row + row
            )
            tiles = tl.cdiv(others, TILE)
            # Its tile t begins at `base + t * TILE`; those up to this position are not heavier.
            ahead = position - (tl.load(seq_lens_ptr + first_row + row) - others)
            lighter = tl.where(row < mine, tl.cdiv(ahead, TILE), ahead // TILE + 1)
            lighter = tl.where(ahead < 0, 0, tl.minimum(lighter, tiles))
            place += tiles - lighter
        item = items_ptr + place * FIELDS
        tl.store(item, tl.zeros_like(tile) + first_row + mine, mask=real)
        tl.store(item + 1, begin + tile * TILE, mask=real)
        tl.store(item + 2, tl.minimum(query_len - tile * TILE, TILE), mask=real)
        tl.store(item + 3, position, mask=real)
        tl.store(item + 4, tl.zeros_like(tile) + seq_len, mask=real)


def prefill_work(meta: AttentionMeta, num_tokens: int) -> torch.Tensor:
    """The items [N, FIELDS] of the rows after the decodes, in a step of `num_tokens`; N holds any such rows."""
    items: torch.Tensor | None = meta.memo.get("work")
    if items is None:
        rows = meta.seq_lens.shape[0] - meta.num_decodes
        items = meta.memo["work"] = meta.seq_lens.new_zeros(num_tokens // TILE + rows, FIELDS)
        work_kernel[(rows,)](
            meta.seq_lens, meta.query_start, items, meta.num_decodes, rows, TILE, FIELDS, BLOCK=64, num_warps=1
        )  # fmt: skip
    return items
