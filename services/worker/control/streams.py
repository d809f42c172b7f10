"""All streams of a worker: attempts and fences, frames, replays, holdings, and what may be forgotten."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from services.common.messages import frames
from services.common.messages.control import Bounced, Cancel, Holdings, Replay
from services.common.messages.frames import TokenFrame
from services.common.messages.request import GenerateRequest, stream_id
from services.worker.control.frames import FrameBuilder, prompt_frames, replay_frames
from services.worker.control.stream import PROMPT_TAIL_IDS, StreamLog
from services.worker.engine.messages import StepOutput

MAX_RETAINED = 4096  # ended streams
MAX_RETAINED_BYTES = 256 * 1024 * 1024  # of ended streams' prompt log probabilities
MAX_FENCES = 65536  # attempts remembered of requests that are gone


class Admission(Enum):
    NEW = "new"
    DUPLICATE = "duplicate"  # held already at this attempt
    ENDED = "ended"  # was here at this attempt and is gone
    STALE = "stale"  # a higher attempt is known


@dataclass(slots=True)
class _Held:
    attempt: int
    gateway_id: str
    logs: list[StreamLog]


@dataclass(slots=True)
class Applied:
    """What a step's output led to."""

    frames: dict[str, TokenFrame] = field(default_factory=dict)  # by detokenizer
    prompt_frames: list[tuple[str, TokenFrame]] = field(default_factory=list)  # they go first
    started: list[StreamLog] = field(default_factory=list)  # had their first id
    ended: list[StreamLog] = field(default_factory=list)

    @property
    def outgoing(self) -> list[tuple[str, TokenFrame]]:
        """(detokenizer, frame), in the order in which they must be sent."""
        return [*self.prompt_frames, *self.frames.items()]


