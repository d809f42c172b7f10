"""Triton kernels of sampling without a sort.

`partial_kernel` splits each row over programs and leaves one maximum and one best noisy score per chunk.
`finish_kernel` takes a row: without top-p, top-k or min-p it joins the chunks; with them it takes the token that the
kernels of `candidates` found, or narrows the row (`narrow`) where they found none.

Chunks have one size whatever the number of rows: a row's result never depends on the batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling.candidates import accepted, inverse_temperature
from kernels.sampling.narrow import draw_narrowed
from kernels.sampling.noise_kernel import gumbel_noise, row_key


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
    maxima_ptr,  # [R, chunks * CHUNK / GROUP] largest score of each group of neighbours
    best_ptr,  # [R, chunks] largest noisy score of each chunk
    best_id_ptr,  # [R, chunks] its token
    raw_highest_ptr,  # [R, chunks] largest raw logit of each chunk
    raw_sum_ptr,  # [R, chunks] sum of exp(logit - largest)
    V,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
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
            maxima = tl.max(tl.reshape(score, (CHUNK // GROUP, GROUP)), axis=1)
            group = place * (CHUNK // GROUP) + tl.arange(0, CHUNK // GROUP)
            tl.store(maxima_ptr + group, maxima)
            tl.store(highest_ptr + place, tl.max(maxima, axis=0))
            draws = draws & (restricted == 0)
        if draws:
            key = row_key(tl.load(seed_ptr + row), tl.load(token_index_ptr + row))
            score = score * inverse_temperature(temperature) + gumbel_noise(token, key)
            score = tl.where(inside, score, float("-inf"))
    best, best_at = tl.max(score, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(best_ptr + place, best)
    tl.store(best_id_ptr + place, chunk * CHUNK + best_at)


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
    maxima_ptr,  # unused
    best_ptr,  # [R, chunks]
    best_id_ptr,  # [R, chunks]
    raw_highest_ptr,  # [R, chunks]
    raw_sum_ptr,  # [R, chunks]
    winner_ptr,  # [R], as the next three from `candidates`
    contender_z_ptr,  # [R, CONTENDERS]
    contender_id_ptr,  # [R, CONTENDERS]
    mass_ptr,  # [R, chunks, CONTENDERS]
    ids_ptr,  # [R] int64, out
    logprobs_ptr,  # [R] float32, out
    V,
    chunks,
    CHUNK: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    CONTENDERS: tl.constexpr,
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
            scale = inverse_temperature(temperature)
            zmax = highest * scale
            if (top_p < 1) & ((top_k <= 0) | (top_k >= V)):
                at = row * CONTENDERS
                drawn = accepted(
                    mass_ptr + at * chunks, contender_z_ptr + at, contender_id_ptr + at, zmax, top_p, chunks,
                    BLOCK_CHUNKS, CONTENDERS,
                )  # fmt: skip
            else:
                drawn = tl.load(winner_ptr + row)
            if drawn < 0:
                key = row_key(tl.load(seed_ptr + row), tl.load(token_index_ptr + row))
                drawn = draw_narrowed(
                    scores_ptr + row * V, highest_ptr + row * chunks, V, chunks, scale, zmax, top_p, top_k, min_p, key,
                    CHUNK,
                )  # fmt: skip
    drawn = tl.minimum(drawn, V - 1)
    tl.store(ids_ptr + row, drawn.to(tl.int64))
    if LOGPROBS:
        raw_highest = tl.load(raw_highest_ptr + place, mask=chunk < chunks, other=float("-inf"))
        raw_sum = tl.load(raw_sum_ptr + place, mask=chunk < chunks, other=0.0)
        base = tl.max(raw_highest, axis=0)
        log_sum = base + tl.log(tl.sum(raw_sum * tl.exp(raw_highest - base), axis=0))
        tl.store(logprobs_ptr + row, tl.load(logits_ptr + row * V + drawn).to(tl.float32) - log_sum)
