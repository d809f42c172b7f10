"""Paged attention kernels in Triton's interpreter (or on a GPU) against float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers import (
    DEVICE,
    HALF,
    TOLERANCE,
    attention_answer,
    attention_case,
    padded_as_captured,
    relative_error,
)

from kernels.attention import make_workspace, paged_attention

pytest.importorskip("triton")
from kernels.attention import hopper_launch
from kernels.attention.launch import DecodeConfig, PrefillConfig, num_splits, paged_attention_triton

# `programs_per_sm` far above one makes even these short rows split where the device counts few multiprocessors.
DECODE = DecodeConfig(block_n=16, min_span=16, programs_per_sm=256, warps=4, stages=2)
HOPPER = DEVICE == "cuda" and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the kernel is made of Hopper's instructions")
UNUSED = 1e30
PREFILL = PrefillConfig(block_m=16, block_n=16, warps=4, stages=2)
BATCHES = {
    "decodes": ([1, 17, 70, 33], []),
    "prefills": ([], [(5, 5), (20, 41), (1, 9)]),
    "mixed": ([40], [(18, 30), (2, 2)]),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("heads", "head_dim"), [((4, 2), 16), ((3, 1), 24)])
def test_attention_kernels_match_float64(
    dtype: torch.dtype, window: int | None, batch: str, heads: tuple[int, int], head_dim: int
) -> None:
    workspace = make_workspace(8, *heads, head_dim, DEVICE, max_splits=8)
    case = attention_case(
        *BATCHES[batch], heads=heads, head_dim=head_dim, dtype=dtype, device=DEVICE, workspace=workspace
    )
    arguments = (case.q, case.k_cache, case.v_cache, case.meta, case.scale, window, DECODE, PREFILL)
    answer = attention_answer(case, window)
    assert relative_error(paged_attention_triton(*arguments), answer) < TOLERANCE[dtype]
    # The arrival counters are back at zero: the next layer uses the same workspace.
    assert not workspace.arrivals.any()
    if DEVICE == "cuda" or batch == "mixed":  # the interpreter is slow
        assert relative_error(paged_attention_triton(*arguments), answer) < TOLERANCE[dtype]


@pytest.mark.parametrize("head_dim", [80, 96, 112, 192])
def test_head_sizes_that_are_no_power_of_two_match_float64(head_dim: int) -> None:
    workspace = make_workspace(8, 2, 1, head_dim, DEVICE, max_splits=8)
    case = attention_case(
        [1, 37], [(18, 30), (2, 2)], heads=(2, 1), head_dim=head_dim, device=DEVICE, workspace=workspace
    )
    for window in (None, 7):
        out = paged_attention_triton(
            case.q, case.k_cache, case.v_cache, case.meta, case.scale, window, DECODE, PREFILL
        )
        assert relative_error(out, attention_answer(case, window)) < TOLERANCE[torch.float32]


def test_padding_rows_give_finite_output_and_change_no_other_row() -> None:
    case = attention_case([0, 21, 0], [], head_dim=16, dtype=HALF, device=DEVICE)
    out = paged_attention_triton(case.q, case.k_cache, case.v_cache, case.meta, case.scale, None, DECODE)
    assert out.isfinite().all()
    assert relative_error(out[1], attention_answer(case)[1]) < TOLERANCE[HALF]


@pytest.mark.parametrize("head_dim", [16, 128])
@pytest.mark.parametrize("specialized_from", [None, pytest.param(1, marks=needs_hopper)])
@pytest.mark.parametrize("batch", [([40, 3], [(18, 30), (2, 2)]), ([], [(18, 30)]), ([7, 5, 9], [(1, 4)])])
def test_a_captured_step_pads_rows_of_decodes_and_chunks_but_not_the_tokens_between(
    batch: tuple[list[int], list[tuple[int, int]]], specialized_from: int | None, head_dim: int
) -> None:
    workspace = make_workspace(8, 4, 2, head_dim, DEVICE, max_splits=8)
    case = attention_case(*batch, head_dim=head_dim, dtype=HALF, device=DEVICE, workspace=workspace)
    config = PrefillConfig(block_m=16, block_n=16, warps=4, stages=2, specialized_from=specialized_from)
    step = padded_as_captured(case, decodes=8, chunks=3, tokens=40)
    for attention in (paged_attention, partial(paged_attention_triton, decode=DECODE, prefill=config)):
        out = attention(step.q, step.k_cache, step.v_cache, step.meta, step.scale)
        assert relative_error(out[: len(case.q)], attention_answer(case)) < TOLERANCE[HALF]


@pytest.mark.parametrize("window", [None, 7])
def test_the_last_token_of_a_chunk_may_be_attended_as_a_decode(window: int | None) -> None:
    workspace = make_workspace(8, 4, 2, 16, DEVICE, max_splits=8)
    case = attention_case(
        [40, 3], [(18, 30), (2, 70)], head_dim=16, dtype=HALF, device=DEVICE, workspace=workspace
    )
    last = case.meta.query_start[1:].long() - 1
    starts = torch.arange(5, dtype=torch.int32, device=DEVICE)
    meta = replace(case.meta, query_start=starts, num_decodes=4, max_query_len=1, memo={})
    answer = attention_answer(case, window)[last]
    for attention in (paged_attention, partial(paged_attention_triton, decode=DECODE)):
        out = attention(case.q[last], case.k_cache, case.v_cache, meta, case.scale, window)
        assert relative_error(out, answer) < TOLERANCE[HALF]


def test_more_splits_for_fewer_programs_and_longer_rows() -> None:
    config = DecodeConfig(min_span=64, programs_per_sm=4)
    assert num_splits(8, 8192, 132, config, limit=32) == 32
    assert num_splits(8, 300, 132, config, limit=32) == 4
    assert num_splits(256, 8192, 132, config, limit=32) == 2
    assert num_splits(2048, 8192, 132, config, limit=32) == 1


def test_spans_that_end_with_a_tile_and_within_one_match_float64() -> None:
    # On one multiprocessor 16 programs mean 8 spans for each of the two: of 32, and of 16 with a last one of 8, tokens.
    config = DecodeConfig(block_n=16, min_span=16, programs_per_sm=16, warps=4, stages=2)
    workspace = make_workspace(2, 2, 1, 16, DEVICE, max_splits=16)
    workspace.log_sum.fill_(UNUSED)
    case = attention_case([256, 40], [], heads=(2, 1), head_dim=16, device=DEVICE, workspace=workspace)
    out = paged_attention_triton(case.q, case.k_cache, case.v_cache, case.meta, case.scale, None, config)
    assert relative_error(out, attention_answer(case)) < TOLERANCE[torch.float32]
    if DEVICE == "cpu":  # elsewhere there are more multiprocessors, and so spans
        assert [int((row != UNUSED).sum()) for row in workspace.log_sum[:, 0]] == [8, 3]


@pytest.mark.parametrize("block_size", [4, 32])
def test_prefill_tiles_by_descriptor_match_float64(block_size: int) -> None:
    config = PrefillConfig(block_m=16, block_n=16, warps=4, stages=2, tma=True, copy_from=16)
    case = attention_case(
        [9],
        [(20, 61), (1, 17), (33, 33)],
        heads=(4, 2),
        head_dim=16,
        block_size=block_size,
        dtype=HALF,
        device=DEVICE,
    )
    out = paged_attention_triton(
        case.q, case.k_cache, case.v_cache, case.meta, case.scale, None, DECODE, config
    )
    assert relative_error(out, attention_answer(case)) < TOLERANCE[HALF]


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("heads", "head_dim", "block_size"),
    [((8, 2), 128, 16), ((4, 1), 128, 64), ((4, 4), 128, 256), ((8, 2), 64, 8), ((4, 2), 256, 16)],
)
def test_specialized_prefill_matches_float64_and_reads_nothing_past_a_row(
    heads: tuple[int, int], head_dim: int, block_size: int, dtype: torch.dtype
) -> None:
    prefills = [
        (1, 1),
        (20, 61),
        (1, 17),
        (64, 64),
        (65, 65),
        (333, 333),
        (129, 1000),
        (128, 1024),
        (300, 901),
    ]
    case = attention_case(
        [9], prefills, heads=heads, head_dim=head_dim, block_size=block_size, dtype=dtype, device=DEVICE
    )
    config = PrefillConfig(block_m=16, block_n=16, warps=4, stages=2, specialized_from=1)
    assert hopper_launch.takes(case.q, case.k_cache, None)
    answer = attention_answer(case)
    written = torch.zeros(case.k_cache.shape[:2], dtype=torch.bool, device=DEVICE)
    for row, length in enumerate(case.meta.seq_lens.tolist()):
        for block in range(-(-length // block_size)):
            written[case.meta.block_tables[row, block], : length - block * block_size] = True
    for cache in (case.k_cache, case.v_cache):
        cache[~written] = float("nan")
    out = paged_attention_triton(
        case.q, case.k_cache, case.v_cache, case.meta, case.scale, None, DECODE, config
    )
    assert relative_error(out[1:], answer[1:]) < 5e-3


def test_what_the_specialized_kernel_does_not_know_runs_the_other_one() -> None:
    case = attention_case([], [(20, 61)], head_dim=24, dtype=HALF, device=DEVICE)
    assert not hopper_launch.takes(case.q, case.k_cache, None)
    config = PrefillConfig(block_m=16, block_n=16, warps=4, stages=2, specialized_from=1)
    out = paged_attention_triton(
        case.q, case.k_cache, case.v_cache, case.meta, case.scale, None, DECODE, config
    )
    assert relative_error(out, attention_answer(case)) < TOLERANCE[HALF]
