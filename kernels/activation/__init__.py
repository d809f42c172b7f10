"""Gated activations of the feed-forward block."""

from __future__ import annotations

import torch

from kernels.activation import reference
from kernels.checks import require, require_rows


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` for `gate_up` [T, 2 I] holding gate in its left half and up in its right: [T, I].

    silu is computed in float32 and rounded to the input's dtype before the product, as PyTorch does.
    """
    require_rows("gate_up", gate_up)
    require(gate_up.shape[1] % 2 == 0, f"gate_up needs an even number of columns, got {gate_up.shape[1]}")
    if not gate_up.is_cuda:
        return reference.silu_and_mul(gate_up)
    from kernels.activation.kernel import silu_and_mul_triton

    return silu_and_mul_triton(gate_up)
