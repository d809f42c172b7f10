"""Memory that the ranks' GPUs map into one another: what `kernels.rank_sum` works on.

PyTorch's symmetric memory maps it; it needs peer access between the GPUs, and no NVLink multicast.
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.norm import rms_norm
from kernels.rank_sum import (
    AREAS,
    FEW_TOKENS,
    PeerMemory,
    programs_that_fit,
    rank_sum_rms_norm,
)

log = logging.getLogger(__name__)

CAPACITY = 32 << 20
"""Bytes of a residual stream: 3,276 tokens of 5,120 numbers in bfloat16. Above it NCCL is as fast."""


def map_peer_memory(group: dist.ProcessGroup, device: torch.device) -> PeerMemory:
    """A buffer on every rank, mapped into all of them. Raises RuntimeError where the GPUs cannot. A collective."""
    import torch.distributed._symmetric_memory as symmetric_memory  # costs each start 0.2 s; few need it

    ranks = dist.get_world_size(group)
    if ranks & (ranks - 1):
        raise RuntimeError(f"{ranks} ranks are no power of two")
    buffer = symmetric_memory.empty(
        PeerMemory.bytes_needed(ranks, CAPACITY), dtype=torch.uint8, device=device
    )
    buffer.zero_()
    handle = symmetric_memory.rendezvous(buffer, group.group_name)
    bases = torch.tensor(handle.buffer_ptrs, dtype=torch.int64, device=device)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    fewest = torch.tensor([multiprocessors], device=device)
    dist.all_reduce(fewest, dist.ReduceOp.MIN, group=group)
    dist.barrier(group, device_ids=[device.index])  # every rank's signals are zeros from here on
    return PeerMemory(bases, buffer, dist.get_rank(group), CAPACITY, programs_that_fit(int(fewest.item())))


def open_peer_memory(group: dist.ProcessGroup, device: torch.device) -> PeerMemory | None:
    """Such memory, if it works on every rank; it is tried once, so that no step has to find out. A collective."""
    memory: PeerMemory | None = None
    try:
        memory = map_peer_memory(group, device)
        problem = ""
    except (RuntimeError, AttributeError) as error:
        problem = str(error).splitlines()[0][:200]
    if _on_all_ranks(not problem, group, device) and memory is not None:
        problem = "" if _sums_right(memory, device) else "a sum over it was wrong"
        if _on_all_ranks(not problem, group, device):
            return memory
    log.info("sums over ranks go through NCCL: %s", problem or "another rank cannot share its memory")
    return None


def _sums_right(memory: PeerMemory, device: torch.device) -> bool:
    """Whether sums of few and of many tokens, each rank's known to the others, come out right on this rank."""
    works = True
    weight = torch.ones(64, dtype=torch.bfloat16, device=device)
    for tokens in (3, FEW_TOKENS + 3):
        stream = torch.arange(64.0 * tokens, device=device).view(tokens, 64).to(torch.bfloat16)
        parts = [(rank + 1) * stream.flip(rank % 2) for rank in range(memory.ranks)]
        expected = rms_norm(sum(parts, stream), weight, 1e-6)
        for area in range(AREAS):
            memory.partial(stream, area).copy_(parts[memory.rank])
            found = rank_sum_rms_norm(memory, stream.clone(), weight, 1e-6, area)
            works &= torch.allclose(found, expected, atol=0.03)
    return works


def _on_all_ranks(works: bool, group: dist.ProcessGroup, device: torch.device) -> bool:
    agreed = torch.tensor([int(works)], device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN, group=group)
    return bool(agreed.item())


def holds(memory: PeerMemory, stream: Tensor) -> bool:
    """Whether a residual stream [T, H] fits, in rows that the kernel can load by 16 bytes."""
    size = stream.element_size()
    return stream.numel() * size <= memory.capacity and stream.shape[1] * size % 16 == 0
