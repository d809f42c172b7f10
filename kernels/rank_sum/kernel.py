"""Triton kernel of the sum over ranks with residual add and RMS normalisation: one launch, two meetings of the ranks.

NCCL moves the sum of a step's tokens round a ring and back, and a norm reads it again. Here each rank reads the others'
rows of its tokens where the products left them, keeps the residual stream of these tokens to itself, and writes the
normalised rows to everybody: each link carries what it must, once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.rank_sum import MAX_PROGRAMS, PeerMemory


@triton.jit
def meet(bases_ptr, rank, slot: tl.constexpr, RANKS: tl.constexpr):
    """Wait until the same program of every rank is here; then what it wrote before is visible to this one.

    Signals of one slot are told apart because a rank cannot be a whole meeting ahead: the other slot's lies between.
    """
    tl.debug_barrier()  # every thread's stores come before the signals, which release them
    program = tl.program_id(0)
    for ahead in tl.static_range(1, RANKS):
        other = (rank + ahead) % RANKS
        theirs = tl.load(bases_ptr + other).to(tl.pointer_type(tl.int32))
        tl.atomic_xchg(theirs + (program * 2 + slot) * RANKS + rank, 1, sem="release", scope="sys")
    for ahead in tl.static_range(1, RANKS):
        other = (rank + ahead) % RANKS
        mine = tl.load(bases_ptr + rank).to(tl.pointer_type(tl.int32))
        while (
            tl.atomic_cas(mine + (program * 2 + slot) * RANKS + other, 1, 0, sem="acquire", scope="sys") != 1
        ):
            pass
    tl.debug_barrier()


@triton.jit
def rank_sum_rms_norm_kernel(
    bases_ptr,  # [RANKS] int64: addresses of the ranks' buffers
    residual_ptr,  # [T, H]
    weight_ptr,  # [H]
    partial_bytes,  # where the partial results [T, H] begin in a buffer
    normalised_bytes,
    tokens,
    rank,
    eps,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    MEET: tl.constexpr,  # False in tests that run the ranks one after another
):
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    share = tl.cdiv(tokens, RANKS)
    first = rank * share
    if MEET:
        meet(bases_ptr, rank, 0, RANKS)
    element = residual_ptr.dtype
    for index in range(first + tl.program_id(0), tl.minimum(first + share, tokens), tl.num_programs(0)):
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
        for other in tl.static_range(RANKS):
            target = tl.multiple_of((tl.load(bases_ptr + other) + normalised_bytes).to(element), 16)
            tl.store(target + place, row, mask=inside)
    if MEET:
        meet(bases_ptr, rank, 1, RANKS)


def rank_sum_rms_norm_triton(
    memory: PeerMemory, residual: torch.Tensor, weight: torch.Tensor, eps: float, meet: bool = True
) -> torch.Tensor:
    """See `kernels.rank_sum.rank_sum_rms_norm`."""
    out = memory.normalised(residual)
    (tokens, width), ranks = residual.shape, len(memory.bases)
    # Programs wait for one another, so all must fit the GPU at once; equal numbers of them on all ranks.
    programs = min(triton.cdiv(tokens, ranks), MAX_PROGRAMS)
    block = triton.next_power_of_2(width)
    rank_sum_rms_norm_kernel[(programs,)](
        memory.bases, residual, weight, memory.signal_bytes, memory.signal_bytes + memory.capacity, tokens, memory.rank,
        eps, H=width, BLOCK=block, RANKS=ranks, MEET=meet, num_warps=min(max(block // 512, 1), 16),
    )  # fmt: skip
    return out
