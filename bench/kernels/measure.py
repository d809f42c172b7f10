"""What is measured and how: groups of variants, checked against float64, timed by graph replays.

Times are medians of CUDA graph replays that rotate over input sets larger together than the L2 cache. The two
limits are bytes over the measured copy rate of an H200 and operations over its measured bf16 matrix rate.
"""

from __future__ import annotations

import os
import statistics
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.pdl import pdl_supported

BYTES_PER_US = 4.45e6
FLOP_PER_US = 700e6
L2_BYTES = 60e6
REPLAYS = 15


@dataclass(frozen=True)
class Variant:
    """One implementation. `run(inputs)` returns its output; `config` is what a tuned table would hold."""

    name: str
    run: Callable[[Any], torch.Tensor]
    config: dict[str, Any] | None = None
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Variants of one operation on one shape.

    make(seed) gives one set of random inputs; answer(inputs) the float64 result, None to skip the check. `key` names
    the entry of the tuned table that the group's winner decides.
    """

    op: str
    shape: str
    variants: Sequence[Variant]
    make: Callable[[int], Any]
    answer: Callable[[Any], torch.Tensor] | None
    bytes: float = 0.0
    flops: float = 0.0
    set_bytes: float = 0.0
    tolerance: float = 2e-2
    timed: bool = True
    key: str = ""
    tokens: int = 0
    prepare: Callable[[Any], None] | None = None  # restores inputs that a run changes in place
    view: Callable[[Any, torch.Tensor], torch.Tensor] | None = (
        None  # what of (inputs, output) the answer is about
    )

    @property
    def limit_us(self) -> float:
        return max(self.bytes / BYTES_PER_US, self.flops / FLOP_PER_US)


def apply_env(variant: Variant) -> None:
    """Set the variant's switches, all others to their defaults."""
    os.environ["SHOAL_PDL"] = variant.env.get("SHOAL_PDL", "1")
    pdl_supported.cache_clear()


def check(group: Group, variant: Variant) -> dict[str, Any]:
    """Relative error of one variant on fresh inputs whose fresh outputs are filled with NaN before the run."""
    row = {"op": group.op, "shape": group.shape, "variant": variant.name}
    try:
        apply_env(variant)
        if group.answer is None:
            variant.run(group.make(1))
            torch.cuda.synchronize()
            return row | {"ok": True}
        inputs = group.make(1)
        answer = group.answer(inputs).double()
        if group.prepare:
            group.prepare(inputs)
        out = variant.run(inputs)
        out = (group.view(inputs, out) if group.view else out).double()
        error = float((out - answer).norm() / answer.norm().clamp(min=1e-30))
        return row | {"error": error, "ok": error < group.tolerance}
    except Exception as exception:  # a variant that cannot run must not end the others
        return row | {"ok": False, "exception": "".join(traceback.format_exception_only(exception))[-600:]}


def time_us(run: Callable[[Any], Any], sets: Sequence[Any]) -> tuple[float, float]:
    """Median and least microseconds per call, from replays of one graph of calls that rotate over `sets`."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for inputs in sets[:2]:
            run(inputs)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run(sets[0])
        end.record()
        end.synchronize()
        once = begin.elapsed_time(end) * 1e3
        calls = int(min(max(2000.0 / max(once, 1.0), len(sets), 3), 200))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in range(calls):
                run(sets[call % len(sets)])
        times = []
        for replay in range(REPLAYS + 2):
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if replay >= 2:
                times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times), min(times)


def time_group(group: Group, right: set[str]) -> list[dict[str, Any]]:
    """Time the variants named in `right`, twice each in turn, so that the spread shows."""
    count = int(min(max(2.5 * L2_BYTES // max(group.set_bytes or group.bytes, 1.0) + 1, 2), 64))
    sets = [group.make(seed + 2) for seed in range(count)]
    rows = []
    for variant in group.variants:
        row: dict[str, Any] = {"op": group.op, "shape": group.shape, "variant": variant.name}
        if variant.name not in right:
            continue
        try:
            apply_env(variant)
            median, least = time_us(variant.run, sets)
            row |= {"us": median, "least_us": least, "limit_us": group.limit_us}
            row |= {"TB_per_s": group.bytes / median / 1e6, "TFLOP_per_s": group.flops / median / 1e6}
        except Exception as exception:  # as above
            row["exception"] = "".join(traceback.format_exception_only(exception))[-600:]
            torch.cuda.synchronize()
        rows.append(row)
    return rows
