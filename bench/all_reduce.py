"""Sums over one host's GPUs, added to the residual stream and normalised: ``python -m bench.all_reduce [--ranks 4] [--json FILE]``.

NCCL and a norm against one kernel over shared memory (`kernels/rank_sum`), which is checked first. Microseconds
per call inside a CUDA graph of 64, median of 20 replays, bf16. The limit is what a link must carry at least,
2 (ranks - 1) / ranks of the stream, at 450 GB/s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bench.conditions import conditions, write
from kernels.norm import rms_norm
from kernels.rank_sum import AREAS, PeerMemory, reference
from kernels.rank_sum.kernel import rank_sum_rms_norm_triton
from services.worker.parallel.peer import holds, open_peer_memory

CALLS = 64
LINK = 450e9


def time_us(call: Callable[[], object]) -> float:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(CALLS):
            call()
        graph.capture_end()
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        dist.barrier()
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / CALLS * 1e3)
    return statistics.median(times)


def nccl_and_norm(x: Tensor, stream: Tensor, weight: Tensor) -> None:
    dist.all_reduce(x)
    rms_norm(x, weight, 1e-6, stream)


def sum_twice(memory: PeerMemory, stream: Tensor, weight: Tensor, shared_out: bool) -> None:
    for area in range(AREAS):
        rank_sum_rms_norm_triton(memory, stream, weight, 1e-6, area, shared_out)


def check(memory: PeerMemory, tokens: int, width: int, shared_out: bool) -> None:
    """Asserts that this rank gets the reference's answer in both areas."""
    device = memory.bases.device
    generator = torch.Generator(device).manual_seed(tokens)  # the same numbers on every rank
    partials, stream, weight = (
        torch.randn(shape, generator=generator, device=device).to(torch.bfloat16)
        for shape in ((memory.ranks, tokens, width), (tokens, width), (width,))
    )
    normalised, summed = reference.rank_sum_rms_norm(partials, stream, weight, 1e-6)
    own = reference.share_of(memory.rank, memory.ranks, tokens) if shared_out else slice(None)
    for area in range(AREAS):
        memory.partial(stream, area).copy_(partials[memory.rank])
        mine = stream.clone()
        found = rank_sum_rms_norm_triton(memory, mine, weight, 1e-6, area, shared_out)
        torch.testing.assert_close(found, normalised, atol=0.05, rtol=0.02)
        torch.testing.assert_close(mine[own], summed[own], atol=0.05, rtol=0.02)


def run(rank: int, ranks: int, port: int, width: int, file: Path | None) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, device_id=device)
    memory = open_peer_memory(dist.group.WORLD, device)
    weight = torch.ones(width, dtype=torch.bfloat16, device=device)
    rows = []
    for tokens in (1, 8, 32, 128, 256, 512, 1024, 2048):
        stream = torch.zeros(tokens, width, dtype=torch.bfloat16, device=device)
        times = {"NCCL and norm": time_us(partial(nccl_and_norm, stream.clone(), stream, weight))}
        if memory is not None and holds(memory, stream):
            for name, shared_out in (("every rank all tokens", False), ("tokens shared out", True)):
                check(memory, tokens, width, shared_out)
                pair = partial(sum_twice, memory, stream, weight, shared_out)
                times[name] = time_us(pair) / 2
        limit = 2 * (ranks - 1) / ranks * stream.numel() * 2 / LINK * 1e6
        rows.append({"tokens": tokens, "limit_us": limit, "us": times})
        if rank == 0:
            figures = ", ".join(f"{name} {us:.1f} us" for name, us in times.items())
            print(f"{tokens:5} tokens of {width} over {ranks}: {figures}; limit {limit:.1f}", flush=True)
    if rank == 0 and file:
        head = conditions("python -m bench.all_reduce") | {"ranks": ranks, "width": width}
        write(file, head | {"rows": rows})
    dist.destroy_process_group()


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--width", type=int, default=5120)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse(sys.argv[1:])
    options = (arguments.ranks, arguments.port, arguments.width, arguments.json)
    mp.spawn(run, options, arguments.ranks)


if __name__ == "__main__":
    main()
