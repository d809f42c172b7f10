"""`kernels/rank_sum/kernel.py` as it was at a907ac6: what `bench.all_reduce` measures new forms against."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.pdl import launch_downstream, launch_options, wait_upstream
from kernels.rank_sum import PeerMemory


@triton.jit
def meet(bases_ptr, rank, slot, RANKS: tl.constexpr):
    """Wait until the same program of every rank is here; then what it wrote before is visible to this one.

    Meetings use slots 0 and 1 in turn: a rank may be at the next one while another still leaves the last.
    """
    tl.debug_barrier()  # every thread's stores come before the signals, which release them
    ranks = tl.arange(0, RANKS)
    signals = (tl.program_id(0) * 2 + slot) * RANKS
    theirs = tl.load(bases_ptr + ranks).to(tl.pointer_type(tl.int32)) + signals + rank
    tl.atomic_xchg(theirs, tl.full([RANKS], 1, tl.int32), sem="release", scope="sys")
    mine = tl.load(bases_ptr + rank).to(tl.pointer_type(tl.int32)) + signals + ranks
    here = tl.full([RANKS], 1, tl.int32)
    gone = tl.zeros([RANKS], tl.int32)
    seen = gone
    while tl.sum(seen) < RANKS:
        seen += tl.atomic_cas(mine, here, gone, sem="acquire", scope="sys")
    tl.debug_barrier()


# What changes from step to step must not be compiled in: a compile in service stalls every stream, on all ranks.
@triton.jit(do_not_specialize=["tokens", "rank", "area"])
def rank_sum_rms_norm_kernel(
    bases_ptr,  # [RANKS] int64: addresses of the ranks' buffers
    residual_ptr,  # [T, H]
    weight_ptr,  # [H]
    partial_bytes,  # where the partial results [T, H] begin in a buffer
    normalised_bytes,
    tokens,
    rank,
    area,
    eps,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    SHARED_OUT: tl.constexpr,  # the tokens among the ranks
    MEET: tl.constexpr,  # False in tests that run the ranks one after another
    PDL: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    element = residual_ptr.dtype
    if SHARED_OUT:
        share = tl.cdiv(tokens, RANKS)
        first = rank * share
        last = tl.minimum(first + share, tokens)
    else:
        first, last = 0, tokens
    wait_upstream(PDL)
    # Programs of the next kernel find room only beside all of this one's: none of these keeps another rank waiting.
    launch_downstream(PDL)
    if MEET:
        meet(bases_ptr, rank, 0 if SHARED_OUT else area, RANKS)
    for index in range(first + tl.program_id(0), last, tl.num_programs(0)):
        place = index * H + columns
        total = tl.load(residual_ptr + place, mask=inside, other=0.0).to(tl.float32)
        for other in tl.static_range(RANKS):
            partial = tl.multiple_of((tl.load(bases_ptr + other) + partial_bytes).to(element), 16)
            total += tl.load(partial + place, mask=inside, other=0.0).to(tl.float32)
        stored = total.to(element.element_ty)
        tl.store(residual_ptr + place, stored, mask=inside)
        wide = stored.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / H + eps)
        normalised = (wide * scale).to(element.element_ty).to(tl.float32)
        row = (normalised * weight).to(element.element_ty)
        for ahead in tl.static_range(RANKS if SHARED_OUT else 1):
            target = (tl.load(bases_ptr + (rank + ahead) % RANKS) + normalised_bytes).to(element)
            tl.store(tl.multiple_of(target, 16) + place, row, mask=inside)
    if MEET and SHARED_OUT:
        meet(bases_ptr, rank, 1, RANKS)


def rank_sum_rms_norm_triton(
    memory: PeerMemory,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    area: int,
    shared_out: bool,
    meet: bool = True,
) -> torch.Tensor:
    """See `kernels.rank_sum.rank_sum_rms_norm`."""
    out = memory.normalised(residual)
    (tokens, width), ranks = residual.shape, memory.ranks
    programs = memory.programs(tokens, shared_out)
    block = triton.next_power_of_2(width)
    warps = block // (512 if tokens == 1 else 1024)  # measured on four H200: one row is a matter of latency
    rank_sum_rms_norm_kernel[(programs,)](
        memory.bases, residual, weight, memory.partial_at(area), memory.normalised_at, tokens, memory.rank, area, eps,
        H=width, BLOCK=block, RANKS=ranks, SHARED_OUT=shared_out, MEET=meet,
        num_warps=min(max(warps, 1), 16), **launch_options(residual.device),
    )  # fmt: skip
    return out
