"""Triton kernels that change the logits before the draw: bias, allowed tokens, penalties."""

from __future__ import annotations

import triton
import triton.language as tl


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
