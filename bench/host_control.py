"""The control process's work on a step's output, without a bus: bytes in, the frames' bytes out."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry

from services.common.messages.codec import decode, encode
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams
from services.common.telemetry import FlightRecorder
from services.worker.control.load import LoadTracker
from services.worker.control.streams import StreamTable
from services.worker.engine.channel import HEADER, pack
from services.worker.engine.messages import EngineInfo, StepOutput
from services.worker.journal import Journal
from services.worker.metrics import WorkerMetrics


def generate_request(number: int, *, prompt_length: int, max_tokens: int) -> GenerateRequest:
    return GenerateRequest(
        request_id=f"chatcmpl-{number:024x}",
        attempt=1,
        gateway_id="gateway-0123456789",
        detokenizer_id="detokenizer-0123456789",
        model="m",
        prompt_ids=[(number + i) % 60 for i in range(prompt_length)],
        choices=[ChoiceState(0, number)],
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
    )


class ControlSide:
    """What WorkerApp does for each step (services/worker/app.py), and nothing else of it."""

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._streams = StreamTable("worker-0123456789", retention_s=10.0)
        self._journal = Journal(FlightRecorder(), WorkerMetrics(CollectorRegistry(), "m"))
        self._load = LoadTracker()

    def admit(self, request: GenerateRequest) -> list[int]:
        """The handles of the request's streams."""
        handles, _ = self._streams.admit(request)
        return handles

    def handle(self, output: StepOutput) -> float:
        """Seconds from the output's bytes to those of its frames."""
        body = pack(output)[HEADER.size :]
        began = time.perf_counter()
        received = decode(StepOutput, body)
        self._load.on_output(received)
        self._journal.step(received, self._info, self._streams)
        applied = self._streams.apply(received, now=0.0)
        self._journal.applied(applied)
        for _, frame in applied.outgoing:
            encode(frame)
        live, waiting = self._streams.num_live, self._streams.num_uncomputed_tokens
        self._load.is_news(self._load.current(self._info, live=live, prefill_tokens=waiting))
        return time.perf_counter() - began
