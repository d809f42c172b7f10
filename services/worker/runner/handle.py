"""A launched step's result on its way from the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.sampling import SampleOutput
from services.worker.errors import RunnerError
from services.worker.runner.plan import PromptScores, StepResult
from services.worker.runner.prompt_scores import PromptScoreTensors
from services.worker.runner.staging import Array


class DeviceHandle:
    """Copies what a step drew to the host as soon as it is drawn, and waits only when it is asked for."""

    def __init__(
        self,
        step: int,
        slots: Array,
        output: SampleOutput | None,
        device: torch.device,
        prompt: PromptScoreTensors | None = None,
    ) -> None:
        self._step = step
        self._slots = slots.astype(np.int32)
        self._result: StepResult | None = None
        self._event: torch.cuda.Event | None = None
        self._prompt = prompt
        fields = (output.ids, output.logprobs, output.top_ids, output.top_logprobs) if output else (None,) * 4
        if device.type == "cuda":
            self._fields = [None if field is None else _copy_to_host(field) for field in fields]
            if prompt is not None:
                self._prompt = PromptScoreTensors(*map(_copy_to_host, prompt))
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._fields = list(fields)

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
        return self._result

    def _read(self) -> StepResult:
        ids, logprobs, top_ids, top_logprobs = self._fields
        prompt, self._prompt, self._fields = self._prompt, None, []
        token_ids = np.empty(0, np.int32) if ids is None else ids.numpy().astype(np.int32)
        if logprobs is None and prompt is None:
            return StepResult(self._step, self._slots, token_ids)
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
