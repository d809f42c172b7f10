"""Triton kernel of the (vocabulary-parallel) embedding gather."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def embedding_kernel(
    ids_ptr,  # [T]
    weight_ptr,  # [V_local, H]
    out_ptr,  # [T, H]
    vocab_start,
    vocab_local,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < H
    local = tl.load(ids_ptr + token + tl.zeros_like(columns)).to(tl.int64) - vocab_start
    here = inside & (local >= 0) & (local < vocab_local)
    row = tl.load(weight_ptr + local * H + columns, mask=here, other=0.0)
    tl.store(out_ptr + token * H + columns, row, mask=inside)


def embedding_triton(ids: torch.Tensor, weight: torch.Tensor, vocab_start: int = 0) -> torch.Tensor:
    """See `kernels.embedding.embedding`."""
    num_tokens, (vocab_local, width) = ids.shape[0], weight.shape
    out = weight.new_empty(num_tokens, width)
    if num_tokens:
        block = min(triton.next_power_of_2(width), 1024)
        embedding_kernel[(num_tokens, triton.cdiv(width, block))](
            ids, weight, out, vocab_start, vocab_local, width, block, num_warps=4
        )
    return out
