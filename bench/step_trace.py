"""What a trace of steps says: where the device's time went, and where the host waited for it. Pure.

Times are microseconds on one clock.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LAUNCH, READ, ELSEWHERE = "launch", "read", "elsewhere"
"""Where a host call was made: within Runner.launch, which planning and the next step wait for; within
StepHandle.result, which waits for a finished step's ids while the next one runs; or in neither."""

IDLE, OTHER = "idle", "other"
PRODUCTS, ATTENTION, LAYERS, SAMPLING, SUMS, COPIES = (
    "products", "attention", "norm_rope_silu_embedding", "sampling", "sums_over_ranks", "copies",
)  # fmt: skip
KINDS = (PRODUCTS, ATTENTION, LAYERS, SAMPLING, SUMS, COPIES, OTHER)
"""A norm, SiLU or addition fused into a product counts as the product, a norm fused into a sum as the sum."""

# The first that is found in a kernel's name. Ours are whole names; gather_kernel is two kernels' name, and other.
_PATTERNS = (
    (SUMS, r"nccl|rank_sum_rms_norm_kernel"),
    (ATTENTION, r"\b(decode|prefill|hopper_prefill|work)_kernel\b|flash|fmha"),
    (SAMPLING, r"\b(partial|finish|bias|process|bound|contest|measure)_kernel\b"),
    (LAYERS, r"\b(rms_norm|rope_and_store|silu_and_mul|embedding)_kernel\b"),
    (PRODUCTS, r"\b(gemv|skinny)_kernel\b|gemm|nvjet|cutlass|cublas|xmma|splitK"),
    (COPIES, r"^Mem(cpy|set)"),
)

# Calls that return when the device has done something, or that may wait for all of it.
_WAITS = re.compile(
    r"Synchronize|^(cudaMemcpy|cuMemcpy)(2D|DtoH|HtoD)?(_v\d+)?$"
    r"|^cuda(Malloc|Free|MallocHost|HostAlloc|FreeHost)(_v\d+)?$|^cuMem(Alloc|Free)"
)
WAITED_US = 20.0
"""A call that lasts longer had to wait; one that finds its event past returns at once."""
# The edges of a trace, in which the pipeline fills and drains: the middle is the steady state.
_MIDDLE = (0.2, 0.8)


@dataclass(frozen=True, slots=True)
class Span:
    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Of ``steps`` steps: what ran on the device, the host's calls of CUDA, and its ranges LAUNCH and READ."""

    steps: int
    device: Sequence[Span]
    calls: Sequence[Span]
    ranges: Sequence[Span]


def kind_of(kernel: str) -> str:
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, kernel)), OTHER)


def breakdown(trace: Trace) -> dict[str, Any] | None:
    """Milliseconds of a steady step by kind, which with those of no kernel are the step, and the share that was busy.

    Where kernels overlap, the time is that of the one that began first. None if nothing ran on a device.
    """
    if not trace.device:
        return None
    spans = sorted(trace.device, key=lambda span: span.start)
    first, last = spans[0].start, max(span.end for span in spans)
    low, high = (first + share * (last - first) for share in _MIDDLE)
    took, reached = dict.fromkeys(KINDS, 0.0), low
    for span in spans:
        start, end = max(span.start, reached), min(span.end, high)
        if end > start:
            took[kind_of(span.name)] += end - start
            reached = end
    took[IDLE] = (high - low) - sum(took.values())
    steps = trace.steps * (_MIDDLE[1] - _MIDDLE[0])
    return {
        "busy": round(1 - took[IDLE] / (high - low), 5),
        "ms": {kind: round(us / steps / 1e3, 4) for kind, us in took.items()},
        "kernels_per_step": round(len(spans) / trace.steps, 1),
    }


def longest_kernels(trace: Trace, count: int) -> list[dict[str, Any]]:
    """The kernels that took most, with what each took in a step: their own times, overlaps included."""
    totals: dict[str, list[float]] = defaultdict(list)
    for span in trace.device:
        totals[span.name].append(span.end - span.start)
    most = sorted(totals.items(), key=lambda item: -sum(item[1]))[:count]
    return [
        {
            "name": name[:100],
            "kind": kind_of(name),
            "us_per_step": round(sum(times) / trace.steps, 2),
            "per_step": round(len(times) / trace.steps, 2),
        }
        for name, times in most
    ]


def host_syncs(trace: Trace) -> dict[str, Any]:
    """Calls that wait for the device, by where they were made and by name; and copies from memory that is not pinned,
    for which the host waits too."""
    found: dict[str, dict[str, list[float]]] = {
        place: defaultdict(list) for place in (LAUNCH, READ, ELSEWHERE)
    }
    for call in waiting_calls(trace.calls):
        place = next((r.name for r in trace.ranges if r.start <= call.start <= r.end), ELSEWHERE)
        found[place][call.name].append(call.end - call.start)
    summary: dict[str, Any] = {
        place: {name: _summary(times, trace.steps) for name, times in sorted(names.items())}
        for place, names in found.items()
    }
    pageable = sum("Pageable" in span.name for span in trace.device)
    return summary | {"pageable_copies_per_step": round(pageable / trace.steps, 3)}


def waiting_calls(calls: Iterable[Span]) -> list[Span]:
    return [call for call in calls if _WAITS.search(call.name)]


def _summary(times: Sequence[float], steps: int) -> dict[str, float]:
    return {
        "per_step": round(len(times) / steps, 3),
        "waited_per_step": round(sum(time > WAITED_US for time in times) / steps, 3),
        "us_per_step": round(sum(times) / steps, 2),
        "longest_us": round(max(times), 2),
    }
