"""A launched step's result on its way from the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.sampling import SampleOutput
from services.worker.errors import RunnerError
from services.worker.runner.plan import Int32Array, PromptScores, StepResult
from services.worker.runner.prompt_scores import PromptScoreTensors
from services.worker.runner.staging import Array


class ResultBuffer:
    """Host memory for the ids that a step draws. On a GPU it is pinned, and an event tells that they are there."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self.event = torch.cuda.Event() if is_cuda else None
        self._ids = torch.zeros(max_rows, dtype=torch.int64, pin_memory=is_cuda)
        self._array = self._ids.numpy()
        self._parts: dict[int, Tensor] = {}

    def copy(self, ids: Tensor) -> None:
        """Enqueues the copy of int64 ids [R]."""
        rows = ids.shape[0]
        part = self._parts.get(rows)
        if part is None:
            part = self._parts[rows] = self._ids[:rows]
        part.copy_(ids, non_blocking=True)

    def read(self, rows: int) -> Int32Array:
        """The first ids, in an array of their own."""
        return self._array[:rows].astype(np.int32)


class ResultBuffers:
    """The result buffers that no step has: making one takes longer than all else that its step's result costs.

    A handle takes one when its step is launched and gives it back when it has waited for the event and has copied
    the ids. So no copy is enqueued into memory that is still to be read, and no event is recorded that is still to
    be waited for, in whichever order and however late results are read. The buffer of a handle that is never read,
    or whose step failed, goes with it.
    """

    def __init__(self, max_rows: int, device: torch.device, count: int) -> None:
        """For `count` results at a time; more are made when they are needed."""
        self._max_rows, self._device = max_rows, device
        self._free = [ResultBuffer(max_rows, device) for _ in range(count)]
        # That of every launch; to ask for it each time takes longer than recording an event.
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def take(self) -> ResultBuffer:
        return self._free.pop() if self._free else ResultBuffer(self._max_rows, self._device)

    def give_back(self, buffer: ResultBuffer) -> None:
        self._free.append(buffer)


class DeviceHandle:
    """Copies what a step drew to the host as soon as it is drawn, and waits only when it is asked for."""

    def __init__(
        self,
        step: int,
        slots: Array,
        output: SampleOutput | None,
        buffers: ResultBuffers,
        prompt: PromptScoreTensors | None = None,
    ) -> None:
        """output: what was drawn for `slots`, and after it for rows of padding; None if there are no slots."""
        self._step = step
        self._slots = slots.astype(np.int32)
        self._result: StepResult | None = None
        self._buffers, self._buffer = buffers, buffers.take()
        self._event = self._buffer.event
        self._logprobs: list[Tensor | None] = []
        self._prompt = prompt
        if output is not None:
            self._buffer.copy(output.ids)
            if output.logprobs is not None:
                self._logprobs = [output.logprobs, output.top_ids, output.top_logprobs]
        if self._event is not None:
            self._logprobs = [None if field is None else _copy_to_host(field) for field in self._logprobs]
            if prompt is not None:
                self._prompt = PromptScoreTensors(*map(_copy_to_host, prompt))
            self._event.record(buffers.stream)

    def ready(self) -> bool:
        if self._result is not None or self._event is None:
            return True
        try:
            return self._event.query()
        except RuntimeError as error:
            raise step_failed(self._step, error) from error

    def result(self) -> StepResult:
        if self._result is None:
            if self._event is not None:
                self._wait(self._event)
            self._result = self._read()
            self._buffers.give_back(self._buffer)
        return self._result

    def _read(self) -> StepResult:
        token_ids = self._buffer.read(len(self._slots))
        if not self._logprobs and self._prompt is None:
            return StepResult(self._step, self._slots, token_ids)
        prompt, self._prompt = self._prompt, None
        logprobs, top_ids, top_logprobs = self._logprobs or (None, None, None)
        self._logprobs = []
        return StepResult(
            step=self._step,
            slots=self._slots,
            token_ids=token_ids,
            logprobs=_numpy(logprobs),
            top_ids=None if top_ids is None else top_ids.numpy().astype(np.int32),
            top_logprobs=_numpy(top_logprobs),
            prompt=None if prompt is None else PromptScores(*(field.numpy() for field in prompt)),
        )

    def _wait(self, event: torch.cuda.Event) -> None:
        try:
            event.synchronize()
        except RuntimeError as error:
            raise step_failed(self._step, error) from error


def step_failed(step: int, error: Exception) -> RunnerError:
    """Names the step and the cause. On cuda the cause may be in the step before: errors are told late."""
    first_line = str(error).partition("\n")[0]
    return RunnerError(f"step {step} failed: {type(error).__name__}: {first_line}")


def _numpy(field: Tensor | None) -> Array | None:
    return None if field is None else field.numpy()


def _copy_to_host(tensor: Tensor) -> Tensor:
    """Enqueues the copy. Pinned memory comes from PyTorch's cache, which waits for copies before reuse."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
