"""Where a model's tensors come from: the protocol that layers load through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class WeightSource(Protocol):
    """Named tensors of one checkpoint. Layers allocate what their rank keeps and have it filled.

    Nothing is held in host memory beyond the slice being copied.
    """

    def read(self, name: str, shape: Sequence[int], out: Tensor, dim: int = 0, start: int = 0) -> None:
        """Fills `out` with the slice start .. start + out.shape[dim] along `dim` of the tensor `name`.

        `shape` is the whole tensor's as the configuration has it. Raises WeightsError if there is no such
        tensor or its shape is another.
        """
        ...

    def finish(self, ignored: Sequence[str]) -> None:
        """Raises WeightsError if a tensor was never read, unless its name ends in one of `ignored`."""
        ...
