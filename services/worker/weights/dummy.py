"""Weights made up on the device: for benchmarks and tests without a checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 1e-3


class DummyWeights:
    """Each tensor is a function of (seed, name, shape) alone, so ranks hold slices of the same tensors.

    Matrices are uniform in +-0.001, as vLLM makes them up, norm weights 1, biases 0: whoever compares the two with such
    weights lets a GPU do the same work, for at its power limit it multiplies normal values 1% slower. Device types differ
    in their generators.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def read(self, name: str, shape: Sequence[int], out: Tensor, dim: int = 0, start: int = 0) -> None:
        if name.endswith("norm.weight"):
            out.fill_(1.0)
            return
        if len(shape) == 1:
            out.zero_()
            return
        generator = torch.Generator(out.device).manual_seed(
            zlib.crc32(name.encode(), self._seed & 0xFFFFFFFF)
        )
        whole = list(out.shape) == list(shape)
        full = (
            out if whole and out.is_contiguous() else torch.empty(*shape, dtype=out.dtype, device=out.device)
        )
        full.uniform_(-LARGEST, LARGEST, generator=generator)
        if full is not out:
            out.copy_(full.narrow(dim, start, out.shape[dim]))

    def finish(self, ignored: Sequence[str]) -> None:
        """Nothing can be left over."""
