"""The order of a step's prefill tiles, against a sort on the host."""

import pytest
from helpers import DEVICE, attention_case, padded_as_captured

pytest.importorskip("triton")
from kernels.attention.work import TILE, prefill_work

BATCHES = {
    "one": ([], [(1, 1)]),
    "equal rows": ([], [(300, 300)] * 3),
    "ragged, with contexts and decodes": (
        [9, 4],
        [(129, 1000), (128, 1024), (1, 17), (300, 901), (640, 640)],
    ),
    "more tiles than a block": ([1], [(TILE * 70 + 5, TILE * 70 + 9), (TILE, TILE)]),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("padding", [0, 2])
def test_items_come_heaviest_first_and_cover_every_query_once(batch: str, padding: int) -> None:
    decodes, prefills = BATCHES[batch]
    case = attention_case(decodes, prefills, heads=(1, 1), head_dim=16, device=DEVICE)
    rows, tokens = len(decodes), len(case.q)
    if padding:
        rows, tokens = rows + padding, tokens + 3 * padding
        case = padded_as_captured(case, rows, len(prefills) + padding, tokens)
    expected, token = [], len(decodes)
    for row, (queries, length) in enumerate(prefills, start=rows):
        for tile in range(-(-queries // TILE)):
            first = tile * TILE
            item = (row, token + first, min(queries - first, TILE), length - queries + first, length)
            expected.append(item)
        token += queries
    expected.sort(key=lambda item: (-item[3], item[0]))
    items = prefill_work(case.meta, tokens)
    assert items[: len(expected)].tolist() == [list(item) for item in expected]
    assert not items[len(expected) :, 2].any()
    assert prefill_work(case.meta, tokens) is items, "made once for all layers"
