"""Triton kernels for products with few tokens, which are bound by reading the weights once.

Their options spare a layer of a decode step the launches around its products:

- SILU: the weight holds gate rows, then up rows; the result is silu(gate) * up.
- NORM (one token): x is the residual stream, and RMS normalisation (weight g, eps) happens on the way in. The row's
  scale is a factor of the whole result, so sum(w * g * x) and sum(x * x) come out of the same pass over K.
- RESIDUAL: the result is added to `out` in place.

With SPLITS above 1 (few outputs, which alone would leave most SMs idle) programs share an output's K. Each leaves its
part in float32, for a next kernel that adds the parts up as it reads them. Having the last program to arrive do that
took 1.7 us longer for 32 tokens of 1792 x 5120 on an H200, and no product of ours was then faster than the library's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.pdl import launch_downstream, wait_upstream


@triton.jit
def _finish(value, gate_scale, up, bias_ptr, rows, inside, out_dtype, SILU: tl.constexpr, BIAS: tl.constexpr):
    """Scale, bias and gate of a float32 result; the steps round to the output's dtype as separate kernels would."""
    value = value * gate_scale
    if BIAS:
        value += tl.load(bias_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        gate = value.to(out_dtype).to(tl.float32)
        silu = (gate * tl.sigmoid(gate)).to(out_dtype).to(tl.float32)
        value = silu * (up * gate_scale).to(out_dtype).to(tl.float32)
    return value


@triton.jit
def gemv_kernel(
    x_ptr,  # [1, K]
    weight_ptr,  # [N, K], or [2 N, K] with SILU
    bias_ptr,  # [N]
    out_ptr,  # [1, N]
    norm_ptr,  # [K]
    eps,
    N,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SILU: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < N
    weight_row = weight_ptr + rows.to(tl.int64)[:, None] * K
    total = tl.zeros((ROWS, BLOCK_K), tl.float32)
    up_total = tl.zeros((ROWS, BLOCK_K), tl.float32)
    square = tl.zeros((BLOCK_K,), tl.float32)
    for start in tl.static_range(0, K, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        mask = inside[:, None] & (columns < K)[None, :]
        # Weights do not depend on the kernel before: the first tile's loads are in flight while it still runs.
        weight = tl.load(weight_row + columns[None, :], mask=mask, other=0.0, eviction_policy="evict_first")
        if SILU:
            up_weight = tl.load(
                weight_row + N.to(tl.int64) * K + columns[None, :], mask=mask, other=0.0,
                eviction_policy="evict_first",
            )  # fmt: skip
        if start == 0:
            wait_upstream(PDL)
            launch_downstream(PDL)
        x = tl.load(x_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
        if NORM:
            square += x * x
            x *= tl.load(norm_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
        total += weight.to(tl.float32) * x[None, :]
        if SILU:
            up_total += up_weight.to(tl.float32) * x[None, :]
    scale = tl.rsqrt(tl.sum(square, axis=0) / K + eps) if NORM else 1.0
    value = tl.sum(total, axis=1)
    up = tl.sum(up_total, axis=1) if SILU else value
    value = _finish(value, scale, up, bias_ptr, rows, inside, out_ptr.dtype.element_ty, SILU, BIAS)
    if RESIDUAL:
        rounded = value.to(out_ptr.dtype.element_ty).to(tl.float32)
        value = rounded + tl.load(out_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _fetch_ahead(weight_row, depth, COLUMNS: tl.constexpr):
    """Ask for the first of `depth` columns of weight rows [rows, 1] to be brought into L2, a line of 128 bytes each."""
    LINE: tl.constexpr = 128 // (weight_row.dtype.element_ty.primitive_bitwidth // 8)
    lines = tl.minimum(tl.arange(0, COLUMNS // LINE) * LINE, depth - 1)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight_row + lines[None, :]],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def _tile_dot(x, weight, total, WEIGHT_LEFT: tl.constexpr, PRECISION: tl.constexpr):
    """total [N, T] += weight [N, K] x [T, K]^T, or total [T, N] += x [T, K] weight [N, K]^T."""
    if WEIGHT_LEFT:
        total = tl.dot(weight, tl.trans(x), total, input_precision=PRECISION)
    else:
        total = tl.dot(x, tl.trans(weight), total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["T"])
def skinny_kernel(
    x_ptr,  # [T, K]
    weight_ptr,  # [N, K], or [2 N, K] with SILU
    bias_ptr,  # [N]
    out_ptr,  # [T, N], or float32 parts of it [SPLITS, T, N]
    T,
    N,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,  # tokens, padded to 16 or more
    BLOCK_N: tl.constexpr,
    SPAN: tl.constexpr,  # outputs per program, at most BLOCK_N: what is over is neither read nor stored
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,  # programs that share the inputs of an output; above 1 without SILU and RESIDUAL
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,  # columns of the weights asked for before the kernel before has ended
    WEIGHT_LEFT: tl.constexpr,  # weights as the matrix units' left operand (64 rows and more use wgmma)
    PRECISION: tl.constexpr,
    SILU: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    rows = tl.program_id(0) * SPAN + tl.arange(0, BLOCK_N)
    tokens = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    inside, real = (rows < N) & (tl.arange(0, BLOCK_N) < SPAN), tokens < T
    DEPTH: tl.constexpr = (K + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K) * BLOCK_K  # inputs of a program
    begin = tl.program_id(2) * DEPTH if SPLITS > 1 else 0
    weight_row = weight_ptr + rows.to(tl.int64)[:, None] * K + begin
    x_row = x_ptr + tokens.to(tl.int64)[:, None] * K + begin
    if WEIGHT_LEFT:
        total = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        up_total = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    else:
        total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
        up_total = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    if PDL and AHEAD:
        # Weights do not depend on the kernel before: their first columns are on the way while it still runs.
        near = weight_ptr + tl.minimum(rows, N - 1).to(tl.int64)[:, None] * K + begin
        depth = tl.minimum(K - begin, DEPTH)
        _fetch_ahead(near, depth, AHEAD)
        if SILU:
            _fetch_ahead(near + N.to(tl.int64) * K, depth, AHEAD)
    wait_upstream(PDL)
    launch_downstream(PDL)
    for start in tl.range(0, DEPTH, BLOCK_K, num_stages=STAGES):
        columns = start + tl.arange(0, BLOCK_K)
        in_k = (columns < K - begin)[None, :]
        weight = tl.load(weight_row + columns[None, :], mask=inside[:, None] & in_k, other=0.0)
        x = tl.load(x_row + columns[None, :], mask=real[:, None] & in_k, other=0.0)
        total = _tile_dot(x, weight, total, WEIGHT_LEFT, PRECISION)
        if SILU:
            up_row = weight_row + N.to(tl.int64) * K
            up_weight = tl.load(up_row + columns[None, :], mask=inside[:, None] & in_k, other=0.0)
            up_total = _tile_dot(x, up_weight, up_total, WEIGHT_LEFT, PRECISION)
    if WEIGHT_LEFT:
        row_index, token_index = rows[:, None], tokens[None, :]
        mask = inside[:, None] & real[None, :]
    else:
        row_index, token_index = rows[None, :], tokens[:, None]
        mask = inside[None, :] & real[:, None]
    target = out_ptr + token_index.to(tl.int64) * N + row_index
    if SPLITS > 1:
        if BIAS:
            bias = tl.load(bias_ptr + row_index, mask=row_index < N, other=0.0).to(tl.float32)
            total += tl.where(tl.program_id(2) == 0, bias, 0.0)
        tl.store(target + tl.program_id(2).to(tl.int64) * T * N, total, mask=mask)
    else:
        value = _finish(
            total, 1.0, up_total, bias_ptr, row_index, row_index < N, out_ptr.dtype.element_ty, SILU, BIAS
        )
        if RESIDUAL:
            rounded = value.to(out_ptr.dtype.element_ty).to(tl.float32)
            value = rounded + tl.load(target, mask=mask, other=0.0).to(tl.float32)
        tl.store(target, value.to(out_ptr.dtype.element_ty), mask=mask)
