"""RMS norm, with the residual stream's addition fused in."""

from __future__ import annotations

from torch import Tensor

from kernels.norm import rms_norm
from services.worker.layers.build import Build


class RMSNorm:
    def __init__(self, build: Build, name: str, size: int, eps: float) -> None:
        self.weight = build.whole(f"{name}.weight", size)
        self.eps = eps

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x [T, H] normalised; with `residual`, x is first added into it in place and the sum normalised."""
        return rms_norm(x, self.weight, self.eps, residual)
