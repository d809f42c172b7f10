"""Where ModelRunner.launch spends its time: ``python -m bench.host_step --inside [--batches 1 256]``.

Two tables, in microseconds. The parts of a launch, in turns of the real engine as in bench.host_step (each part holds
about half a microsecond of its own clock; a graph's part is its replay):

    placing      SlotTable, SlotParameters and decode_values: a step's numbers
    packing      Staging.pack without the next two
    to device    the copy of the packed numbers
    its event    waiting for a buffer's last copy, recording this one
    forward      replay of the first graph
    sampling     replay of the second
    handle       DeviceHandle: the ids' copy to the host and its event
    rest         what is left of launch

And, on a GPU, what each kind of call costs by itself, with nothing under way on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from bench import host_step
from services.worker.runner import model_runner

PARTS = ("placing", "packing", "to device", "its event", "forward", "sampling", "handle", "rest", "launch")
_INSIDE = ("placing", "staging", "forward", "sampling", "handle")


def instrument(runner: Any, watch: host_step.Stopwatch) -> Callable[[], None]:
    """Times the runner's parts; returns what undoes it, since two of them are names of the runner's module."""

    def time_calls(of: Any, **parts: str) -> None:
        for name, part in parts.items():
            setattr(of, name, watch.timed(part, getattr(of, name)))

    module: Any = model_runner
    found = {name: getattr(module, name) for name in ("DeviceHandle", "decode_values")}
    time_calls(module, DeviceHandle="handle", decode_values="placing")
    # Of these only the bench's own instances are changed.
    time_calls(runner, launch="launch")
    time_calls(runner._table, write_blocks="placing", place_decodes="placing")
    time_calls(runner._parameters, take_features="placing", advance="placing")
    time_calls(runner._decode_graphs, forward="forward", finish="sampling")
    staging = runner._staging
    time_calls(staging, pack="staging")
    # A layout that is made later, for table writes, keeps its copy within "packing".
    for layout in staging._layouts.values():
        for target, _ in layout.copies:
            time_calls(target, copy_="to device")
    for event in staging._copied:
        if event is not None:
            time_calls(event, query="its event", synchronize="its event", record="its event")

    def undo() -> None:
        for name, value in found.items():
            setattr(module, name, value)

    return undo


def parts(rows: int, steps: int, device: torch.device, quantile: float) -> dict[str, float]:
    bench = host_step.Bench(rows, device, is_timed=False)
    runner: Any = bench.engine._runner
    bench.run(steps // 4)  # all layouts and events are there
    undo = instrument(runner, bench.watch)
    try:
        samples = [_shares(sample) for sample in bench.run(steps)]
    finally:
        undo()
        bench.close()
    return {part: sorted(s[part] for s in samples)[int(quantile * steps)] * 1e6 for part in PARTS}


def _shares(sample: dict[str, float]) -> dict[str, float]:
    """The parts of a step's launch, without what lies in one another."""
    shares = dict.fromkeys(PARTS, 0.0) | sample
    shares["packing"] = sample["staging"] - shares["to device"] - shares["its event"]
    shares["rest"] = sample["launch"] - sum(sample.get(part, 0.0) for part in _INSIDE)
    return shares


def calls(repeats: int = 2000) -> dict[str, float]:
    """Each call's p50 with the device idle before it; a replayed graph is one of so many kernels."""
    device = torch.device("cuda")
    with torch.inference_mode():
        pinned = torch.zeros(2048, dtype=torch.uint8, pin_memory=True)
        target = torch.zeros(2048, dtype=torch.uint8, device=device)
        ids, host_ids = torch.zeros(1, dtype=torch.int64, device=device), pinned[:8].view(torch.int64)
        row, values = target[:1].clone(), torch.zeros(64, device=device)
        event, stream = torch.cuda.Event(), torch.cuda.current_stream()
        event.record()
        measured: dict[str, Callable[[], Any]] = {
            "an empty call": lambda: None,
            "inference_mode()": torch.inference_mode()(lambda: None),
            "copy_ to device, 2 KiB": lambda: target.copy_(pinned, non_blocking=True),
            "copy_ to host, one id": lambda: host_ids.copy_(ids, non_blocking=True),
            "empty, pinned, and its end": lambda: torch.empty(1, dtype=torch.int64, pin_memory=True),
            "... copied into": lambda: torch.empty(1, dtype=torch.int64, pin_memory=True).copy_(
                ids, non_blocking=True
            ),
            "current_stream": torch.cuda.current_stream,
            "Event() and record()": lambda: torch.cuda.Event().record(),
            "record()": event.record,
            "record(stream)": lambda: event.record(stream),
            "synchronize, when done": event.synchronize,
            "index_copy_": lambda: target.index_copy_(0, ids, row),
            "a view [:1]": lambda: target[:1],
        } | {
            f"replay of {kernels} kernels": _graph(values, kernels).replay
            for kernels in (1, 2, 4, 50, 200, 400)
        }
        return {name: _p50(call, repeats) for name, call in measured.items()}


def _graph(values: torch.Tensor, kernels: int) -> torch.cuda.CUDAGraph:
    values.add_(1)  # loads the kernel, which a capture may not do
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            values.add_(1)
    return graph


def _p50(call: Callable[[], Any], repeats: int) -> float:
    for _ in range(20):
        call()
    found = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return sorted(found)[repeats // 2] * 1e6


def report(batches: list[int], steps: int, device: torch.device, quantile: float) -> dict[str, Any]:
    """Prints both tables and returns them."""
    print("batch  " + "".join(f"{part:>10}" for part in PARTS))
    found: dict[str, Any] = {"inside": {}}
    for rows in batches:
        found["inside"][rows] = of = parts(rows, steps, device, quantile)
        print(f"{rows:5}  " + "".join(f"{of[part]:10.1f}" for part in PARTS), flush=True)
    if device.type == "cuda":
        found["calls"] = calls()
        print("\n".join(f"{name:28}{us:8.1f}" for name, us in found["calls"].items()))
    return found
