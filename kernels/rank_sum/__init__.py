"""The ranks' sum of a product, added to the residual stream and normalised, over memory that the GPUs share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.checks import require, require_rows, require_vector

MAX_PROGRAMS = 128
SIGNAL_BYTES = MAX_PROGRAMS * 2 * 4
"""Of one rank's signals to another: two int32 per program."""


@dataclass(frozen=True)
class PeerMemory:
    """What this rank knows of the buffers that all ranks map: [signals | partial results | normalised streams].

    bases: [ranks] int64, the address of each rank's buffer in this process; its signals start as zeros.
    buffer: this rank's own, uint8. capacity: bytes of the partial results, and of the normalised streams.
    """

    bases: torch.Tensor
    buffer: torch.Tensor
    rank: int
    capacity: int

    @staticmethod
    def bytes_needed(ranks: int, capacity: int) -> int:
        return ranks * SIGNAL_BYTES + 2 * capacity

    @property
    def signal_bytes(self) -> int:
        return len(self.bases) * SIGNAL_BYTES

    def partial(self, like: torch.Tensor) -> torch.Tensor:
        """Where this rank's partial result [T, H] goes, of the shape and type of `like`."""
        return self._view(self.signal_bytes, like)

    def normalised(self, like: torch.Tensor) -> torch.Tensor:
        """Where all ranks put the normalised stream [T, H]; the next call overwrites it."""
        return self._view(self.signal_bytes + self.capacity, like)

    def _view(self, begin: int, like: torch.Tensor) -> torch.Tensor:
        size = like.numel() * like.element_size()
        require(size <= self.capacity, f"{size} bytes exceed the {self.capacity} that ranks share")
        return self.buffer[begin : begin + size].view(like.dtype).view(like.shape)


def rank_sum_rms_norm(
    memory: PeerMemory, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Sum the ranks' `memory.partial(residual)`, add it to `residual` [T, H] and normalise: `kernels.norm` over ranks.

    Each rank does so for its share of the tokens, T / ranks rounded up, and hands the rows to the others: the rows of
    `residual` that belong to other ranks are left as they were. All ranks call it with equal shapes, on one stream.

    Returns `memory.normalised(residual)`, whole on every rank. The mean is taken in float32; the normalised value is
    rounded before the scale. Raises ValueError for shapes that do not match.
    """
    require_rows("residual", residual)
    require_vector("weight", weight, residual.shape[1])
    from kernels.rank_sum.kernel import rank_sum_rms_norm_triton

    return rank_sum_rms_norm_triton(memory, residual, weight, eps)
