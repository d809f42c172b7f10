"""What every layer is built with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.parallel.group import TensorParallel
from services.worker.weights.source import WeightSource


@dataclass(frozen=True, slots=True)
class Build:
    """Where the weights come from, where they go, and which part of them this rank keeps."""

    source: WeightSource
    device: torch.device
    dtype: torch.dtype
    tp: TensorParallel

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, device=self.device, dtype=self.dtype)

    def matrix(self, out_features: int, in_features: int) -> Tensor:
        """A matrix to multiply with, [out, in]. On cpu it lies transposed, which few-row products read faster."""
        if self.device.type == "cpu":
            return self.empty(in_features, out_features).t()
        return self.empty(out_features, in_features)

    def whole(self, name: str, *shape: int) -> Tensor:
        """A tensor that every rank keeps whole."""
        out = self.empty(*shape)
        self.source.read(name, shape, out)
        return out
