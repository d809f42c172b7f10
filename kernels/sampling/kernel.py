"""Triton kernels of sampling. R rows, V tokens in the vocabulary; see the package for the semantics.

`process_kernel` (only with bias, masks or penalties) writes processed scores; `threshold_kernel` (only with top-k,
top-p or min-p) finds each row's lowest drawable score without sorting; `draw_kernel` finds the best noisy score of
each (row, chunk of the vocabulary) and `combine_kernel` the best of a row. Chunks have a fixed size, so that a
row's result does not depend on how many rows there are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.pdl import launch_downstream, wait_upstream


@triton.jit
def _mix64(x):
    """SplitMix64's finaliser, on uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _gumbel(ids, seed, index):
    """The noise of `kernels.sampling.noise` for a block of token ids; `seed` and `index` are int64 scalars."""
    key = _mix64(_mix64(seed.to(tl.uint64) + 0x9E3779B97F4A7C15) ^ index.to(tl.uint64))
    h = ids.to(tl.uint32) ^ key.to(tl.uint32)
    h ^= h >> 17
    h = (h * 0xED5AD4BB).to(tl.uint32)
    h = (h + (key >> 32).to(tl.uint32)).to(tl.uint32)
    h ^= h >> 11
    h = (h * 0xAC4C1B51).to(tl.uint32)
    h ^= h >> 15
    h = (h * 0x31848BAB).to(tl.uint32)
    h ^= h >> 14
    v = tl.minimum((h.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.999999940395355)
    series = v * (1.0 + v * (0.5 + v * (0.3333333333333333 + v * 0.25)))
    exponential = tl.where(v < 0.015625, series, -tl.log(1.0 - v))
    return -tl.log(exponential)


@triton.jit
def process_kernel(
    logits_ptr,  # [R, V] any float
    scores_ptr,  # [R, V] float32, out
    bias_start_ptr,  # [R + 1]
    bias_ids_ptr,
    bias_values_ptr,
    mask_ptr,  # [R, ceil(V / 32)] int32
    slot_ptr,  # [R]
    counts_ptr,  # [slots, V]
    prompt_ptr,  # [slots, V]
    presence_ptr,
    frequency_ptr,
    repetition_ptr,
    V,
    words,
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_PENALTY: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < V
    wait_upstream(PDL)
    launch_downstream(PDL)
    scores = tl.load(logits_ptr + row * V + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        for i in range(tl.load(bias_start_ptr + row), tl.load(bias_start_ptr + row + 1)):
            scores += tl.where(columns == tl.load(bias_ids_ptr + i), tl.load(bias_values_ptr + i), 0.0)
    if HAS_MASK:
        bits = tl.load(mask_ptr + row * words + columns // 32, mask=inside, other=0)
        scores = tl.where(((bits >> (columns % 32)) & 1) != 0, scores, float("-inf"))
    if HAS_PENALTY:
        slot = tl.load(slot_ptr + row).to(tl.int64)
        counts = tl.load(counts_ptr + slot * V + columns, mask=inside, other=0).to(tl.float32)
        prompt = tl.load(prompt_ptr + slot * V + columns, mask=inside, other=0)
        factor = tl.load(repetition_ptr + row)
        seen = (counts > 0) | (prompt != 0)
        scores = tl.where(seen, tl.where(scores > 0, scores / factor, scores * factor), scores)
        scores -= tl.load(frequency_ptr + row) * counts
        scores -= tl.where(counts > 0, tl.load(presence_ptr + row), 0.0)
    tl.store(scores_ptr + row * V + columns, scores, mask=inside)


@triton.jit
def _highest(scores_ptr, scale, V, BLOCK: tl.constexpr):
    """The row's highest tempered score."""
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        z = tl.load(scores_ptr + columns, mask=columns < V, other=float("-inf")).to(tl.float32) * scale
        best = tl.maximum(best, z)
    return tl.max(best, axis=0)


@triton.jit
def _weigh(scores_ptr, scale, V, highest, bound, counting, BLOCK: tl.constexpr):
    """Over tokens with z >= bound: their weight (1 or probability over the highest one's), and the lowest z.

    The third value is the highest z under the bound.
    """
    weight = tl.zeros((BLOCK,), tl.float32)
    above = tl.full((BLOCK,), float("inf"), tl.float32)
    below = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        z = tl.load(scores_ptr + columns, mask=columns < V, other=float("-inf")).to(tl.float32) * scale
        kept = z >= bound
        weight += tl.where(kept, tl.where(counting, 1.0, tl.exp(z - highest)), 0.0)
        above = tl.minimum(above, tl.where(kept, z, float("inf")))
        below = tl.maximum(below, tl.where(kept, float("-inf"), z))
    return tl.sum(weight, axis=0), tl.min(above, axis=0), tl.max(below, axis=0)


@triton.jit
def _search(scores_ptr, scale, V, highest, needed, counting, REACH: tl.constexpr, BLOCK: tl.constexpr):
    """The largest token score t such that tokens with z >= t weigh `needed`; -inf when that is out of REACH.

    Bisection on the score: the weight is a step function of the bound, so a bound that holds enough can be raised
    to the next token's score, and the search ends when no token lies between the two bounds.
    """
    low = highest - REACH
    weight, _, _ = _weigh(scores_ptr, scale, V, highest, low, counting, BLOCK)
    if weight < needed:
        low = float("-inf")
    else:
        high = highest + 1.0
        middle = 0.5 * (low + high)
        while (middle > low) & (middle < high):
            weight, above, below = _weigh(scores_ptr, scale, V, highest, middle, counting, BLOCK)
            if weight >= needed:
                low = above
            elif below <= low:
                high = low
            else:
                high = middle
            middle = 0.5 * (low + high)
    return low


@triton.jit
def threshold_kernel(
    scores_ptr,  # [R, V]
    temperature_ptr,
    top_p_ptr,
    top_k_ptr,
    min_p_ptr,
    floor_ptr,  # [R] float32, out: the lowest tempered score that may be drawn
    V,
    REACH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    wait_upstream(PDL)
    launch_downstream(PDL)
    temperature = tl.load(temperature_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    min_p = tl.load(min_p_ptr + row)
    floor = float("-inf")
    if (temperature > 0) & ((top_p < 1) | (top_k > 0) | (min_p > 0)):
        scale = 1.0 / temperature
        row_ptr = scores_ptr + row * V
        highest = _highest(row_ptr, scale, V, BLOCK)
        if min_p > 0:
            floor = highest + tl.log(min_p)
        if (top_k > 0) & (top_k < V):
            kth = _search(row_ptr, scale, V, highest, top_k.to(tl.float32), True, REACH, BLOCK)
            floor = tl.maximum(floor, kth)
        if top_p < 1:
            mass, _, _ = _weigh(row_ptr, scale, V, highest, floor, False, BLOCK)
            # At least the likeliest token: a top_p of 0 must not ask for nothing.
            needed = tl.maximum(top_p * mass, 1e-30)
            floor = tl.maximum(floor, _search(row_ptr, scale, V, highest, needed, False, REACH, BLOCK))
    tl.store(floor_ptr + row, floor)


@triton.jit
def draw_kernel(
    scores_ptr,  # [R, V], processed
    raw_ptr,  # [R, V], the model's logits
    temperature_ptr,
    seed_ptr,
    index_ptr,
    floor_ptr,  # [R] or unused
    best_ptr,  # [R, chunks] float32, out
    best_id_ptr,  # [R, chunks] int32, out
    peak_ptr,  # [R, chunks] float32, out: highest raw logit
    mass_ptr,  # [R, chunks] float32, out: sum of exp(raw - peak)
    V,
    chunks,
    ALL_GREEDY: tl.constexpr,
    HAS_FLOOR: tl.constexpr,
    LOGPROBS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    columns = chunk * BLOCK + tl.arange(0, BLOCK)
    inside = columns < V
    wait_upstream(PDL)
    launch_downstream(PDL)
    score = tl.load(scores_ptr + row * V + columns, mask=inside, other=float("-inf")).to(tl.float32)
    if not ALL_GREEDY:
        temperature = tl.load(temperature_ptr + row)
        if temperature > 0:
            score = score * (1.0 / temperature)
            if HAS_FLOOR:
                score = tl.where(score >= tl.load(floor_ptr + row), score, float("-inf"))
            score += _gumbel(columns, tl.load(seed_ptr + row), tl.load(index_ptr + row))
    score = tl.where(score == score, score, float("-inf"))  # NaN never wins
    best = tl.max(score, axis=0)
    best_id = tl.min(tl.where((score == best) & inside, columns, V - 1), axis=0)
    at = row * chunks + chunk
    tl.store(best_ptr + at, best)
    tl.store(best_id_ptr + at, best_id)
    if LOGPROBS:
        raw = tl.load(raw_ptr + row * V + columns, mask=inside, other=float("-inf")).to(tl.float32)
        peak = tl.max(raw, axis=0)
        tl.store(peak_ptr + at, peak)
        tl.store(mass_ptr + at, tl.sum(tl.exp(raw - peak), axis=0))


@triton.jit
def combine_kernel(
    best_ptr,  # [R, chunks]
    best_id_ptr,
    peak_ptr,
    mass_ptr,
    raw_ptr,  # [R, V]
    ids_ptr,  # [R] int64, out
    logprob_ptr,  # [R] float32, out
    log_mass_ptr,  # [R] float32, out: log of the sum of exp(raw)
    V,
    chunks,
    LOGPROBS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < chunks
    at = row * chunks + columns
    wait_upstream(PDL)
    launch_downstream(PDL)
    score = tl.load(best_ptr + at, mask=inside, other=float("-inf"))
    best = tl.max(score, axis=0)
    ids = tl.load(best_id_ptr + at, mask=inside, other=2147483647)
    chosen = tl.min(tl.where((score == best) & inside, ids, 2147483647), axis=0)
    tl.store(ids_ptr + row, chosen.to(tl.int64))
    if LOGPROBS:
        peaks = tl.load(peak_ptr + at, mask=inside, other=float("-inf"))
        masses = tl.load(mass_ptr + at, mask=inside, other=0.0)
        peak = tl.max(peaks, axis=0)
        log_mass = peak + tl.log(tl.sum(masses * tl.exp(peaks - peak), axis=0))
        tl.store(log_mass_ptr + row, log_mass)
        tl.store(logprob_ptr + row, tl.load(raw_ptr + row * V + chosen).to(tl.float32) - log_mass)
