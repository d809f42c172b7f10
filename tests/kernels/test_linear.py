"""Few-token products in Triton's interpreter (or on a GPU) against PyTorch."""

from dataclasses import replace

import pytest
import torch
from helpers import DEVICE, TOLERANCE, relative_error

from kernels.activation.reference import silu_and_mul
from kernels.norm.reference import rms_norm

pytest.importorskip("triton")
from kernels.linear.launch import Gemv, Product, Skinny, run_gemv, run_parts, run_skinny

CONFIGS = [
    Gemv(rows=1, block_k=128, warps=4),
    Gemv(rows=4, block_k=32, warps=1),
    Skinny(block_t=16, block_n=16, block_k=32, stages=2, warps=4, weight_left=False, span=16, ahead=0),
    Skinny(block_t=16, block_n=64, block_k=64, stages=3, warps=4, weight_left=True, span=24, ahead=128),
]
FUSIONS = ("none", "bias", "silu", "residual")
# Only the one-token kernel normalises.
CASES = [
    (config, fusion)
    for config in CONFIGS
    for fusion in (*FUSIONS, *(("norm", "norm and silu") if isinstance(config, Gemv) else ()))
]


def run(product: Product, config: Gemv | Skinny) -> torch.Tensor:
    return run_gemv(product, config) if isinstance(config, Gemv) else run_skinny(product, config)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("config", "fusion"), CASES)
def test_product_with_each_fusion(dtype: torch.dtype, config: Gemv | Skinny, fusion: str) -> None:
    torch.manual_seed(0)
    width, depth = 37, 100
    tokens = 1 if isinstance(config, Gemv) else 19
    x = torch.randn(tokens, depth, device=DEVICE).to(dtype)
    weight = torch.randn(width * (2 if "silu" in fusion else 1), depth, device=DEVICE).to(dtype) / 10
    bias = torch.randn(width, device=DEVICE).to(dtype) if fusion == "bias" else None
    norm_weight = torch.randn(depth, device=DEVICE).to(dtype) if "norm" in fusion else None
    out = torch.full((tokens, width), float("nan"), device=DEVICE, dtype=dtype)
    if fusion == "residual":
        out = torch.randn_like(out)

    source = x.float() if norm_weight is None else rms_norm(x.float(), norm_weight.float(), 1e-5)
    answer = source @ weight.float().T
    if bias is not None:
        answer += bias
    if "silu" in fusion:
        answer = silu_and_mul(answer)
    if fusion == "residual":
        answer += out

    product = Product(x, weight, out, bias, norm_weight, 1e-5, "silu" in fusion, fusion == "residual")
    assert relative_error(run(product, config), answer) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("splits", [3, 5])
@pytest.mark.parametrize("config", [config for config in CONFIGS if isinstance(config, Skinny)])
def test_parts_of_a_product_add_up_to_it(
    dtype: torch.dtype, config: Skinny, splits: int, has_bias: bool
) -> None:
    """With inputs that splits do not divide, and with more splits than there are inputs for."""
    torch.manual_seed(splits)
    tokens, width, depth = 19, 37, 200
    x = torch.randn(tokens, depth, device=DEVICE).to(dtype)
    weight = torch.randn(width, depth, device=DEVICE).to(dtype) / 10
    bias = torch.randn(width, device=DEVICE).to(dtype) if has_bias else None
    answer = x.double() @ weight.double().T
    if bias is not None:
        answer += bias

    config = replace(config, splits=splits)
    parts = run_parts(x, weight, bias, config)
    assert parts.shape == (splits, tokens, width)
    assert relative_error(parts.sum(0), answer) < TOLERANCE[dtype]
    # Where nobody adds parts up, the same entry of a table gives the product whole.
    whole = run_skinny(Product(x, weight, x.new_empty(tokens, width), bias), config)
    assert relative_error(whole, answer) < TOLERANCE[dtype]
