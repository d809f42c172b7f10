"""The detokenizer on the bus: token frames in, one text frame per gateway out."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from services.common.bus import Bus, Message, Subscription
from services.common.errors import DecodeError
from services.common.lifecycle import Timing
from services.common.liveness import GATEWAY_LEASES
from services.common.messages.codec import decode, encode
from services.common.messages.control import Cancel, Replay
from services.common.messages.events import STOPPED, Heartbeat, WorkerLoad
from services.common.messages.frames import TextFrame, TokenFrame
from services.common.messages.request import split_stream_id
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.detokenizer.config import StreamLimits
from services.detokenizer.decoding import Decoding
from services.detokenizer.rows import split_frame
from services.detokenizer.streams import Actions, Note, StreamTable

log = logging.getLogger(__name__)

# Workers give a dead gateway up a lease earlier: their rows would begin its streams anew.
SILENT_LEASES = GATEWAY_LEASES + 1


@dataclass(slots=True)
class _Gateway:
    epoch: int  # 0: named by a stream, and not heard yet
    seen_at: float


class DetokenizerMetrics:
    def __init__(self, metrics: Metrics) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"shoal_detokenizer_{name}", text, registry=metrics.registry)

        self.tokens = counter("tokens", "Token ids received in frames, repeated ones too")
        self.frames_in = counter("token_frames", "Frames received from workers")
        self.frames_out = counter("text_frames", "Frames sent to gateways")
        self.malformed = counter("malformed_frames", "Frames that could not be read")
        self.replays = counter("replays_asked", "Replays asked of workers, because ids were missing")
        self.stale = counter("stale_rows", "Rows of attempts that were superseded")
        self.stopped = counter("stop_strings_found", "Streams ended by a stop string")
        self.streams = Gauge(
            "shoal_detokenizer_streams", "Streams that have not ended", registry=metrics.registry
        )
        self.seconds = Histogram(
            "shoal_detokenizer_frame_seconds",
            "From a frame's arrival to its text being handed to the bus",
            registry=metrics.registry,
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25),
        )


class DetokenizerApp:
    """An ``App`` (services/common/lifecycle.py)."""

    def __init__(
        self,
        instance_id: str,
        bus: Bus,
        subjects: Subjects,
        timing: Timing,
        decoding: Decoding,
        metrics: Metrics,
        recorder: FlightRecorder,
        limits: StreamLimits | None = None,
    ) -> None:
        self._id, self._bus, self._subjects, self._timing = instance_id, bus, subjects, timing
        self._streams = StreamTable(decoding, instance_id, limits or StreamLimits())
        self._metrics, self._recorder = DetokenizerMetrics(metrics), recorder
        self._gateways: dict[str, _Gateway] = {}
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        subscribe, subjects = self._bus.subscribe, self._subjects
        self._subscriptions = [
            await subscribe(subjects.heartbeats("gateway"), self._on_heartbeat),
            await subscribe(subjects.detokenizer_frames(self._id), self._on_frame),
            await subscribe(subjects.detokenizer_cancel(self._id), self._on_cancel),
        ]

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        return None, {"streams": float(self._streams.num_live())}

    def not_ready(self) -> str:
        return ""

    async def drain(self) -> None:
        """Gateways see the state and have their streams replayed elsewhere; meanwhile the text goes on."""
        loop = asyncio.get_running_loop()
        while self._streams.num_active(loop.time(), self._timing.lease_s):  # noqa: ASYNC110 - time passes, no event
            await asyncio.sleep(self._timing.heartbeat_s / 2)

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    async def _on_frame(self, message: Message) -> None:
        clock = asyncio.get_running_loop().time
        now = clock()
        try:
            frame = decode(TokenFrame, message.data)
            actions = self._streams.apply(frame, now)
        except DecodeError as error:
            self._metrics.malformed.inc()
            log.warning("a token frame cannot be read: %s", error.message)
            return
        for gateway_id, text in actions.frames.items():
            await self._send(gateway_id, text)
        if actions.replays or actions.cancels:
            await self._tell_worker(frame.worker_id, actions)
        self._count(frame, actions)
        self._metrics.seconds.observe(clock() - now)
        for note in actions.notes:
            self._take_note(note)

    async def _on_cancel(self, message: Message) -> None:
        self._streams.cancel(decode(Cancel, message.data), asyncio.get_running_loop().time())

    async def _send(self, gateway_id: str, frame: TextFrame) -> None:
        """One message, or as many as the bus's limit makes of it."""
        data = encode(frame)
        if len(data) <= self._bus.max_payload:
            self._metrics.frames_out.inc()
            await self._bus.publish(self._subjects.gateway_frames(gateway_id), data)
        elif len(frame.streams) > 1:
            for half in split_frame(frame):
                await self._send(gateway_id, half)
        else:
            log.error("a row of %d bytes is over the bus's limit", len(data), extra=_names(frame.streams[0]))

    async def _tell_worker(self, worker_id: str, actions: Actions) -> None:
        if actions.replays:
            streams, attempts = map(list, zip(*actions.replays, strict=True))
            replay = Replay(streams, attempts, self._id)
            await self._bus.publish(self._subjects.worker_replay(worker_id), encode(replay))
        if actions.cancels:
            streams, attempts = map(list, zip(*actions.cancels, strict=True))
            cancel = Cancel(streams=streams, stream_attempts=attempts, reason="ended or superseded")
            await self._bus.publish(self._subjects.worker_cancel(worker_id), encode(cancel))

    def _count(self, frame: TokenFrame, actions: Actions) -> None:
        metrics = self._metrics
        metrics.frames_in.inc()
        metrics.tokens.inc(len(frame.ids))
        metrics.replays.inc(len(actions.replays))
        metrics.stale.inc(actions.num_stale)
        metrics.stopped.inc(actions.num_stopped)

    def _take_note(self, note: Note) -> None:
        names = _names(note.stream)
        fields = {"attempt": note.attempt, **note.fields}
        self._recorder.record(str(names["request_id"]), note.event, choice=names["choice"], **fields)
        log.info(note.event, extra=names | fields)

    async def _on_heartbeat(self, message: Message) -> None:
        beat = decode(Heartbeat, message.data)
        known = self._gateways.get(beat.instance_id)
        if known is not None and known.epoch > beat.epoch:
            return  # from before its restart, late
        now = asyncio.get_running_loop().time()
        if beat.state == STOPPED or (known is not None and 0 < known.epoch < beat.epoch):
            self._streams.forget(now, [beat.instance_id])
        self._gateways[beat.instance_id] = _Gateway(beat.epoch, now)

    async def tick(self) -> None:
        """Forgets streams: ended ones, and those of dead gateways; asks the live ones whether they want the silent."""
        now = asyncio.get_running_loop().time()
        for gateway_id in self._streams.gateways() - self._gateways.keys():
            self._gateways[gateway_id] = _Gateway(0, now)  # its first heartbeat is still to come
        if not self._bus.is_connected:
            for gateway in self._gateways.values():
                gateway.seen_at = now  # nobody can be heard: nobody's lease runs
        silence = SILENT_LEASES * self._timing.lease_s
        dead = [name for name, gateway in self._gateways.items() if now - gateway.seen_at > silence]
        for name in dead:
            del self._gateways[name]
        self._streams.forget(now, dead)
        for gateway_id, held in self._streams.silent(now, self._timing.heartbeat_s).items():
            await self._bus.publish(self._subjects.gateway_holdings(gateway_id), encode(held))
        self._metrics.streams.set(self._streams.num_live())


def _names(stream: str) -> dict[str, object]:
    """How logs and traces name a stream."""
    try:
        request_id, choice = split_stream_id(stream)
    except ValueError:
        return {"request_id": stream, "choice": 0}
    return {"request_id": request_id, "choice": choice}
