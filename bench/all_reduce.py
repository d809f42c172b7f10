"""All-reduce over one host's GPUs: NCCL against reading peers' memory: ``python -m bench.all_reduce [--ranks 4]``.

Microseconds per call inside a CUDA graph of 64, median of 20 replays, bf16.
"""

from __future__ import annotations

import argparse
import os
import statistics

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from services.worker.parallel.peer import MAX_BYTES, open_peer_reduce

CALLS = 64


def time_us(call, x: torch.Tensor) -> float:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(CALLS):
            call(x)
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


def run(rank: int, ranks: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, device_id=device)
    peer = open_peer_reduce(dist.group.WORLD, device)
    for size in (10 << 10, 40 << 10, 160 << 10, 320 << 10, 512 << 10, 1 << 20, 5 << 19, 4 << 20, 20 << 20):
        x = torch.zeros(size // 2, dtype=torch.bfloat16, device=device)
        nccl = time_us(dist.all_reduce, x)
        ours = [float("nan")] * 2
        if peer is not None and size <= MAX_BYTES:
            ours = [time_us(call, x) for call in (peer.one_shot, peer.two_shot)]
        if rank == 0:
            print(
                f"{size / 1024:7.0f} KiB over {ranks}: NCCL {nccl:6.1f} us, "
                f"peer memory {ours[0]:6.1f} us in one shot, {ours[1]:6.1f} us in two",
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    parser.add_argument("--port", type=int, default=29511)
    arguments = parser.parse_args()
    mp.spawn(run, (arguments.ranks, arguments.port), arguments.ranks)


if __name__ == "__main__":
    main()
