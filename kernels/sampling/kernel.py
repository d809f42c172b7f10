"""Triton kernels of sampling without a sort.

`process_kernel` applies masks and penalties, when a batch has any. `partial_kernel` splits each row over programs and
leaves one maximum and one best noisy score per chunk. `finish_kernel` takes a row: without top-p, top-k or min-p it
joins the chunks; with them it finds the lowest score that may be drawn by narrowing an interval of scores, three
pivots a pass, and draws among what is left. Passes skip chunks whose maximum is below the interval, so in the peaked
distributions of real models only the first pass reads the row.

Chunks have one size whatever the number of rows: a row's result never depends on the batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling.noise import GOLDEN, REACH, SPLITMIX, TRIPLE32

_GOLDEN: tl.constexpr = tl.constexpr(GOLDEN)
_SPLITMIX_0: tl.constexpr = tl.constexpr(SPLITMIX[0])
_SPLITMIX_1: tl.constexpr = tl.constexpr(SPLITMIX[1])
_TRIPLE32_0: tl.constexpr = tl.constexpr(TRIPLE32[0])
_TRIPLE32_1: tl.constexpr = tl.constexpr(TRIPLE32[1])
_TRIPLE32_2: tl.constexpr = tl.constexpr(TRIPLE32[2])
_REACH: tl.constexpr = tl.constexpr(REACH)
# Narrowing always ends long before this; the limit is for rows with infinities, whose interval cannot shrink.
_MAX_PASSES: tl.constexpr = tl.constexpr(64)


@triton.jit
def _mix64(x):
    x = (x ^ (x >> 30)) * _SPLITMIX_0
    x = (x ^ (x >> 27)) * _SPLITMIX_1
    return x ^ (x >> 31)


@triton.jit
def row_key(seed, token_index):
    """64-bit key of a row; see `kernels.sampling.noise`."""
    return _mix64(_mix64(seed.to(tl.uint64) + _GOLDEN) ^ token_index.to(tl.uint64))


@triton.jit
def gumbel_noise(ids, key):
    """Gumbel noise for token `ids` under a row's `key`; the integers are those of `kernels.sampling.noise`."""
    h = ids.to(tl.uint32) ^ key.to(tl.uint32)
    h ^= h >> 17
    h *= _TRIPLE32_0
    h += (key >> 32).to(tl.uint32)
    h ^= h >> 11
    h *= _TRIPLE32_1
    h ^= h >> 15
    h *= _TRIPLE32_2
    h ^= h >> 14
    v = tl.minimum((h.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    series = v * (1.0 + v * (0.5 + v * (0.3333333333333333 + v * 0.25)))
    return -tl.log(tl.where(v < 0.015625, series, -tl.log(1.0 - v)))


@triton.jit
def bias_kernel(
    scores_ptr,  # [R, V] float32, changed in place
    start_ptr,  # [R + 1]
    ids_ptr,  # [n]
    values_ptr,  # [n]
    V,
    BLOCK: tl.constexpr,
):
    """Add each row's logit bias."""
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(start_ptr + row + 1)
    for first in tl.range(tl.load(start_ptr + row), end, BLOCK):
        entry = first + tl.arange(0, BLOCK)
        inside = entry < end
        token = tl.load(ids_ptr + entry, mask=inside, other=0)
        value = tl.load(values_ptr + entry, mask=inside, other=0.0)
        place = scores_ptr + row * V + token
        tl.store(place, tl.load(place, mask=inside, other=0.0) + value, mask=inside)


@triton.jit
def process_kernel(
    source_ptr,  # [R, V], the logits or, after a bias, the scores
    scores_ptr,  # [R, V] float32
    mask_ptr,  # [R, ceil(V / 32)] or unused
    counts_ptr,  # [slots, V] or unused
    prompt_ptr,  # [slots, V] or unused
    slot_ptr,  # [R]
    presence_ptr,  # [R]
    frequency_ptr,  # [R]
    repetition_ptr,  # [R]
    V,
    mask_stride,
    CHUNK: tl.constexpr,
    MASKED: tl.constexpr,
    PENALTIES: tl.constexpr,
):
    """Apply allowed tokens and penalties."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    inside = token < V
    score = tl.load(source_ptr + row * V + token, mask=inside, other=float("-inf")).to(tl.float32)
    if MASKED:
        word = tl.load(mask_ptr + row * mask_stride + token // 32, mask=inside, other=0)
        score = tl.where(((word >> (token % 32)) & 1) != 0, score, float("-inf"))
    if PENALTIES:
        slot = tl.load(slot_ptr + row).to(tl.int64)
        count = tl.load(counts_ptr + slot * V + token, mask=inside, other=0).to(tl.float32)
        in_prompt = tl.load(prompt_ptr + slot * V + token, mask=inside, other=0) != 0
        repetition = tl.load(repetition_ptr + row)
        repeated = tl.where(score > 0, score / repetition, score * repetition)
        score = tl.where((count > 0) | in_prompt, repeated, score)
        score -= tl.load(frequency_ptr + row) * count
        score -= tl.load(presence_ptr + row) * tl.where(count > 0, 1.0, 0.0)
    tl.store(scores_ptr + row * V + token, score, mask=inside)


@triton.jit
def _inverse_temperature(temperature):
    return 1.0 / tl.where(temperature > 0, temperature, 1.0)


@triton.jit
def partial_kernel(
    logits_ptr,  # [R, V], raw
    scores_ptr,  # [R, V], what is drawn from: the logits, or the processed scores
    temperature_ptr,  # [R]
    top_p_ptr,  # [R]
    top_k_ptr,  # [R]
    min_p_ptr,  # [R]
    seed_ptr,  # [R]
    token_index_ptr,  # [R]
    highest_ptr,  # [R, chunks] largest score of each chunk
    best_ptr,  # [R, chunks] largest noisy score of each chunk
    best_id_ptr,  # [R, chunks] its token
    raw_highest_ptr,  # [R, chunks] largest raw logit of each chunk
    raw_sum_ptr,  # [R, chunks] sum of exp(logit - largest)
    V,
    CHUNK: tl.constexpr,
    TOP_P_K: tl.constexpr,
    GREEDY: tl.constexpr,
    PROCESSED: tl.constexpr,
    LOGPROBS: tl.constexpr,
):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = row * tl.num_programs(1) + chunk
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = token < V
    score = tl.load(scores_ptr + row * V + token, mask=inside, other=float("-inf")).to(tl.float32)
    score = tl.where(score == score, score, float("-inf"))  # NaN must not reach the comparisons
    if LOGPROBS:
        raw = score
        if PROCESSED:
            raw = tl.load(logits_ptr + row * V + token, mask=inside, other=float("-inf")).to(tl.float32)
        raw_highest = tl.max(raw, axis=0)
        base = tl.where(raw_highest == float("-inf"), 0.0, raw_highest)
        tl.store(raw_highest_ptr + place, raw_highest)
        tl.store(raw_sum_ptr + place, tl.sum(tl.exp(raw - base), axis=0))
    draws = False
    if not GREEDY:
        temperature = tl.load(temperature_ptr + row)
        draws = temperature > 0
        if TOP_P_K:
            restricted = (
                (tl.load(top_p_ptr + row) < 1)
                | (tl.load(top_k_ptr + row) > 0)
                | (tl.load(min_p_ptr + row) > 0)
            )
            tl.store(highest_ptr + place, tl.max(score, axis=0))
            draws = draws & (restricted == 0)
        if draws:
            key = row_key(tl.load(seed_ptr + row), tl.load(token_index_ptr + row))
            score = score * _inverse_temperature(temperature) + gumbel_noise(token, key)
            score = tl.where(inside, score, float("-inf"))
    best, best_at = tl.max(score, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(best_ptr + place, best)
    tl.store(best_id_ptr + place, chunk * CHUNK + best_at)


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
def finish_kernel(
    logits_ptr,  # [R, V], raw
    scores_ptr,  # [R, V]
    temperature_ptr,  # [R]
    top_p_ptr,  # [R]
    top_k_ptr,  # [R]
    min_p_ptr,  # [R]
    seed_ptr,  # [R]
    token_index_ptr,  # [R]
    highest_ptr,  # [R, chunks]
    best_ptr,  # [R, chunks]
    best_id_ptr,  # [R, chunks]
    raw_highest_ptr,  # [R, chunks]
    raw_sum_ptr,  # [R, chunks]
    ids_ptr,  # [R] int64, out
    logprobs_ptr,  # [R] float32, out
    V,
    chunks,
    CHUNK: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    TOP_P_K: tl.constexpr,
    LOGPROBS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK_CHUNKS)
    place = row * chunks + chunk
    best = tl.load(best_ptr + place, mask=chunk < chunks, other=float("-inf"))
    best_id = tl.load(best_id_ptr + place, mask=chunk < chunks, other=0)
    drawn = tl.min(tl.where(best == tl.max(best, axis=0), best_id, V - 1), axis=0)
    if TOP_P_K:
        temperature = tl.load(temperature_ptr + row)
        top_p, top_k, min_p = tl.load(top_p_ptr + row), tl.load(top_k_ptr + row), tl.load(min_p_ptr + row)
        restricted = (top_p < 1) | (top_k > 0) | (min_p > 0)
        highest = tl.max(tl.load(highest_ptr + place, mask=chunk < chunks, other=float("-inf")), axis=0)
        if (temperature > 0) & restricted & (highest > float("-inf")):
            scale = _inverse_temperature(temperature)
            zmax = highest * scale
            row_ptr, row_highest = scores_ptr + row * V, highest_ptr + row * chunks
            # Noise cannot lift a token from below zmax - REACH to the top, and all of them together weigh < 1e-6.
            floor = zmax - _REACH
            if min_p > 0:
                floor = tl.maximum(floor, zmax + tl.log(min_p))
            if (top_k > 0) & (top_k < V):
                floor = find_threshold(
                    row_ptr, row_highest, V, chunks, scale, zmax, floor, top_k.to(tl.float32), False, CHUNK
                )
            if top_p < 1:
                floor = find_threshold(
                    row_ptr, row_highest, V, chunks, scale, zmax, floor, top_p, True, CHUNK
                )
            key = row_key(tl.load(seed_ptr + row), tl.load(token_index_ptr + row))
            drawn = _draw_above(row_ptr, row_highest, V, chunks, scale, floor, key, CHUNK)
    drawn = tl.minimum(drawn, V - 1)
    tl.store(ids_ptr + row, drawn.to(tl.int64))
    if LOGPROBS:
        raw_highest = tl.load(raw_highest_ptr + place, mask=chunk < chunks, other=float("-inf"))
        raw_sum = tl.load(raw_sum_ptr + place, mask=chunk < chunks, other=0.0)
        base = tl.max(raw_highest, axis=0)
        log_sum = base + tl.log(tl.sum(raw_sum * tl.exp(raw_highest - base), axis=0))
        tl.store(logprobs_ptr + row, tl.load(logits_ptr + row * V + drawn).to(tl.float32) - log_sum)
