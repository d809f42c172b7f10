"""Drawing from rows with top-p, top-k or min-p out of a short list of tokens that can win, without a sort.

The token drawn is the highest noisy score (z plus Gumbel noise) among the kept ones, and nearly every token is too
unlikely to be it. Each kernel reads the row at most once, split over programs:

1. `bound_kernel` takes a row's group maxima, of which `partial_kernel` left one per few tokens, and bounds what can
   win. With top-k its k-th largest is at or below the k-th largest score. Without, exp of the maxima adds up to a part
   of the kept mass, and the best noisy score is below the log of a mass less `_MARGIN` once in 200,000 draws.
2. `gather_kernel` lists the tokens within the bound: with top-k all that may be kept, else those whose noise could
   lift them that high, told from their hash without a logarithm.
3. `contest_kernel` settles rows with top-k or only min-p. With top-p it lists contenders: the winner of all listed
   tokens, then of those with a higher score than it, and so on. The first that top-p keeps is the token drawn.
4. `measure_kernel` sums the mass above each contender, which says whether it is kept (`accepted`).

A row whose list overflows, whose winner is below the bound, or that keeps none of its contenders gives -1: it is
narrowed. The order of a list depends on timing, the result does not: mass within a list is summed in integers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling.noise import REACH
from kernels.sampling.noise_kernel import gumbel_of, row_key, uniform_noise

_REACH: tl.constexpr = tl.constexpr(REACH)
_MARGIN: tl.constexpr = tl.constexpr(2.5)
# A winner must clear the bound by this much, more than all rounding in the comparison of hashes.
_SLACK: tl.constexpr = tl.constexpr(1e-3)
_LEAST_INT: tl.constexpr = tl.constexpr(-(1 << 31))
_MOST_INT: tl.constexpr = tl.constexpr((1 << 31) - 1)
# Fixed point of the weights within a list.
_UNIT: tl.constexpr = tl.constexpr(float(1 << 40))


@triton.jit
def inverse_temperature(temperature):
    return 1.0 / tl.where(temperature > 0, temperature, 1.0)


@triton.jit
def kth_largest(values, k):
    """The k-th largest of `values` (float32), one bit of its order-preserving integer a step; NaN if there are fewer."""
    bits = values.to(tl.int32, bitcast=True)
    keys = bits ^ ((bits >> 31) & _MOST_INT)
    found = tl.where(tl.sum((keys >= 0).to(tl.int32), axis=0) >= k, 0, _LEAST_INT)
    for step in tl.range(0, 31):
        raised = found + (1 << (30 - step))
        found = tl.where(tl.sum((keys >= raised).to(tl.int32), axis=0) >= k, raised, found)
    return (found ^ ((found >> 31) & _MOST_INT)).to(tl.float32, bitcast=True)


@triton.jit
def bound_kernel(
    temperature_ptr,  # [R]
    top_p_ptr,  # [R]
    top_k_ptr,  # [R]
    min_p_ptr,  # [R]
    maxima_ptr,  # [R, groups]
    highest_z_ptr,  # [R] out, the highest tempered score, 0 in a row without any
    floor_ptr,  # [R] out, no token below can be drawn
    bound_ptr,  # [R] out, a noisy score that the draw hardly ever falls below; the floor lists all from there up
    count_ptr,  # [R] out, 0
    V,
    groups,
    BLOCK_GROUPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    top_p, top_k, min_p = tl.load(top_p_ptr + row), tl.load(top_k_ptr + row), tl.load(min_p_ptr + row)
    scale = inverse_temperature(tl.load(temperature_ptr + row))
    group = tl.arange(0, BLOCK_GROUPS)
    maxima = tl.load(maxima_ptr + row * groups + group, mask=group < groups, other=float("-inf")) * scale
    zmax = tl.max(maxima, axis=0)
    zmax = tl.where(zmax == float("-inf"), 0.0, zmax)
    floor = zmax - _REACH
    if min_p > 0:
        floor = tl.maximum(floor, zmax + tl.log(min_p))
    if (top_k > 0) & (top_k < V):
        if top_k <= groups:
            floor = tl.maximum(floor, kth_largest(maxima, top_k))
        bound = floor
    else:
        mass = tl.sum(tl.where(maxima >= floor, tl.exp(maxima - zmax), 0.0), axis=0)
        bound = zmax + tl.log(tl.maximum(mass * tl.minimum(top_p, 1.0), 1.0)) - _MARGIN
    tl.store(highest_z_ptr + row, zmax)
    tl.store(floor_ptr + row, floor)
    tl.store(bound_ptr + row, bound)
    tl.store(count_ptr + row, 0)


@triton.jit
def gather_kernel(
    scores_ptr,  # [R, V]
    temperature_ptr,  # [R]
    top_p_ptr,  # [R]
    top_k_ptr,  # [R]
    min_p_ptr,  # [R]
    seed_ptr,  # [R]
    token_index_ptr,  # [R]
    highest_ptr,  # [R, chunks]
    floor_ptr,  # [R]
    bound_ptr,  # [R]
    count_ptr,  # [R] in 0, out how many tokens are within the bound
    listed_z_ptr,  # [R, CAPACITY] out
    listed_id_ptr,  # [R, CAPACITY] out
    V,
    CHUNK: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperature_ptr + row)
    restricted = (
        (tl.load(top_p_ptr + row) < 1) | (tl.load(top_k_ptr + row) > 0) | (tl.load(min_p_ptr + row) > 0)
    )
    floor, bound = tl.load(floor_ptr + row), tl.load(bound_ptr + row)
    scale = inverse_temperature(temperature)
    highest = tl.load(highest_ptr + row * tl.num_programs(1) + chunk) * scale
    if (temperature > 0) & restricted & (highest >= floor):
        token = chunk * CHUNK + tl.arange(0, CHUNK)
        z = tl.load(scores_ptr + row * V + token, mask=token < V, other=float("-inf")).to(tl.float32) * scale
        key = row_key(tl.load(seed_ptr + row), tl.load(token_index_ptr + row))
        # With v the noise's uniform number, noise < -log(v): the noisy score reaches the bound only if v is below.
        can_win = (z >= floor) & (uniform_noise(token, key) <= tl.exp(z - bound))
        number = tl.sum(can_win.to(tl.int32), axis=0)
        if number > 0:
            first = tl.atomic_add(count_ptr + row, number, sem="relaxed")
            slot = first + tl.cumsum(can_win.to(tl.int32), axis=0) - 1
            place, fits = row * CAPACITY + slot, can_win & (slot < CAPACITY)
            tl.store(listed_z_ptr + place, z, mask=fits)
            tl.store(listed_id_ptr + place, token, mask=fits)


@triton.jit
def _weight(z, zmax):
    return (tl.exp(z - zmax) * _UNIT).to(tl.int64)


@triton.jit
def _kept_of_list(z, listed_z_ptr, count, zmax, top_k, top_p, CAPACITY: tl.constexpr, WIDTH: tl.constexpr):
    """Whether top-k and then top-p keep each of `count` listed scores, when all that top-k may keep are listed."""
    number_above = tl.zeros((CAPACITY,), tl.int32)
    mass_above = tl.zeros((CAPACITY,), tl.int64)
    for first in tl.range(0, count, WIDTH):
        slot = first + tl.arange(0, WIDTH)
        other = tl.load(listed_z_ptr + slot, mask=slot < count, other=float("-inf"))
        above = other[None, :] > z[:, None]
        number_above += tl.sum(above.to(tl.int32), axis=1)
        mass_above += tl.sum(tl.where(above, _weight(other, zmax)[None, :], 0), axis=1)
    kept = (tl.arange(0, CAPACITY) < count) & (number_above < top_k)
    mass = tl.sum(tl.where(kept, _weight(z, zmax), 0), axis=0)
    needed = tl.where(top_p < 1, top_p.to(tl.float64) * mass.to(tl.float64), float("inf"))
    return kept & ((mass_above.to(tl.float64) < needed) | (z >= zmax))


@triton.jit
def _winner(noisy, token):
    """The largest noisy score and its token, the lowest among equals."""
    best = tl.max(noisy, axis=0)
    return best, tl.min(tl.where(noisy == best, token, _MOST_INT), axis=0)


@triton.jit
def contest_kernel(
    temperature_ptr,  # [R]
    top_p_ptr,  # [R]
    top_k_ptr,  # [R]
    min_p_ptr,  # [R]
    seed_ptr,  # [R]
    token_index_ptr,  # [R]
    highest_z_ptr,  # [R]
    bound_ptr,  # [R]
    count_ptr,  # [R]
    listed_z_ptr,  # [R, CAPACITY]
    listed_id_ptr,  # [R, CAPACITY]
    winner_ptr,  # [R] out, the token drawn or -1, in rows that need no masses
    contender_z_ptr,  # [R, CONTENDERS] out from 1 on, ascending; inf where there is none within the bound
    contender_id_ptr,  # [R, CONTENDERS] out from 1 on; -1 where there is none
    V,
    CAPACITY: tl.constexpr,
    CONTENDERS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    top_p, top_k, min_p = tl.load(top_p_ptr + row), tl.load(top_k_ptr + row), tl.load(min_p_ptr + row)
    if (tl.load(temperature_ptr + row) > 0) & ((top_p < 1) | (top_k > 0) | (min_p > 0)):
        least = tl.load(bound_ptr + row) + _SLACK
        count = tl.load(count_ptr + row)
        count = tl.where(count <= CAPACITY, count, 0)
        slot = tl.arange(0, CAPACITY)
        place, inside = row * CAPACITY + slot, slot < count
        z = tl.load(listed_z_ptr + place, mask=inside, other=float("-inf"))
        token = tl.load(listed_id_ptr + place, mask=inside, other=0)
        key = row_key(tl.load(seed_ptr + row), tl.load(token_index_ptr + row))
        noisy = tl.where(inside, z + gumbel_of(uniform_noise(token, key)), float("-inf"))
        if (top_k > 0) & (top_k < V):
            zmax, row_z_ptr = tl.load(highest_z_ptr + row), listed_z_ptr + row * CAPACITY
            kept = _kept_of_list(z, row_z_ptr, count, zmax, top_k, top_p, CAPACITY, 8)
            best, winner = _winner(tl.where(kept, noisy, float("-inf")), token)
            tl.store(winner_ptr + row, tl.where(count > 0, winner, -1))
        elif top_p < 1:
            for contender in tl.static_range(1, CONTENDERS):
                best, winner = _winner(noisy, token)
                found = best >= least
                score = tl.max(tl.where((noisy == best) & (token == winner), z, float("-inf")), axis=0)
                score = tl.where(found, score, float("inf"))
                at = row * CONTENDERS + contender
                tl.store(contender_z_ptr + at, score)
                tl.store(contender_id_ptr + at, tl.where(found, winner, -1))
                noisy = tl.where(z > score, noisy, float("-inf"))
        else:
            best, winner = _winner(noisy, token)
            tl.store(winner_ptr + row, tl.where(best >= least, winner, -1))


@triton.jit
def measure_kernel(
    scores_ptr,  # [R, V]
    temperature_ptr,  # [R]
    top_p_ptr,  # [R]
    top_k_ptr,  # [R]
    highest_z_ptr,  # [R]
    floor_ptr,  # [R]
    contender_z_ptr,  # [R, CONTENDERS]
    mass_ptr,  # [R, chunks, CONTENDERS] out: the mass from the floor up, then that above each contender
    V,
    CHUNK: tl.constexpr,
    CONTENDERS: tl.constexpr,
):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature, top_k = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row)
    by_list = (top_k > 0) & (top_k < V)
    if (temperature > 0) & (tl.load(top_p_ptr + row) < 1) & (by_list == 0):
        token = chunk * CHUNK + tl.arange(0, CHUNK)
        score = tl.load(scores_ptr + row * V + token, mask=token < V, other=float("-inf")).to(tl.float32)
        z = score * inverse_temperature(temperature)
        weight = tl.exp(z - tl.load(highest_z_ptr + row))
        out = mass_ptr + (row * tl.num_programs(1) + chunk) * CONTENDERS
        tl.store(out, tl.sum(tl.where(z >= tl.load(floor_ptr + row), weight, 0.0), axis=0))
        for contender in tl.static_range(1, CONTENDERS):
            pivot = tl.load(contender_z_ptr + row * CONTENDERS + contender)
            tl.store(out + contender, tl.sum(tl.where(z > pivot, weight, 0.0), axis=0))


@triton.jit
def accepted(
    mass_ptr, contender_z_ptr, contender_id_ptr, zmax, top_p, chunks,
    BLOCK_CHUNKS: tl.constexpr, CONTENDERS: tl.constexpr,
):  # fmt: skip
    """The first contender of a row that top-p keeps, less than `top_p` of the mass being above it, or -1."""
    chunk, contender = tl.arange(0, BLOCK_CHUNKS), tl.arange(0, CONTENDERS)
    place = chunk[:, None] * CONTENDERS + contender[None, :]
    mass = tl.sum(tl.load(mass_ptr + place, mask=chunk[:, None] < chunks, other=0.0), axis=0)
    total = tl.sum(tl.where(contender == 0, mass, 0.0), axis=0)
    z = tl.load(contender_z_ptr + contender, mask=contender > 0, other=0.0)
    kept = (contender > 0) & ((mass < top_p * total) | (z >= zmax))
    first = tl.min(tl.where(kept, contender, CONTENDERS), axis=0)
    token = tl.load(contender_id_ptr + contender, mask=contender > 0, other=-1)
    return tl.max(tl.where(contender == first, token, -1), axis=0)
