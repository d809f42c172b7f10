"""All-reduce of small tensors by reading the other ranks' memory directly: one kernel, where NCCL takes several hops.

A decode step of a few rows reduces a few kilobytes twice a layer, and is bound by latency: NCCL's ring takes some
20 us where one kernel that reads every peer takes about 5. Up to ONE_SHOT_BYTES every rank reads all of every other's
tensor; up to MAX_BYTES each sums its share and hands it to the others. PyTorch's symmetric memory maps the buffers; it needs
peer access between the GPUs, and no NVLink multicast.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor

log = logging.getLogger(__name__)

# Measured on four H200 (docs/log.md): beyond these the next way is faster.
ONE_SHOT_BYTES = 512 * 1024
MAX_BYTES = 4 << 20
_ALIGNMENT = 16  # bytes that the kernel loads at once


class PeerReduce:
    """Owns one buffer per rank, mapped into all ranks. Safe in captured graphs: addresses stay."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        """Raises RuntimeError where the GPUs cannot map each other's memory. A collective: all ranks call it."""
        self._name = group.group_name
        self._alignment = _ALIGNMENT * group.size()
        self._bytes = symmetric_memory.empty(MAX_BYTES, dtype=torch.uint8, device=device)
        symmetric_memory.rendezvous(self._bytes, self._name)

    def takes(self, x: Tensor) -> bool:
        size = x.numel() * x.element_size()
        return size <= MAX_BYTES and size % self._alignment == 0 and x.is_contiguous()

    def sum(self, x: Tensor) -> Tensor:
        """The ranks' sum of x, as a new tensor. All ranks must call it with equal shapes."""
        return self.one_shot(x) if x.numel() * x.element_size() <= ONE_SHOT_BYTES else self.two_shot(x)

    def one_shot(self, x: Tensor) -> Tensor:
        """Every rank reads the whole of x from every other."""
        return torch.ops.symm_mem.one_shot_all_reduce_copy(self._buffer(x), x, "sum", self._name)

    def two_shot(self, x: Tensor) -> Tensor:
        """Every rank sums its share of x and hands it to the others."""
        buffer, out = self._buffer(x), torch.empty_like(x)
        buffer.copy_(x)
        return torch.ops.symm_mem.two_shot_all_reduce_out(buffer, "sum", self._name, out)

    def _buffer(self, x: Tensor) -> Tensor:
        return self._bytes[: x.numel() * x.element_size()].view(x.dtype).view(x.shape)


def open_peer_reduce(group: dist.ProcessGroup, device: torch.device) -> PeerReduce | None:
    """One for this group, if it works on every rank; it is tried once, so that no step has to find out."""
    peer: PeerReduce | None = None
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    try:
        peer = PeerReduce(group, device)
        mine = torch.full((ONE_SHOT_BYTES,), float(rank + 1), dtype=torch.bfloat16, device=device)
        works = all(bool((peer.sum(x) == size * (size + 1) / 2).all()) for x in (mine[:1024], mine))
    except (RuntimeError, AttributeError) as error:
        works = False
        log.info("the GPUs' memory cannot be shared: %s", str(error).splitlines()[0][:200])
    agreed = torch.tensor([int(works)], device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN, group=group)
    if not bool(agreed.item()):
        log.info("small all-reduces go through NCCL")
        return None
    return peer
