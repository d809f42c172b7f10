"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from kernels.activation import silu_and_mul
from services.worker.layers.build import Build
from services.worker.layers.linear import Linear, RowParallelLinear, split_columns
from services.worker.layers.norm import RMSNorm


class GatedMLP:
    """down(silu(gate(x)) * up(x)), gate and up as one product."""

    def __init__(self, build: Build, name: str, hidden_size: int, intermediate_size: int, bias: bool) -> None:
        parts = [
            split_columns(f"{name}.{part}", intermediate_size, build.tp) for part in ("gate_proj", "up_proj")
        ]
        self.gate_up = Linear(build, parts, hidden_size, bias)
        self.down = RowParallelLinear(
            build, f"{name}.down_proj", hidden_size, intermediate_size, bias, area=1
        )

    def __call__(self, x: Tensor, stream: Tensor, next_norm: RMSNorm) -> Tensor:
        """Adds the MLP of x [T, H] to the residual stream and returns that normalised: `add_and_normalise`."""
        if self.gate_up.bias is None:
            activated = self.gate_up.silu_and_mul(x)
        else:
            activated = silu_and_mul(self.gate_up(x))
        return self.down.add_and_normalise(activated, stream, next_norm)

    @property
    def can_add(self) -> bool:
        """Whether `add_to` works: no other ranks, no biases."""
        return self.down.can_add and self.gate_up.bias is None

    def add_to(self, stream: Tensor, norm: RMSNorm) -> None:
        """Adds the MLP of the normalised residual stream [T, H] to it in place."""
        self.down.add_to(stream, self.gate_up.silu_and_mul_of_norm(stream, norm))
