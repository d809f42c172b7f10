"""Triton kernel of the sum over ranks with residual add and RMS normalisation: one launch for what takes NCCL two.

Many tokens: each rank reads the others' rows of its share of the tokens where the products left them, keeps the residual
stream of these tokens to itself, and writes the normalised rows to everybody: each link carries what it must, once.
Few tokens, where it is the ranks' meetings that take the time: each rank reads the others' rows of all tokens, and the
meeting after it is that of the next call, which works on the other one of two areas.

That no order of the ranks' doings goes wrong is tried in `tests/kernels/meeting_model.py`, which follows this file line
by line: who changes one changes the other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.pdl import launch_downstream, launch_options, wait_upstream
from kernels.rank_sum import PeerMemory


@triton.jit
def signals_of(bases_ptr, rank, RANKS: tl.constexpr):
    """Where this program signals to each rank, and where the ranks signal to it, at meeting slot 0: [RANKS] each."""
    ranks = tl.arange(0, RANKS)
    place = tl.program_id(0) * (2 * RANKS)
    theirs = tl.load(bases_ptr + ranks).to(tl.pointer_type(tl.int32)) + place + rank
    mine = tl.load(bases_ptr + rank).to(tl.pointer_type(tl.int32)) + place + ranks
    return theirs, mine


@triton.jit
def meet(theirs, mine, slot, RANKS: tl.constexpr):
    """Wait until the same program of every rank is here; then what it wrote before is visible to this one.

    Meetings use slots 0 and 1 in turn: a rank may be at the next one while another still leaves the last.
    """
    tl.debug_barrier()  # every thread's stores come before the signals, which release them
    tl.atomic_xchg(theirs + slot * RANKS, tl.full([RANKS], 1, tl.int32), sem="release", scope="sys")
    here = tl.full([RANKS], 1, tl.int32)
    gone = tl.zeros([RANKS], tl.int32)
    seen = gone
    while tl.sum(seen) < RANKS:
        seen += tl.atomic_cas(mine + slot * RANKS, here, gone, sem="acquire", scope="sys")
    tl.debug_barrier()


@triton.jit
def pointers(bases_ptr, offset, element: tl.constexpr, begin, RANKS: tl.constexpr):
    """Where `offset` bytes into each rank's buffer are: a tuple that begins with rank `begin`'s."""
    found = ()
    for after in tl.static_range(RANKS):
        base = tl.load(bases_ptr + (begin + after) % RANKS)
        found += (tl.multiple_of((base + offset).to(element), 16),)  # type: ignore[assignment]
    return found


@triton.jit
def rows_of(partials, place, mask, RANKS: tl.constexpr):
    """The ranks' rows at `place`, in the order of `partials`; none is waited for."""
    rows = ()
    for rank in tl.static_range(RANKS):
        rows += (tl.load(partials[rank] + place, mask=mask, other=0.0),)  # type: ignore[assignment]
    return rows


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
    AHEAD: tl.constexpr,  # ask for the next row before this one is written
    MEET: tl.constexpr,  # False in tests that run the ranks one after another
    PDL: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    element: tl.constexpr = residual_ptr.dtype
    # All addresses are known before the meeting, whose end throws what L1 holds of them away.
    partials = pointers(bases_ptr, partial_bytes, element, 0, RANKS)
    targets = pointers(bases_ptr, normalised_bytes, element, rank + 1, RANKS)
    theirs, mine = signals_of(bases_ptr, rank, RANKS)
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
        meet(theirs, mine, 0 if SHARED_OUT else area, RANKS)
    first += tl.program_id(0)
    if AHEAD:
        place = first * H + columns
        mask = inside & (place < last * H)
        kept = tl.load(residual_ptr + place, mask=mask, other=0.0)
        rows = rows_of(partials, place, mask, RANKS)
    for index in range(first, last, tl.num_programs(0)):
        place = index * H + columns
        if not AHEAD:
            kept = tl.load(residual_ptr + place, mask=inside, other=0.0)
            rows = rows_of(partials, place, inside, RANKS)
        total = kept.to(tl.float32)
        for other in tl.static_range(RANKS):
            total += rows[other].to(tl.float32)
        if AHEAD:
            following = place + tl.num_programs(0) * H
            mask = inside & (following < last * H)
            kept = tl.load(residual_ptr + following, mask=mask, other=0.0)
            rows = rows_of(partials, following, mask, RANKS)
        stored = total.to(element.element_ty)
        tl.store(residual_ptr + place, stored, mask=inside)
        wide = stored.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / H + eps)
        normalised = (wide * scale).to(element.element_ty).to(tl.float32)
        row = (normalised * weight).to(element.element_ty)
        for target in tl.static_range(0 if SHARED_OUT else RANKS - 1, RANKS):  # its own comes last
            tl.store(targets[target] + place, row, mask=inside)
    if MEET and SHARED_OUT:
        meet(theirs, mine, 1, RANKS)


def fits_ahead(ranks: int, block: int) -> bool:
    """Whether a row's loads fit into registers beside the row before: of more they are spilled (compiled for sm_90)."""
    return ranks <= 4 and block <= 8192


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
        H=width, BLOCK=block, RANKS=ranks, SHARED_OUT=shared_out, AHEAD=shared_out and fits_ahead(ranks, block),
        MEET=meet, num_warps=min(max(warps, 1), 16), **launch_options(residual.device),
    )  # fmt: skip
    return out
