"""Sums over one host's GPUs, added to the residual stream and normalised: ``python -m bench.all_reduce [--ranks 4] [--json FILE]``.

NCCL and a norm against one kernel over shared memory (`kernels/rank_sum`), as it was before and in the forms that are
being tried, each of which is checked first. Microseconds per call inside a CUDA graph of 64; median and least of 20
rounds, in each of which every form has its turn, bf16. The limit is what a link must carry at least, 2 (ranks - 1) /
ranks of the stream, at 450 GB/s: NCCL's authors reckon with a fifth of that for the protocol.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bench.conditions import conditions, write
from bench.kernels.rank_sum_before import rank_sum_rms_norm_triton as sum_before
from kernels.norm import rms_norm
from kernels.rank_sum import AREAS, FEW_TOKENS, PeerMemory, reference
from kernels.rank_sum.kernel import Form, rank_sum_rms_norm_triton
from services.worker.parallel.peer import holds, open_peer_memory

CALLS = 64
ROUNDS = 20
LINK = 450e9
NCCL = "NCCL and norm"


@dataclass(frozen=True)
class Way:
    """One way to sum; without a form, the kernel as it was.

    Two programs a multiprocessor always fit if they have 4 warps, or 8 and 128 registers a thread.
    """

    form: Form | None
    programs_a_multiprocessor: int = 1

    def __call__(self, memory: PeerMemory, stream: Tensor, weight: Tensor, area: int) -> Tensor:
        memory = replace(memory, max_programs=self.programs_a_multiprocessor * memory.max_programs)
        shared_out = stream.shape[0] > FEW_TOKENS
        if self.form is None:
            return sum_before(memory, stream, weight, 1e-6, area, shared_out)
        return rank_sum_rms_norm_triton(memory, stream, weight, 1e-6, area, shared_out, form=self.form)

    def twice(self, memory: PeerMemory, stream: Tensor, weight: Tensor) -> None:
        for area in range(AREAS):
            self(memory, stream, weight, area)


FEW = {
    "before": Way(None),
    "early addresses": Way(Form(ahead=False, neighbour_first=False)),
    "early addresses, neighbour first": Way(Form(ahead=False)),
}
MANY = FEW | {
    "ahead": Way(Form(neighbour_first=False)),
    "ahead, neighbour first": Way(Form()),
    "ahead, neighbour first, 16 warps": Way(Form(warps=16)),
    "ahead, neighbour first, 4 warps": Way(Form(warps=4)),
    "ahead, neighbour first, 4 warps, 256 programs": Way(Form(warps=4), 2),
    "neighbour first, 256 programs": Way(Form(ahead=False, options={"maxnreg": 128}), 2),
    "neighbour first, copies one ahead": Way(Form(ahead=False, stages=2)),
    "neighbour first, copies two ahead": Way(Form(ahead=False, stages=3)),
}


def captured(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(CALLS):
            call()
        graph.capture_end()
    return graph


def times_us(graphs: dict[str, torch.cuda.CUDAGraph]) -> dict[str, list[float]]:
    """Of each graph, microseconds per captured call, one a round."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            dist.barrier()
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end) / CALLS * 1e3)
    return times


def nccl_and_norm(x: Tensor, stream: Tensor, weight: Tensor) -> None:
    dist.all_reduce(x)
    rms_norm(x, weight, 1e-6, stream)


def check(memory: PeerMemory, tokens: int, width: int, ways: dict[str, Way]) -> dict[str, str]:
    """What is to be said of each way's answers in both areas, on all ranks together: nothing is well."""
    device = memory.bases.device
    generator = torch.Generator(device).manual_seed(tokens)  # the same numbers on every rank
    partials, stream, weight = (
        torch.randn(shape, generator=generator, device=device).to(torch.bfloat16)
        for shape in ((memory.ranks, tokens, width), (tokens, width), (width,))
    )
    normalised, summed = reference.rank_sum_rms_norm(partials, stream, weight, 1e-6)
    own = reference.share_of(memory.rank, memory.ranks, tokens) if tokens > FEW_TOKENS else slice(None)
    said: dict[str, str] = {}
    before: list[Tensor] = []  # the first way's
    for name, way in ways.items():
        answers: list[Tensor] = []
        for area in range(AREAS):
            memory.partial(stream, area).copy_(partials[memory.rank])
            mine = stream.clone()
            found = way(memory, mine, weight, area)
            answers += [found.clone(), mine[own]]
        before = before or answers
        pairs = zip(answers, (normalised, summed[own]) * AREAS, strict=True)
        right = all(torch.allclose(found, expected, atol=0.05, rtol=0.02) for found, expected in pairs)
        same = all(map(torch.equal, answers, before))
        agreed = torch.tensor([int(right), int(same)], device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
        right, same = agreed.tolist()
        said[name] = "WRONG" if not right else "" if same else "other bits than before"
    return said


def measured(memory: PeerMemory | None, tokens: int, width: int, device: torch.device) -> dict[str, Any]:
    """The figures of one number of tokens. A collective."""
    ranks = dist.get_world_size()
    stream = torch.zeros(tokens, width, dtype=torch.bfloat16, device=device)
    weight = torch.ones(width, dtype=torch.bfloat16, device=device)
    row: dict[str, Any] = {
        "tokens": tokens, "limit_us": 2 * (ranks - 1) / ranks * stream.numel() * 2 / LINK * 1e6,
    }  # fmt: skip
    graphs = {NCCL: captured(partial(nccl_and_norm, stream.clone(), stream, weight))}
    calls = {NCCL: 1}
    if memory is not None and holds(memory, stream):
        ways = FEW if tokens <= FEW_TOKENS else MANY
        row["answers"] = check(memory, tokens, width, ways)
        for name, way in ways.items():
            graphs[name] = captured(partial(way.twice, memory, stream, weight))
            calls[name] = AREAS
    times = times_us(graphs)
    row["us"] = {name: statistics.median(times[name]) / calls[name] for name in graphs}
    row["least_us"] = {name: min(times[name]) / calls[name] for name in graphs}
    return row


def run(rank: int, ranks: int, port: int, width: int, limit_s: float, file: Path | None) -> None:
    # Ranks that wait for one another on the GPU would never end.
    faulthandler.dump_traceback_later(limit_s, exit=True)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", rank=rank, world_size=ranks, device_id=device)
    memory = open_peer_memory(dist.group.WORLD, device)
    head = conditions("python -m bench.all_reduce") | {"ranks": ranks, "width": width} if rank == 0 else {}
    rows = []
    for tokens in (1024, 2048, 512, 32, 1):
        row = measured(memory, tokens, width, device)
        rows.append(row)
        if rank == 0:
            print(f"{tokens:5} tokens of {width} over {ranks}: limit {row['limit_us']:.1f} us", flush=True)
            for name, us in row["us"].items():
                said = row.get("answers", {}).get(name, "")
                print(f"      {us:7.2f} ({row['least_us'][name]:7.2f}) {name} {said}", flush=True)
            if file:
                write(file, head | {"rows": rows})
    dist.destroy_process_group()


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--width", type=int, default=5120)
    parser.add_argument(
        "--limit_s", type=float, default=75.0, help="after which every rank ends, whatever it does"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse(sys.argv[1:])
    faulthandler.dump_traceback_later(arguments.limit_s + 5, exit=True)
    options = (arguments.ranks, arguments.port, arguments.width, arguments.limit_s, arguments.json)
    mp.spawn(run, options, arguments.ranks)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
