"""Launching the few-token products: one request type for all fusions, one configuration type per kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from kernels.linear.kernel import gemv_kernel, skinny_kernel
from kernels.pdl import launch_options


@dataclass(frozen=True)
class Gemv:
    """One token: each program dots `rows` weight rows, `block_k` columns at a time, with `warps` warps."""

    rows: int
    block_k: int
    warps: int


@dataclass(frozen=True)
class Skinny:
    """A few tokens: each program makes `span` outputs of up to `block_t` tokens on the matrix units.

    A span that gives every SM the same number of programs beats a power of two; tiles are `block_n` wide all the same.
    Where spans that are worth a program are too few for the SMs, `splits` programs share the inputs of each, if the
    next kernel takes the product in parts.
    """

    block_t: int
    block_n: int
    block_k: int
    stages: int
    warps: int
    weight_left: bool
    span: int
    ahead: int
    splits: int = 1


@dataclass(frozen=True)
class Product:
    """out [T, N] = fused(x [T, K], weight). See `kernels.linear.kernel` for the fusions."""

    x: torch.Tensor
    weight: torch.Tensor
    out: torch.Tensor
    bias: torch.Tensor | None = None
    norm_weight: torch.Tensor | None = None
    eps: float = 0.0
    silu: bool = False
    residual: bool = False

    def operands(self) -> tuple[torch.Tensor, ...]:
        """Kernel pointers; an absent operand is replaced by one that is never read."""
        return self.x, self.weight, self.x if self.bias is None else self.bias, self.out

    def fusions(self) -> dict[str, bool]:
        return {
            "SILU": self.silu,
            "BIAS": self.bias is not None,
            "RESIDUAL": self.residual,
            **launch_options(self.x.device),
        }


def run_gemv(product: Product, config: Gemv) -> torch.Tensor:
    """Run the one-token kernel; `product.x` has one row."""
    width, depth = product.out.shape[1], product.x.shape[1]
    norm = product.x if product.norm_weight is None else product.norm_weight
    gemv_kernel[(triton.cdiv(width, config.rows),)](
        *product.operands(), norm, product.eps, width, NORM=product.norm_weight is not None, K=depth, ROWS=config.rows,
        BLOCK_K=min(config.block_k, triton.next_power_of_2(depth)), num_warps=config.warps, **product.fusions(),
    )  # fmt: skip
    return product.out


def run_skinny(product: Product, config: Skinny) -> torch.Tensor:
    """Run the few-token kernel, in slices of `config.block_t` tokens; `product` has no norm. Nothing is split."""
    _launch_skinny(product, config, splits=1)
    return product.out


def run_parts(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, config: Skinny
) -> torch.Tensor:
    """[splits, T, N] float32 that add up to the product, for a next kernel that adds them as it reads."""
    parts = x.new_empty(config.splits, x.shape[0], weight.shape[0], dtype=torch.float32)
    _launch_skinny(Product(x, weight, parts, bias), config, config.splits)
    return parts


def _launch_skinny(product: Product, config: Skinny, splits: int) -> None:
    tokens, depth = product.x.shape
    width = product.out.shape[-1]
    grid = (triton.cdiv(width, config.span), triton.cdiv(tokens, config.block_t), splits)
    skinny_kernel[grid](
        *product.operands(), tokens, width, K=depth,
        BLOCK_T=config.block_t, BLOCK_N=config.block_n, SPAN=config.span, BLOCK_K=config.block_k, SPLITS=splits,
        STAGES=config.stages, AHEAD=config.ahead,
        WEIGHT_LEFT=config.weight_left, PRECISION="ieee" if product.x.dtype == torch.float32 else "tf32",
        num_warps=config.warps, **product.fusions(),
    )  # fmt: skip
