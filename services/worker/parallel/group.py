"""The ranks of one model: who this process is among them, and the two collectives that layers need."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.rank_sum import PeerMemory
from services.worker.parallel.peer import holds, open_peer_memory


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """Handed to every layer that is split over ranks. With size 1 no collective runs.

    `group` is None exactly if size is 1. `peer` is None where the GPUs cannot read each other's memory.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    peer: PeerMemory | None = None

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of x over the ranks; x may be overwritten with it."""
        if self.group is not None:
            dist.all_reduce(x, group=self.group)
        return x

    def shared_memory(self, stream: Tensor) -> PeerMemory | None:
        """What the ranks share, if it holds a residual stream like this one."""
        return self.peer if self.peer is not None and holds(self.peer, stream) else None

    def all_gather(self, x: Tensor) -> Tensor:
        """Joins the ranks' [R, n] along the last dimension, in rank order: [R, n * size]."""
        if self.group is None:
            return x
        parts = x.new_empty((self.size, *x.shape))
        # torch 2.13 renamed it and warns about the old name, which is the only one that 2.11 has.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(parts.view(self.size * x.shape[0], *x.shape[1:]), x.contiguous(), self.group)
        return parts.movedim(0, -2).reshape(*x.shape[:-1], self.size * x.shape[-1])

    def smallest(self, value: int, device: torch.device) -> int:
        """The least of the ranks' values. Waits for the device: not for use in steps."""
        if self.group is None:
            return value
        agreed = torch.tensor([value], dtype=torch.int64, device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN, group=self.group)
        return int(agreed.item())


# Between two ranks' arrival at a collective, longer than this means that one is gone.
COLLECTIVE_TIMEOUT = timedelta(seconds=120)


def join(
    rank: int, size: int, store: dist.Store, device: torch.device, *, use_peer_memory: bool = True
) -> TensorParallel:
    """Sets up the process group over `store`: nccl for cuda, gloo for cpu. Called once per process."""
    if size == 1:
        return TensorParallel()
    backend = "nccl" if device.type == "cuda" else "gloo"
    device_id = device if device.type == "cuda" else None
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, device_id=device_id, timeout=COLLECTIVE_TIMEOUT
    )
    group = dist.group.WORLD
    assert group is not None  # it was made by the call above
    peer = open_peer_memory(group, device) if device.type == "cuda" and use_peer_memory else None
    return TensorParallel(rank, size, group, peer)
