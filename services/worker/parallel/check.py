"""``python -m services.worker.parallel.check BACKEND WORLD_SIZE``: does an all-reduce work on this machine?

Prints ``{"seconds": ..., "in_graph": ...}``; exits with 1 and the reason on stderr when a rank fails. With NCCL the
all-reduce is also captured in a CUDA graph and replayed, which is how the engine runs it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def main() -> int:
    backend, world_size = sys.argv[1], int(sys.argv[2])
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    try:
        mp.spawn(check_rank, args=(backend, world_size, port), nprocs=world_size)
    except Exception as error:
        print(str(error).strip().splitlines()[-1], file=sys.stderr)
        return 1
    print(json.dumps({"seconds": time.monotonic() - began, "in_graph": backend == "nccl"}))
    return 0


def check_rank(rank: int, backend: str, world_size: int, port: int) -> None:
    """One rank: sums rank numbers over all ranks, and raises where the sum is wrong."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    try:
        values = torch.full((1024,), float(rank), device=device)
        dist.all_reduce(values)
        _expect(values, world_size)
        if device.type == "cuda":
            _check_in_graph(rank, world_size, device)
    finally:
        dist.destroy_process_group()


def _check_in_graph(rank: int, world_size: int, device: torch.device) -> None:
    values = torch.empty(1024, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values.fill_(float(rank))
        dist.all_reduce(values)
    graph.replay()
    torch.cuda.synchronize()
    _expect(values, world_size)


def _expect(values: torch.Tensor, world_size: int) -> None:
    wanted = world_size * (world_size - 1) / 2
    if not bool((values == wanted).all()):
        raise RuntimeError(f"all-reduce gave {values[0].item()} where {wanted} is right")


if __name__ == "__main__":
    sys.exit(main())
