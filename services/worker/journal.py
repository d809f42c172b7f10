"""What people are told about requests: flight recorder, logs and counters, in one place."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from services.common.messages import frames
from services.common.messages.control import Cancel
from services.common.messages.frames import TokenFrame
from services.common.messages.request import GenerateRequest, split_stream_id
from services.common.telemetry import FlightRecorder
from services.worker.control.stream import StreamLog
from services.worker.control.streams import Applied, StreamTable
from services.worker.engine.messages import EngineInfo, StepOutput
from services.worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

_FINISH_NAMES = {frames.STOP: "stop", frames.LENGTH: "length", frames.ERROR: "error"}


class Journal:
    def __init__(self, recorder: FlightRecorder, metrics: WorkerMetrics) -> None:
        self._record, self.metrics = recorder.record, metrics

    def accepted(self, request: GenerateRequest) -> None:
        self.metrics.requests.labels("accepted").inc()
        self._record(request.request_id, "submitted", attempt=request.attempt, choices=len(request.choices))

    def refused(self, request: GenerateRequest, reason: str, *, for_good: bool) -> None:
        self.metrics.requests.labels("refused" if for_good else "retry").inc()
        self._record(request.request_id, "refused", attempt=request.attempt, reason=reason)
        if for_good:
            log.warning("refused: %s", reason, extra={"request_id": request.request_id})

    def step(self, output: StepOutput, info: EngineInfo, streams: StreamTable) -> None:
        """Before the output is applied: who was let into the batch and who was put out of it."""
        self.metrics.on_output(output, info)
        for handle, cached in output.admitted.items():
            if (stream := streams.log_of(handle)) is not None:
                self._record(stream.request_id, "scheduled", stream=stream.stream, cached_tokens=cached)
        for handle in output.preempted:
            if (stream := streams.log_of(handle)) is not None:
                self._record(stream.request_id, "preempted", stream=stream.stream)
                log.debug("preempted: KV blocks are short", extra={"request_id": stream.request_id})

    def applied(self, applied: Applied) -> None:
        self.metrics.frames.inc(len(applied.outgoing))
        for stream in applied.started:
            self._record(stream.request_id, "first token", stream=stream.stream)
        for stream in applied.ended:
            self._ended(stream)

    def _ended(self, stream: StreamLog) -> None:
        how = _FINISH_NAMES[stream.finish]
        self.metrics.ended.labels(how).inc()
        self._record(stream.request_id, "finished", stream=stream.stream, how=how, ids=len(stream.ids))
        if stream.error:
            log.error("failed: %s", stream.error, extra={"request_id": stream.request_id})

    def cancelled(self, cancel: Cancel, num_streams: int) -> None:
        self.metrics.ended.labels("cancelled").inc(num_streams)
        for request_id in [*cancel.request_ids, *(split_stream_id(s)[0] for s in cancel.streams)]:
            self._record(request_id, "cancelled", reason=cancel.reason)

    def replayed(self, frame: TokenFrame, detokenizer_id: str) -> None:
        for stream in frame.streams:
            self.metrics.replays.inc()
            self._record(split_stream_id(stream)[0], "replayed", to=detokenizer_id)

    def bounced(self, request_ids: Iterable[str], reason: str) -> None:
        for request_id in request_ids:
            self._record(request_id, "bounced", reason=reason)
            log.warning("given back: %s", reason, extra={"request_id": request_id})

    def orphaned(self, gateway_id: str, num_streams: int) -> None:
        self.metrics.ended.labels("orphaned").inc(num_streams)
        log.warning("gateway %s is gone: %d streams are freed", gateway_id, num_streams)
