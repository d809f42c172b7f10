"""Matrix products, by whichever implementation the table of this GPU names for the shape.

At up to a few tens of tokens a product is bound by reading its weights once, and a plain GEMV or skinny GEMM reads
them faster than the library does; above that the library wins. Nothing is searched at run time: see `table`.
"""

from __future__ import annotations

import torch

from kernels.checks import require, require_rows, require_vector
from kernels.configs import tuned
from kernels.linear import reference


def variant_sizes(device: torch.device) -> list[int]:
    """The numbers of tokens, ascending, up to which one implementation of a product serves: each has kernels of its own."""
    products = tuned(device).get("linear", {}).values()
    return sorted({1, *(entry["max_tokens"] for entries in products for entry in entries)})


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x` [T, K] times `weight` [N, K] transposed, plus `bias` [N]: [T, N], in `out` if it is given."""
    require_rows("x", x, weight.shape[1])
    if bias is not None:
        require_vector("bias", bias, weight.shape[0])
    if out is not None:
        require_rows("out", out, weight.shape[0])
        require(out.shape[0] == x.shape[0], f"out has {out.shape[0]} rows, x {x.shape[0]}")
    if not x.is_cuda:
        return reference.linear(x, weight, bias, out)
    from kernels.linear.table import linear_cuda

    return linear_cuda(x, weight, bias, out)


def linear_parts(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`linear`, or where the GPU's table splits K float32 parts [S, T, N], whose sum in order, rounded, it is.

    For `kernels.rope_kv.rope_and_store`, which takes either.
    """
    require_rows("x", x, weight.shape[1])
    if bias is not None:
        require_vector("bias", bias, weight.shape[0])
    if not x.is_cuda:
        return reference.linear(x, weight, bias)
    from kernels.linear.table import linear_parts_cuda

    return linear_parts_cuda(x, weight, bias)


def linear_silu_and_mul(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` of the fused projection: `x` [T, K], `weight` [2 I, K] (gate rows, then up rows): [T, I]."""
    require_rows("x", x, weight.shape[1])
    require(weight.shape[0] % 2 == 0, f"weight needs an even number of rows, got {weight.shape[0]}")
    if not x.is_cuda:
        return reference.linear_silu_and_mul(x, weight)
    from kernels.linear.table import linear_silu_and_mul_cuda

    return linear_silu_and_mul_cuda(x, weight)


def linear_add(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """`residual` [T, N] += `x` [T, K] times `weight` [N, K] transposed, in place; returns `residual`."""
    require_rows("x", x, weight.shape[1])
    require_rows("residual", residual, weight.shape[0])
    require(residual.shape[0] == x.shape[0], f"residual has {residual.shape[0]} rows, x {x.shape[0]}")
    if not x.is_cuda:
        return reference.linear_add(x, weight, residual)
    from kernels.linear.table import linear_add_cuda

    return linear_add_cuda(x, weight, residual)


def norm_linear(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`linear(rms_norm(x, norm_weight, eps), weight, bias)` without a launch of its own for the norm.

    x: [T, K], the residual stream, left unchanged; norm_weight: [K]; weight: [N, K]. Returns [T, N].
    With `linear_add` after attention and feed-forward, a decode step keeps its residual stream in one buffer.
    """
    require_rows("x", x, weight.shape[1])
    require_vector("norm_weight", norm_weight, x.shape[1])
    if not x.is_cuda:
        return reference.norm_linear(x, norm_weight, eps, weight, bias)
    from kernels.linear.table import norm_linear_cuda

    return norm_linear_cuda(x, norm_weight, eps, weight, bias, silu=False)


def norm_linear_silu_and_mul(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: torch.Tensor
) -> torch.Tensor:
    """`linear_silu_and_mul(rms_norm(x, norm_weight, eps), weight)`: `weight` [2 I, K], result [T, I]."""
    require_rows("x", x, weight.shape[1])
    require_vector("norm_weight", norm_weight, x.shape[1])
    if not x.is_cuda:
        return reference.norm_linear_silu_and_mul(x, norm_weight, eps, weight)
    from kernels.linear.table import norm_linear_cuda

    return norm_linear_cuda(x, norm_weight, eps, weight, None, silu=True)
