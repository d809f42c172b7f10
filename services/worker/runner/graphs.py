"""CUDA graphs of whole steps, by size: decode steps by rows, and steps of one chunk by tokens.

A step's first graph runs from the last tokens to the final hidden states, its second from there to the drawn tokens.
The second exists once per kind of sampling; steps whose sampling is of no captured kind run it eagerly.
"""

from __future__ import annotations

import bisect
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from kernels.sampling import SampleOutput
from services.worker.sampling.parameters import Feature

Captured = TypeVar("Captured")

SAMPLING_KINDS = (0, Feature.TEMPERATURE, Feature.TEMPERATURE | Feature.TOP)


# A lone chunk of a prompt of up to so many tokens is replayed: launching its kernels one by one takes longer than they
# do. Padding wastes up to one step of this list; 512 tokens keep the device busy longer than launching takes.
CHUNK_SIZES = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)


def bucket_sizes(
    max_batch_size: int, split_batch_size: int, grow_step_size: int, max_slots: int
) -> list[int]:
    """Every size up to split_batch_size, then every grow_step_size-th; none above max_batch_size or max_slots."""
    largest = min(max_batch_size, max_slots)
    sizes = {*range(1, min(split_batch_size, largest) + 1), *range(split_batch_size, largest, grow_step_size)}
    return sorted(sizes | {largest}) if largest else []


@dataclass(frozen=True, slots=True)
class _Step:
    forward: torch.cuda.CUDAGraph
    hidden: Tensor
    samples: dict[int, tuple[torch.cuda.CUDAGraph, SampleOutput]]


class StepGraphs:
    """The graphs and their static results. All share one memory pool, so only one step's may be in use at a time."""

    def __init__(
        self,
        sizes: list[int],
        forward: Callable[[int], Tensor],
        finish: Callable[[int, Tensor, int], SampleOutput],
        before: Callable[[int], None],
    ) -> None:
        """Captures largest first, so that smaller graphs fit into memory that larger ones freed.

        forward(size) enqueues a step up to the hidden states of the rows that sample; finish(size, hidden, kind) draws from them;
        before(size) puts the inputs of a step of padding rows in place. Each is run once outside the capture:
        kernels are compiled and loaded there.
        """
        self._sizes = sizes
        self._steps: dict[int, _Step] = {}
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # A collection in mid-capture could free device objects, which a capture does not allow.
        gc.disable()
        try:
            with torch.cuda.stream(stream):
                for size in reversed(sizes):
                    before(size)
                    hidden = forward(size)
                    for kind in SAMPLING_KINDS:
                        finish(size, hidden, kind)
                    torch.cuda.synchronize()
                    self._steps[size] = _capture_step(size, forward, finish, pool)
        finally:
            gc.enable()
        torch.cuda.current_stream().wait_stream(stream)

    def bucket(self, count: int) -> int | None:
        """The smallest captured size that holds `count` rows or tokens, or None if there is none."""
        place = bisect.bisect_left(self._sizes, count)
        return self._sizes[place] if place < len(self._sizes) else None

    def forward(self, size: int) -> Tensor:
        """Replays up to the hidden states, which the next replay overwrites."""
        step = self._steps[size]
        step.forward.replay()
        return step.hidden

    def finish(self, size: int, features: int) -> SampleOutput | None:
        """Replays the sampling after `forward`, or returns None if its kind was not captured."""
        captured = self._steps[size].samples.get(features)
        if captured is None:
            return None
        captured[0].replay()
        return captured[1]


def _capture_step(
    size: int, forward: Callable[[int], Tensor], finish: Callable[[int, Tensor, int], SampleOutput], pool: Any
) -> _Step:
    graph, hidden = _capture(lambda: forward(size), pool)
    samples = {kind: _capture(partial(finish, size, hidden, kind), pool) for kind in SAMPLING_KINDS}
    return _Step(graph, hidden, samples)


def _capture(enqueue: Callable[[], Captured], pool: Any) -> tuple[torch.cuda.CUDAGraph, Captured]:
    """Not torch.cuda.graph(), which empties the caches before every capture: there are hundreds.

    Only this thread's calls are watched: NCCL's own threads ask for events at any time.
    """
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    result = enqueue()
    graph.capture_end()
    return graph, result
