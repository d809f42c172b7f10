"""Which implementation multiplies which shape: the GPU's table, or defaults that hold on any GPU."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F

from kernels.activation.kernel import silu_and_mul_triton
from kernels.configs import tuned
from kernels.linear.launch import Gemv, Product, Skinny, run_gemv, run_parts, run_skinny
from kernels.norm.kernel import rms_norm_triton

# Past this many tokens the library always wins: the products are no longer bound by reading weights.
MAX_FEW_TOKENS = 64
DEFAULT_GEMV = Gemv(rows=1, block_k=1024, warps=8)


def parse_choice(entry: dict[str, Any]) -> Gemv | Skinny | None:
    """A table entry's configuration; None is the library."""
    kinds = {"gemv": Gemv, "skinny": Skinny}
    fields = {name: value for name, value in entry.items() if name not in ("kind", "max_tokens")}
    return None if entry["kind"] == "library" else kinds[entry["kind"]](**fields)


def shape_key(width: int, depth: int, silu: bool) -> str:
    """The table's name of a product: outputs x inputs, and whether the outputs are gated pairs."""
    return f"{width}x{depth}{'-silu' if silu else ''}"


@functools.cache
def choose(device: torch.device, tokens: int, width: int, depth: int, silu: bool) -> Gemv | Skinny | None:
    """Configuration for [tokens, depth] x [width, depth]^T on `device`; None is the library.

    The table lists, per shape, entries of ascending `max_tokens`; the first that holds `tokens` applies.
    """
    if tokens > MAX_FEW_TOKENS:
        return None
    entries = tuned(device).get("linear", {}).get(shape_key(width, depth, silu))
    if entries is None:
        return DEFAULT_GEMV if tokens == 1 else None
    return next((parse_choice(entry) for entry in entries if tokens <= entry["max_tokens"]), None)


def run_few(product: Product, config: Gemv | Skinny) -> torch.Tensor:
    """Run `product` with the kernel that `config` belongs to."""
    return run_gemv(product, config) if isinstance(config, Gemv) else run_skinny(product, config)


def linear_cuda(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """See `kernels.linear.linear`."""
    config = choose(x.device, x.shape[0], *weight.shape, False)
    if config is None:
        if out is None:
            return F.linear(x, weight, bias)
        return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)
    if out is None:
        out = x.new_empty(x.shape[0], weight.shape[0])
    return run_few(Product(x, weight, out, bias), config)


def linear_parts_cuda(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """See `kernels.linear.linear_parts`."""
    config = choose(x.device, x.shape[0], *weight.shape, False)
    if isinstance(config, Skinny) and config.splits > 1:
        return run_parts(x, weight, bias, config)
    return linear_cuda(x, weight, bias)


def linear_silu_and_mul_cuda(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """See `kernels.linear.linear_silu_and_mul`."""
    width = weight.shape[0] // 2
    config = choose(x.device, x.shape[0], width, weight.shape[1], True)
    if config is None:
        return silu_and_mul_triton(F.linear(x, weight))
    return run_few(Product(x, weight, x.new_empty(x.shape[0], width), silu=True), config)


def linear_add_cuda(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """See `kernels.linear.linear_add`."""
    config = choose(x.device, x.shape[0], *weight.shape, False)
    if config is None:
        return residual.addmm_(x, weight.t())
    return run_few(Product(x, weight, residual, residual=True), config)


def norm_linear_cuda(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    silu: bool,
) -> torch.Tensor:
    """See `kernels.linear.norm_linear` and `kernels.linear.norm_linear_silu_and_mul`."""
    width = weight.shape[0] // (2 if silu else 1)
    config = choose(x.device, x.shape[0], width, weight.shape[1], silu)
    out = x.new_empty(x.shape[0], width)
    if isinstance(config, Gemv):
        return run_gemv(Product(x, weight, out, bias, norm_weight, eps, silu), config)
    # Several tokens: normalising every tile again costs more than a launch (75 against 58 us at 8 tokens on H200).
    normed = rms_norm_triton(x, norm_weight, eps)
    if config is not None:
        return run_skinny(Product(normed, weight, out, bias, silu=silu), config)
    out = F.linear(normed, weight, bias)
    return silu_and_mul_triton(out) if silu else out
