"""The ranks' sum of a product, added to the residual stream and normalised, over memory that the GPUs share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.checks import require, require_rows, require_vector

MAX_PROGRAMS = 128
"""There are signals for so many."""
AREAS = 2
_SIGNAL_BYTES = MAX_PROGRAMS * AREAS * 4
"""Of one rank's signals to another."""
FEW_TOKENS = 32
"""Up to so many tokens each rank sums all of them: a second meeting of the ranks would take longer (four H200)."""


def programs_that_fit(multiprocessors: int) -> int:
    """The most programs to launch on a GPU, given the least number of multiprocessors among the ranks' GPUs.

    A program waits for the same one of the other ranks, so all that are launched must run at once, or some would wait
    for ever for one that waits for their place. However wide a row, each multiprocessor has room for one program.
    """
    return min(multiprocessors, MAX_PROGRAMS)


@dataclass(frozen=True)
class PeerMemory:
    """What this rank knows of the buffers that all ranks map: [signals | partial results, twice | normalised stream].

    bases: [ranks] int64, the address of each rank's buffer in this process; its signals start as zeros.
    buffer: this rank's own, uint8. capacity: bytes of one area of partial results, and of the normalised stream.
    max_programs: what `programs_that_fit` says of the GPU with the fewest multiprocessors, the same on every rank.
    """

    bases: torch.Tensor
    buffer: torch.Tensor
    rank: int
    capacity: int
    max_programs: int

    @staticmethod
    def bytes_needed(ranks: int, capacity: int) -> int:
        return ranks * _SIGNAL_BYTES + (AREAS + 1) * capacity

    @property
    def ranks(self) -> int:
        return len(self.bases)

    def programs(self, tokens: int, shared_out: bool) -> int:
        """How many programs each rank launches for `tokens`: equally many on all, for they meet one by one."""
        return min(-(-tokens // self.ranks) if shared_out else tokens, self.max_programs)

    def partial_at(self, area: int) -> int:
        """Where an area of partial results begins, in bytes."""
        return self.ranks * _SIGNAL_BYTES + area * self.capacity

    @property
    def normalised_at(self) -> int:
        return self.partial_at(AREAS)

    def partial(self, like: torch.Tensor, area: int) -> torch.Tensor:
        """Where this rank's partial result [T, H] goes, of the shape and type of `like`."""
        return self._view(self.partial_at(area), like)

    def normalised(self, like: torch.Tensor) -> torch.Tensor:
        """Where the normalised stream [T, H] comes; the next call overwrites it."""
        return self._view(self.normalised_at, like)

    def _view(self, begin: int, like: torch.Tensor) -> torch.Tensor:
        size = like.numel() * like.element_size()
        require(size <= self.capacity, f"{size} bytes exceed the {self.capacity} that ranks share")
        return self.buffer[begin : begin + size].view(like.dtype).view(like.shape)


def rank_sum_rms_norm(
    memory: PeerMemory, residual: torch.Tensor, weight: torch.Tensor, eps: float, area: int
) -> torch.Tensor:
    """Sum the ranks' `memory.partial(residual, area)`, add it to `residual` [T, H] and normalise that.

    All ranks call it in the same order, on one stream each, with equal shapes and areas. Calls of equal T come in
    pairs, area 0 and then area 1. Of more than FEW_TOKENS tokens each rank takes its share, T / ranks rounded up, and
    hands the rows to the others: the rows of `residual` that belong to other ranks are left as they were.

    Returns `memory.normalised(residual)`, whole on every rank. The mean is taken in float32; the normalised value is
    rounded before the scale. Raises ValueError for shapes that do not match.
    """
    require_rows("residual", residual)
    require_vector("weight", weight, residual.shape[1])
    from kernels.rank_sum.kernel import rank_sum_rms_norm_triton

    return rank_sum_rms_norm_triton(
        memory, residual, weight, eps, area, shared_out=residual.shape[0] > FEW_TOKENS
    )


def kept_rows(memory: PeerMemory, residual: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`rows` int64 [R] of `residual` [T, H] after a call of more than FEW_TOKENS tokens: [R, H].

    Zeros for tokens of other ranks' shares, so that the sum over ranks is each row as one of them kept it.
    """
    share = -(-residual.shape[0] // memory.ranks)
    others = rows.div(share, rounding_mode="floor") != memory.rank
    return residual.index_select(0, rows).masked_fill_(others.unsqueeze(1), 0.0)
