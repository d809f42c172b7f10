"""All-reduce of small tensors by reading the other ranks' memory directly: one kernel, where NCCL takes several hops.

A decode step of a few rows reduces a few kilobytes twice a layer, and is bound by latency: NCCL's ring takes some
20 us where one kernel that reads every peer takes about 5. PyTorch's symmetric memory maps the buffers; it needs
peer access between the GPUs, and no NVLink multicast.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor

log = logging.getLogger(__name__)

# Every rank reads all of every other's tensor: beyond this NCCL, which reads each part once, is faster.
MAX_BYTES = 512 * 1024
_ALIGNMENT = 16  # bytes that the kernel loads at once


class PeerReduce:
    """Owns one buffer per rank, mapped into all ranks. Safe in captured graphs: addresses stay."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        """Raises RuntimeError where the GPUs cannot map each other's memory. A collective: all ranks call it."""
        self._name = group.group_name
        self._bytes = symmetric_memory.empty(MAX_BYTES, dtype=torch.uint8, device=device)
        symmetric_memory.rendezvous(self._bytes, self._name)

    def takes(self, x: Tensor) -> bool:
        size = x.numel() * x.element_size()
        return size <= MAX_BYTES and size % _ALIGNMENT == 0 and x.is_contiguous()

    def sum(self, x: Tensor) -> Tensor:
        """The ranks' sum of x, as a new tensor. All ranks must call it with equal shapes."""
        buffer = self._bytes[: x.numel() * x.element_size()].view(x.dtype).view(x.shape)
        return torch.ops.symm_mem.one_shot_all_reduce_copy(buffer, x, "sum", self._name)


def open_peer_reduce(group: dist.ProcessGroup, device: torch.device) -> PeerReduce | None:
    """One for this group, if it works on every rank; it is tried once, so that no step has to find out."""
    peer: PeerReduce | None = None
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    try:
        peer = PeerReduce(group, device)
        total = peer.sum(torch.full((1024,), float(rank + 1), dtype=torch.bfloat16, device=device))
        works = bool((total == size * (size + 1) / 2).all())
    except (RuntimeError, AttributeError) as error:
        works = False
        log.info("the GPUs' memory cannot be shared: %s", str(error).splitlines()[0][:200])
    agreed = torch.tensor([int(works)], device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN, group=group)
    if not bool(agreed.item()):
        log.info("small all-reduces go through NCCL")
        return None
    return peer
