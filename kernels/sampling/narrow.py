"""Drawing from a restricted row by narrowing an interval of scores; one program reads the row again and again."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling.noise import REACH
from kernels.sampling.noise_kernel import gumbel_noise

_REACH: tl.constexpr = tl.constexpr(REACH)
# Narrowing always ends long before this; the limit is for rows with infinities, whose interval cannot shrink.
_MAX_PASSES: tl.constexpr = tl.constexpr(64)


@triton.jit
def _narrow_pass(
    row_ptr, highest_ptr, V, chunks, scale, zmax, low, high, pivot_1, pivot_2, pivot_3,
    MASS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Measure (count or mass) of the scores at or above low and each pivot, and the least and greatest in low..high."""
    at_low = tl.zeros((CHUNK,), tl.float32)
    at_1 = tl.zeros((CHUNK,), tl.float32)
    at_2 = tl.zeros((CHUNK,), tl.float32)
    at_3 = tl.zeros((CHUNK,), tl.float32)
    least = tl.full((CHUNK,), float("inf"), tl.float32)
    greatest = tl.full((CHUNK,), float("-inf"), tl.float32)
    for chunk in tl.range(0, chunks):
        if tl.load(highest_ptr + chunk) * scale >= low:
            token = chunk * CHUNK + tl.arange(0, CHUNK)
            z = tl.load(row_ptr + token, mask=token < V, other=float("-inf")).to(tl.float32) * scale
            weight = tl.exp(z - zmax) if MASS else tl.full((CHUNK,), 1.0, tl.float32)
            at_low += tl.where(z >= low, weight, 0.0)
            at_1 += tl.where(z >= pivot_1, weight, 0.0)
            at_2 += tl.where(z >= pivot_2, weight, 0.0)
            at_3 += tl.where(z >= pivot_3, weight, 0.0)
            in_range = (z >= low) & (z < high)
            least = tl.minimum(least, tl.where(in_range, z, float("inf")))
            greatest = tl.maximum(greatest, tl.where(in_range, z, float("-inf")))
    return (
        tl.sum(at_low, axis=0), tl.sum(at_1, axis=0), tl.sum(at_2, axis=0), tl.sum(at_3, axis=0),
        tl.min(least, axis=0), tl.max(greatest, axis=0),
    )  # fmt: skip


@triton.jit
def find_threshold(
    row_ptr, highest_ptr, V, chunks, scale, zmax, floor, goal, MASS: tl.constexpr, CHUNK: tl.constexpr
):
    """The largest score t >= floor whose {z >= t} holds `goal` tokens, or with MASS `goal` of the mass above floor.

    Invariant: the answer lies in low <= t < high. Returns floor where the tokens above it are fewer than the goal.
    """
    low, high, top = floor, float("inf"), zmax
    needed = goal
    passes = 0
    while passes < _MAX_PASSES:
        step = (top - low) * 0.25
        pivot_1, pivot_2, pivot_3 = low + step, low + 2.0 * step, low + 3.0 * step
        at_low, at_1, at_2, at_3, least, greatest = _narrow_pass(
            row_ptr, highest_ptr, V, chunks, scale, zmax, low, high, pivot_1, pivot_2, pivot_3, MASS, CHUNK
        )
        if passes == 0:
            if MASS:
                needed = goal * at_low
            elif at_low < needed:
                greatest = least
        passes += 1
        low = tl.maximum(low, least)
        top = tl.minimum(top, greatest)
        if least >= greatest:
            passes = _MAX_PASSES
        elif at_3 >= needed:
            low = tl.maximum(low, pivot_3)
        elif at_2 >= needed:
            low = tl.maximum(low, pivot_2)
            high = pivot_3
        elif at_1 >= needed:
            low = tl.maximum(low, pivot_1)
            high = pivot_2
        else:
            high = pivot_1
        top = tl.minimum(top, high)
    return low


@triton.jit
def _draw_above(row_ptr, highest_ptr, V, chunks, scale, floor, key, CHUNK: tl.constexpr):
    """The token with the largest noisy score among z >= floor; the lowest id among equals."""
    best = tl.full((CHUNK,), float("-inf"), tl.float32)
    best_chunk = tl.zeros((CHUNK,), tl.int32)
    for chunk in tl.range(0, chunks):
        if tl.load(highest_ptr + chunk) * scale >= floor:
            token = chunk * CHUNK + tl.arange(0, CHUNK)
            z = tl.load(row_ptr + token, mask=token < V, other=float("-inf")).to(tl.float32) * scale
            noisy = tl.where(z >= floor, z + gumbel_noise(token, key), float("-inf"))
            better = noisy > best
            best_chunk = tl.where(better, chunk, best_chunk)
            best = tl.where(better, noisy, best)
    winner = tl.max(best, axis=0)
    token = best_chunk * CHUNK + tl.arange(0, CHUNK)
    return tl.min(tl.where(best == winner, token, V - 1), axis=0)


@triton.jit
def draw_narrowed(
    row_ptr, highest_ptr, V, chunks, scale, zmax, top_p, top_k, min_p, key, CHUNK: tl.constexpr
):
    """The token of a row [V] under its restrictions, `highest_ptr` being its chunks' maxima and zmax theirs times scale."""
    # Noise cannot lift a token from below zmax - REACH to the top, and all of them together weigh < 1e-6.
    floor = zmax - _REACH
    if min_p > 0:
        floor = tl.maximum(floor, zmax + tl.log(min_p))
    if (top_k > 0) & (top_k < V):
        floor = find_threshold(
            row_ptr, highest_ptr, V, chunks, scale, zmax, floor, top_k.to(tl.float32), False, CHUNK
        )
    if top_p < 1:
        floor = find_threshold(row_ptr, highest_ptr, V, chunks, scale, zmax, floor, top_p, True, CHUNK)
    return _draw_above(row_ptr, highest_ptr, V, chunks, scale, floor, key, CHUNK)
