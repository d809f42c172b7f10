"""The model alone: ``python -m bench.gpu_smoke [--shapes qwen3-0.6b llama-3-8b] [--batches 1 32 256] [--tp 4]``.

Per shape, with made-up weights: how long a start takes, and of it the capture of graphs, and their bytes. Per batch, with
the next step launched before the last is read: ms per decode step and where they go (of a trace's middle, so that the
kinds and "idle" sum up to a step of the traced run), the share of the time that the GPU is busy, the host's time inside
launch(), its waits for the device inside launch() and outside, prefill, and what other kinds of sampling cost. At last
greedy tokens with captured graphs against those of steps launched kernel by kernel.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench import shapes
from bench.conditions import conditions, write
from bench.driver import DecodeBatch
from bench.step_trace import ELSEWHERE, IDLE, KINDS, LAUNCH, READ, breakdown, host_syncs, longest_kernels
from bench.traced import RangedRunner, known_waits, trace
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import SlotSampling
from services.worker.runner.start import start_runner

TRACED_STEPS = 24
WARM_STEPS = 10
# Kinds of sampling are compared over so short a context that a prefill costs nothing.
KINDS_CONTEXT, KINDS_STEPS = 16, 32
KINDS_OF_SAMPLING = {
    "greedy": SlotSampling(),
    "temperature": SlotSampling(temperature=0.8, seed=1),
    "top-p and top-k": SlotSampling(temperature=0.8, top_p=0.9, top_k=50, seed=1),
    "penalty": SlotSampling(temperature=0.8, frequency_penalty=0.5, seed=1),
    "logprobs": SlotSampling(logprobs=5),
}


def free_bytes() -> int | None:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


@contextmanager
def timed_capture(found: dict[str, Any]) -> Iterator[None]:
    """Notes how long a start inside takes to capture this rank's graphs, and what they leave of the GPU's memory."""
    capture = ModelRunner.capture_graphs

    def timed(self: ModelRunner, sizes: list[int], mixed: list[Any]) -> None:
        free, began = free_bytes(), time.perf_counter()
        capture(self, sizes, mixed)
        torch.cuda.synchronize()
        found["capture_s"] = round(time.perf_counter() - began, 3)
        found["captured_sizes"] = [len(sizes), len(mixed)]
        found["capture_bytes"] = (free or 0) - (free_bytes() or 0)

    with patch.object(ModelRunner, "capture_graphs", timed):
        yield


def start(config: RunnerConfig) -> tuple[Runner, dict[str, Any]]:
    found: dict[str, Any] = {"captured": config.cudagraph and torch.cuda.is_available()}
    began = time.perf_counter()
    with timed_capture(found):
        runner = start_runner(config)
    found |= {"start_s": round(time.perf_counter() - began, 2), "num_blocks": runner.info.num_blocks}
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return runner, found


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    picked = {
        "p50": statistics.median(ordered),
        "p99": ordered[int(0.99 * len(ordered))],
        "max": ordered[-1],
    }
    return {name: round(1e3 * value, 4) for name, value in picked.items()}


def where_time_goes(run: Callable[[int], object], steps: int) -> dict[str, Any]:
    """Of run(steps), which drives a RangedRunner."""
    found = trace(run, steps)
    steady = breakdown(found)
    if steady is None:
        return {"trace": "absent: nothing ran on a GPU"}
    return {"steady": steady, "host_syncs": host_syncs(found), "longest_kernels": longest_kernels(found, 16)}


def bench_batch(
    runner: Runner, rows: int, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[list[int]]]:
    """Figures of a batch, and the ids that its timed steps drew."""
    steps, context = arguments.steps, arguments.context
    batch = DecodeBatch(runner, rows, context, steps + WARM_STEPS + TRACED_STEPS, SlotSampling())
    first = batch.prefill()
    again = min(batch.prefill() for _ in range(3 if rows == 1 else 1))
    batch.decode(WARM_STEPS)
    timings = batch.decode(steps)
    found: dict[str, Any] = {
        "rows": rows,
        "context": context,
        "step_ms": round(1e3 * timings.step, 4),
        "tokens_per_s": round(rows / timings.step, 1),
        "launch_ms": quantiles_ms(timings.host),
        "prefill_ms": {"first": round(1e3 * first, 2), "again": round(1e3 * again, 2)},
    }
    if not arguments.no_trace:
        found |= where_time_goes(batch.through(RangedRunner(runner)).decode, TRACED_STEPS)
    return found, timings.tokens


def bench_sampling(runner: Runner, rows: int) -> dict[str, float]:
    """Milliseconds per step over short contexts, by kind of sampling."""
    found = {}
    for name, sampling in KINDS_OF_SAMPLING.items():
        batch = DecodeBatch(runner, rows, KINDS_CONTEXT, KINDS_STEPS + WARM_STEPS, sampling)
        batch.prefill()
        batch.decode(WARM_STEPS)
        found[name] = round(1e3 * batch.decode(KINDS_STEPS).step, 4)
    return found


def show_batch(found: dict[str, Any]) -> None:
    print(
        f"batch {found['rows']:3} at {found['context']}: {found['step_ms']:.3f} ms/step, "
        f"{found['tokens_per_s']:,.0f} tokens/s; launch() {found['launch_ms']}; prefill {found['prefill_ms']}"
    )
    print(f"   ms/step over contexts of {KINDS_CONTEXT}: {found['sampling_ms']}")
    if steady := found.get("steady"):
        columns = ", ".join(f"{kind} {steady['ms'][kind]:.3f}" for kind in (*KINDS, IDLE))
        print(f"   GPU busy {steady['busy']:.1%}; ms: {columns}")
        for place in (LAUNCH, READ, ELSEWHERE):
            print(f"   waits of the host in {place}: {found['host_syncs'][place] or 'none'}")
    for kernel in found.get("longest_kernels", []):
        print(f"   {kernel['us_per_step']:9.1f} us/step {kernel['per_step']:7.1f} x  {kernel['name']}")


def bench_shape(
    name: str, folder: Path, arguments: argparse.Namespace, shape: dict[str, Any], save: Callable[[], None]
) -> None:
    """Fills ``shape``, and saves after each batch: a run that is cut keeps what it has."""
    config = RunnerConfig(
        str(shapes.model_dir(name, folder)),
        load_format="dummy",
        tp=arguments.tp,
        mem_fraction=arguments.mem_fraction,
    )
    print(f"\n## {name}, tp {arguments.tp}, dummy weights")
    shape |= {"shape": name, "tp": arguments.tp}
    runner, shape["start"] = start(config)
    shape["dtype"] = runner.info.dtype
    shape["batches"], drawn = [], []
    for rows in arguments.batches:
        found, tokens = bench_batch(runner, rows, arguments)
        found["sampling_ms"] = bench_sampling(runner, rows)
        show_batch(found)
        shape["batches"].append(found)
        drawn.append(tokens)
        save()
    runner.close()
    if arguments.tp == 1:  # one process group per process
        del runner
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        shape["eager"] = bench_eager(config, arguments, drawn[0])
        save()


def bench_eager(
    config: RunnerConfig, arguments: argparse.Namespace, drawn: list[list[int]]
) -> dict[str, Any]:
    """The first batch launched kernel by kernel, and how many of its steps draw what captured ones drew."""
    runner, started = start(replace(config, cudagraph=False))
    rows, steps = arguments.batches[0], arguments.steps
    batch = DecodeBatch(runner, rows, arguments.context, steps + WARM_STEPS + TRACED_STEPS, SlotSampling())
    batch.prefill()
    batch.decode(WARM_STEPS)
    timings = batch.decode(steps)
    runner.close()
    same = sum(a == b for a, b in zip(timings.tokens, drawn, strict=True))
    print(
        f"kernel by kernel: {1e3 * timings.step:.3f} ms/step; greedy tokens equal in {same} of {steps} steps"
    )
    step_ms = round(1e3 * timings.step, 4)
    return {"start": started, "rows": rows, "step_ms": step_ms, "equal_steps": same, "steps": steps}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=shapes.NAMES, default=["qwen3-0.6b", "llama-3-8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--mem_fraction", type=float, default=0.8)
    parser.add_argument("--no_trace", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse(sys.argv[1:])
    report = conditions("python -m bench.gpu_smoke") | {"known_waits": known_waits(), "shapes": []}
    print(report["machine"], report["versions"], "commit", report["commit"])
    print("waits made on purpose and seen by the profiler:", report["known_waits"])

    def save() -> None:
        if arguments.json:
            write(arguments.json, report)

    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.shapes:
            report["shapes"].append({})
            bench_shape(name, Path(folder), arguments, report["shapes"][-1], save)


if __name__ == "__main__":
    main()
