"""CUDA graphs of whole steps, by size: decode steps by rows, and steps with prompt chunks by StepShape.

A step's first graph runs from the last tokens to the final hidden states, its second from there to the drawn tokens.
The second exists once per kind of sampling; steps whose sampling is of no captured kind run it eagerly.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from kernels.sampling import SampleOutput
from services.worker.runner.shapes import StepShape
from services.worker.sampling.parameters import Feature

Captured = TypeVar("Captured")
Size = TypeVar("Size", int, StepShape)

SAMPLING_KINDS = (0, Feature.TEMPERATURE, Feature.TEMPERATURE | Feature.TOP)


@dataclass(frozen=True, slots=True)
class _Step:
    forward: torch.cuda.CUDAGraph
    hidden: Tensor
    samples: dict[int, tuple[torch.cuda.CUDAGraph, SampleOutput]]


class StepGraphs(Generic[Size]):
    """The graphs and their static results, all in one memory pool, which those of other steps may share.

    In a pool, a graph's results lie where a graph captured before keeps what it needs on its way: any replay may
    overwrite any other step's results. That is safe because steps follow each other on one stream, and all that reads a
    step's results is on that stream before the next step is: its drawn ids go to `_last_token`, which is outside of the
    pool, and to the host by copies that the step's launch enqueues (DeviceHandle), eager sampling included. What the
    host reads later are those copies.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        forward: Callable[[Size], Tensor],
        finish: Callable[[Size, Tensor, int], SampleOutput],
        before: Callable[[Size], None],
        beside: StepGraphs[Any] | None = None,
    ) -> None:
        """`sizes` ascend; the largest is captured first, so that smaller graphs fit into memory that it freed.

        forward(size) enqueues a step up to the hidden states of the rows that sample; finish(size, hidden, kind) draws from them;
        before(size) puts the inputs of a step of padding rows in place. Each is run once outside the capture:
        kernels are compiled and loaded there. beside: whose pool to share; needs the more memory of the two.
        """
        self.sizes: Sequence[Size] = sizes
        self._steps: dict[Size, _Step] = {}
        self._pool: Any = beside._pool if beside else torch.cuda.graph_pool_handle()
        # The allocator hands out what is free in a pool only to the stream that had it before.
        self._stream: torch.cuda.Stream = beside._stream if beside else torch.cuda.Stream()
        stream = self._stream
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
                    self._steps[size] = _capture_step(size, forward, finish, self._pool)
        finally:
            gc.enable()
        torch.cuda.current_stream().wait_stream(stream)

    def forward(self, size: Size) -> Tensor:
        """Replays up to the hidden states, which the next replay overwrites."""
        step = self._steps[size]
        step.forward.replay()
        return step.hidden

    def finish(self, size: Size, features: int) -> SampleOutput | None:
        """Replays the sampling after `forward`, or returns None if its kind was not captured."""
        captured = self._steps[size].samples.get(features)
        if captured is None:
            return None
        captured[0].replay()
        return captured[1]


def _capture_step(
    size: Size,
    forward: Callable[[Size], Tensor],
    finish: Callable[[Size, Tensor, int], SampleOutput],
    pool: Any,
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
