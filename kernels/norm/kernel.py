"""Triton kernel of the fused residual add and RMS normalisation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.pdl import launch_downstream, launch_options, wait_upstream


@triton.jit
def rms_norm_kernel(
    x_ptr,  # [T, H]
    weight_ptr,  # [H]
    residual_ptr,  # [T, H] or unused
    out_ptr,  # [T, H]
    eps,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    wait_upstream(PDL)
    launch_downstream(PDL)
    x = tl.load(x_ptr + row * H + columns, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row * H + columns, mask=inside, other=0.0)
        total = (x.to(tl.float32) + residual.to(tl.float32)).to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + row * H + columns, total, mask=inside)
        wide = total.to(tl.float32)
    else:
        wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / H + eps)
    normalised = (wide * scale).to(out_ptr.dtype.element_ty).to(tl.float32)
    tl.store(out_ptr + row * H + columns, (normalised * weight).to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm_triton(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """See `kernels.norm.rms_norm`."""
    out = torch.empty_like(x)
    rows, width = x.shape
    if rows:
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(rows,)](
            x, weight, x if residual is None else residual, out, eps, width, block, residual is not None,
            num_warps=min(max(block // 512, 1), 16), **launch_options(x.device),
        )  # fmt: skip
    return out
