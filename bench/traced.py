"""Traces of steps by PyTorch's profiler, in the form that bench.step_trace reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.step_trace import LAUNCH, READ, Span, Trace, waiting_calls
from services.worker.runner.interface import Runner, StepHandle
from services.worker.runner.plan import StepPlan, StepResult


class RangedRunner:
    """A Runner that marks its launches, and the reading of their results, in the profiler's trace."""

    def __init__(self, runner: Runner) -> None:
        self.info = runner.info
        self._runner = runner

    def launch(self, plan: StepPlan) -> StepHandle:
        with record_function(LAUNCH):
            return RangedHandle(self._runner.launch(plan))

    def close(self) -> None:
        self._runner.close()


class RangedHandle:
    def __init__(self, handle: StepHandle) -> None:
        self._handle = handle

    def ready(self) -> bool:
        return self._handle.ready()

    def result(self) -> StepResult:
        with record_function(READ):
            return self._handle.result()


def trace(run: Callable[[int], object], steps: int) -> Trace:
    """Of run(steps), which drives a RangedRunner. Without a GPU nothing is found but the ranges."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        run(steps)
    device, calls, ranges = [], [], []
    for event in profiler.events():
        span = Span(event.name, event.time_range.start, event.time_range.end)
        if event.name in (LAUNCH, READ):  # the device's side of a range is no kernel
            if event.device_type == torch.autograd.DeviceType.CPU:
                ranges.append(span)
        elif event.device_type == torch.autograd.DeviceType.CUDA:
            device.append(span)
        elif event.name.startswith("cu"):
            calls.append(span)
    return Trace(steps, device, calls, ranges)


def known_waits() -> dict[str, Any]:
    """Calls that wait, made on purpose: whether a trace shows them, or 0 found elsewhere means nothing."""
    if not torch.cuda.is_available():
        return {"absent": "no GPU"}
    value, event = torch.ones(1, device="cuda"), torch.cuda.Event()

    def wait(_: int) -> None:
        torch.cuda.synchronize()
        torch.cuda.current_stream().synchronize()
        event.record()
        event.synchronize()
        value.item()

    return {"made": 4, "seen": [call.name for call in waiting_calls(trace(wait, 1).calls)]}
