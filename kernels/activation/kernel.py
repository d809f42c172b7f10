"""Triton kernel of the gated activation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.pdl import launch_downstream, launch_options, wait_upstream


@triton.jit
def silu_and_mul_kernel(
    gate_up_ptr,  # [T, 2 I]
    out_ptr,  # [T, I]
    WIDTH: tl.constexpr,  # I
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    wait_upstream(PDL)
    launch_downstream(PDL)
    gate = tl.load(gate_up_ptr + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    silu = (gate * tl.sigmoid(gate)).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * WIDTH + columns, (silu * up).to(out_ptr.dtype.element_ty), mask=inside)


def silu_and_mul_triton(gate_up: torch.Tensor) -> torch.Tensor:
    """See `kernels.activation.silu_and_mul`."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    if rows:
        block = min(triton.next_power_of_2(width), 2048)
        silu_and_mul_kernel[(rows, triton.cdiv(width, block))](
            gate_up, out, width, block, num_warps=4, **launch_options(gate_up.device)
        )
    return out