class StreamTable:
    """Handles name streams towards the engine; each is used once. ``now`` is in seconds of any clock."""

    def __init__(self, worker_id: str, *, retention_s: float) -> None:
        self._worker_id, self._retention_s = worker_id, retention_s
        self._handles = itertools.count(1)
        self._held: dict[str, _Held] = {}  # by request
        self._by_handle: dict[int, StreamLog] = {}  # live ones
        self._by_stream: dict[str, StreamLog] = {}
        self._retained: OrderedDict[int, tuple[float, StreamLog]] = OrderedDict()  # by handle: (end, stream)
        self._num_retained_bytes = 0  # of their prompt log probabilities
        self._fences: OrderedDict[str, int] = OrderedDict()  # request -> highest attempt that is over
        self.num_uncomputed_tokens = 0  # of live streams without a first id

    # ---- figures

    @property
    def num_live(self) -> int:
        return len(self._by_handle)

    @property
    def live_handles(self) -> Collection[int]:
        return self._by_handle.keys()

    @property
    def num_held(self) -> int:
        return len(self._by_stream)

    @property
    def gateways(self) -> list[str]:
        """Those that requests are held for, in order of their oldest one."""
        return list(dict.fromkeys(held.gateway_id for held in self._held.values()))

    def log_of(self, handle: int) -> StreamLog | None:
        """A live stream by its handle."""
        return self._by_handle.get(handle)

    # ---- requests

    def classify(self, request_id: str, attempt: int) -> Admission:
        held = self._held.get(request_id)
        known = held.attempt if held else self._fences.get(request_id, 0)
        if attempt > known:
            return Admission.NEW
        if attempt < known:
            return Admission.STALE
        return Admission.DUPLICATE if held else Admission.ENDED

    def admit(self, request: GenerateRequest) -> tuple[list[int], list[int]]:
        """Takes in a NEW request. Returns its streams' handles, and those of a lower attempt to cancel."""
        dropped = self._forget(request.request_id)
        logs = [
            StreamLog(
                handle=next(self._handles),
                stream=stream_id(request.request_id, choice.index),
                request_id=request.request_id,
                attempt=request.attempt,
                gateway_id=request.gateway_id,
                detokenizer_id=request.detokenizer_id,
                params=request.stream,
                prompt_tail=request.prompt_ids[-PROMPT_TAIL_IDS:],
                min_tokens=request.sampling.min_tokens,
                num_uncomputed=len(request.prompt_ids) + len(choice.output_ids),
                ids=list(choice.output_ids),
                num_prior=len(choice.output_ids),
                num_top=request.sampling.num_logprobs,
                max_tokens=request.sampling.max_tokens,
            )
            for choice in request.choices
        ]
        for log in logs[1:]:
            log.num_uncomputed = log.num_prior  # the first computes the prompt for all
        self._held[request.request_id] = _Held(request.attempt, request.gateway_id, logs)
        for log in logs:
            self._by_handle[log.handle] = log
            self._by_stream[log.stream] = log
            self.num_uncomputed_tokens += log.num_uncomputed
        return [log.handle for log in logs], dropped

    def cancel(self, cancel: Cancel, now: float) -> list[int]:
        """Returns the handles to cancel in the engine.

        A cancelled request is forgotten: its gateway wants nothing more of it. A cancelled stream has ended (a stop
        string was found) and can still be replayed, so that its end is not lost with one frame.
        """
        handles: list[int] = []
        for request_id, attempt in zip(cancel.request_ids, cancel.attempts, strict=False):
            held = self._held.get(request_id)
            if held is None or held.attempt <= attempt:
                handles += self._forget(request_id)
                self._fence(request_id, attempt)
        for stream, attempt in zip(cancel.streams, cancel.stream_attempts, strict=False):
            log = self._by_stream.get(stream)
            if log is not None and log.attempt <= attempt and not log.has_ended:
                self._end(log, now)
                handles.append(log.handle)
        return handles

    def drop_gateway(self, gateway_id: str) -> list[int]:
        """Forgets all that belongs to a dead gateway; returns the handles to cancel."""
        gone = [rid for rid, held in self._held.items() if held.gateway_id == gateway_id]
        return [handle for request_id in gone for handle in self._forget(request_id)]

    def bounce(self, reason: str, suspects: Collection[int] = ()) -> tuple[dict[str, Bounced], list[int]]:
        """Gives back every request that has not ended: (message per gateway, handles to cancel).

        One of the streams ``suspects`` may be why the engine died.
        """
        bounced: dict[str, Bounced] = {}
        handles: list[int] = []
        for request_id in {log.request_id: None for log in self._by_handle.values()}:
            held = self._held[request_id]
            message = bounced.setdefault(held.gateway_id, Bounced(self._worker_id, [], [], reason))
            message.request_ids.append(request_id)
            message.attempts.append(held.attempt)
            message.suspects.append(int(any(log.handle in suspects for log in held.logs)))
            handles += self._forget(request_id)
        return bounced, handles

    # ---- ids

    def apply(self, output: StepOutput, now: float) -> Applied:
        """Logs a step's ids and makes its frames: one for each detokenizer."""
        applied, builder, at = Applied(), FrameBuilder(self._worker_id), 0
        for handle, cached in output.admitted.items():
            log = self._by_handle.get(handle)
            if log is not None:
                log.cached_tokens = cached
        for handle, part in output.prompt_logprobs.items():
            log = self._by_handle.get(handle)
            if log is not None:
                log.prompt.append(part)
                found = prompt_frames(self._worker_id, log, [part])
                applied.prompt_frames += [(log.detokenizer_id, frame) for frame in found]
        columns = zip(output.handles, output.first, output.counts, strict=True)
        for row, (handle, first, count) in enumerate(columns):
            ids = output.ids[at : at + count]
            at += count
            log = self._by_handle.get(handle)
            if log is None:
                continue  # cancelled meanwhile
            assert first == len(log.ids), f"{log.stream}: ids from {first}, expected {len(log.ids)}"
            finish = output.finish.get(row, frames.RUNNING)
            if finish and ids and not log.max_tokens:
                ids, finish = [], frames.LENGTH
            log.ids += ids
            logprobs = output.logprobs.get(row) if ids else None
            if logprobs is not None:
                log.append_logprobs(logprobs)
            info = None
            if not log.has_sent:
                info = log.info(log.ids[: log.num_prior])
                log.has_sent = True
                applied.started.append(log)
                self.num_uncomputed_tokens -= log.num_uncomputed
            if finish != frames.RUNNING:
                log.finish = finish
                log.stop_id = log.ids[-1] if finish == frames.STOP else None
                log.error = output.errors.get(row, "")
                applied.ended.append(log)
            builder.add(log, first, ids, finish, info=info, logprobs=logprobs)
        for log in applied.ended:
            self._end(log, now)
        applied.frames = builder.frames
        return applied

    def replay(self, replay: Replay) -> list[TokenFrame]:
        """The frames to send to the detokenizer that asked, or that has the streams from now on."""
        found: list[TokenFrame] = []
        for stream, attempt in zip(replay.streams, replay.attempts, strict=False):
            log = self._by_stream.get(stream)
            if log is None or log.attempt != attempt:
                continue
            log.detokenizer_id = replay.detokenizer_id
            found += prompt_frames(self._worker_id, log, log.prompt)
            if len(log.ids) > log.num_prior or log.has_ended:
                found += replay_frames(self._worker_id, log)
        return found

    def holdings(self, gateway_id: str) -> Holdings:
        held = Holdings("worker", self._worker_id)
        for request_id, entry in self._held.items():
            if entry.gateway_id != gateway_id:
                continue
            held.request_ids.append(request_id)
            held.attempts.append(entry.attempt)
            for log in entry.logs:
                held.streams.append(log.stream)
                held.stream_attempts.append(log.attempt)
                held.next_index.append(len(log.ids))
                held.finished.append(int(log.has_ended))
        return held

    # ---- forgetting

    def expire(self, now: float) -> None:
        """Forgets requests all of whose streams ended longer ago than the retention."""
        while self._retained:
            handle, (ended_at, log) = next(iter(self._retained.items()))
            is_full = len(self._retained) > MAX_RETAINED or self._num_retained_bytes > MAX_RETAINED_BYTES
            if ended_at + self._retention_s > now and not is_full:
                return
            self._unretain(handle)
            held = self._held.get(log.request_id)
            if held is not None and log in held.logs:
                self._drop_log(held, log)

    def _drop_log(self, held: _Held, log: StreamLog) -> None:
        held.logs = [other for other in held.logs if other is not log]
        if self._by_stream.get(log.stream) is log:
            del self._by_stream[log.stream]
        if not held.logs:
            del self._held[log.request_id]
            self._fence(log.request_id, held.attempt)

    def _end(self, log: StreamLog, now: float) -> None:
        if not log.has_sent:
            self.num_uncomputed_tokens -= log.num_uncomputed
            log.has_sent = True
        log.has_ended = True
        self._by_handle.pop(log.handle, None)
        self._retained[log.handle] = (now, log)
        self._num_retained_bytes += log.num_prompt_bytes

    def _unretain(self, handle: int) -> None:
        _, log = self._retained.pop(handle, (0.0, None))
        if log is not None:
            self._num_retained_bytes -= log.num_prompt_bytes

    def _forget(self, request_id: str) -> list[int]:
        held = self._held.pop(request_id, None)
        if held is None:
            return []
        self._fence(request_id, held.attempt)
        handles = []
        for log in held.logs:
            self._unretain(log.handle)
            del self._by_stream[log.stream]
            if self._by_handle.pop(log.handle, None) is not None:
                handles.append(log.handle)
                if not log.has_sent:
                    self.num_uncomputed_tokens -= log.num_uncomputed
        return handles

    def _fence(self, request_id: str, attempt: int) -> None:
        self._fences[request_id] = max(attempt, self._fences.pop(request_id, 0))
        if len(self._fences) > MAX_FENCES:
            self._fences.popitem(last=False)

    def check(self) -> None:
        """Asserts the invariants."""
        logs = [log for held in self._held.values() for log in held.logs]
        assert {log.stream for log in logs} == set(self._by_stream)
        assert {log.handle for log in logs if not log.has_ended} == set(self._by_handle)
        assert {log.handle for log in logs if log.has_ended} == set(self._retained)
        assert self._num_retained_bytes == sum(log.num_prompt_bytes for _, log in self._retained.values())
        waiting: Iterable[StreamLog] = (log for log in self._by_handle.values() if not log.has_sent)
        assert self.num_uncomputed_tokens == sum(log.num_uncomputed for log in waiting)
