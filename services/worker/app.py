"""The worker on the bus: requests in, token frames out. The process of rank 0 does the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from services.common.bus import Bus, Message, Subscription
from services.common.errors import DecodeError, ShoalError
from services.common.lifecycle import Identity, Timing
from services.common.messages.codec import decode, encode
from services.common.messages.control import Cancel, Replay
from services.common.messages.events import Heartbeat, KvSnapshotRequest, WorkerLoad
from services.common.messages.request import GenerateRequest, SubmitReply
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.worker.control.kv_log import KvLog
from services.worker.control.load import LoadTracker
from services.worker.control.options import WorkerOptions
from services.worker.control.peers import GatewayWatch
from services.worker.control.streams import Admission, StreamTable
from services.worker.engine.client import EngineClient
from services.worker.engine.messages import EngineInfo, StepOutput
from services.worker.engine.requests import check_request
from services.worker.journal import Journal
from services.worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

HOLDINGS_DELAY_S = 0.005  # requests accepted within it are told in one message
DRAIN_SHARE = 0.5  # of the drain's time in which requests may finish; the rest hands over what is left


class WorkerApp:
    """An ``App`` (services/common/lifecycle.py). Everything of a stream that matters is in the StreamTable."""

    def __init__(
        self,
        identity: Identity,
        bus: Bus,
        subjects: Subjects,
        timing: Timing,
        engine: EngineClient,
        metrics: Metrics,
        recorder: FlightRecorder,
        options: WorkerOptions,
        *,
        beat_now: Callable[[], None],
        fail: Callable[[str], None],
    ) -> None:
        self._id, self._bus, self._subjects, self._timing = identity.instance_id, bus, subjects, timing
        self._engine, self._options = engine, options
        self._beat_now, self._fail = beat_now, fail
        self._journal = Journal(recorder, WorkerMetrics(metrics.registry, identity.model))
        self._streams = StreamTable(self._id, retention_s=options.replay_retention_s)
        self._kv = KvLog(self._id, identity.epoch, max_payload=bus.max_payload)
        self._gateways = GatewayWatch(timing.lease_s)
        self._load = LoadTracker()
        self._info: EngineInfo | None = None
        self._refusal = "starting"  # why nothing new is taken; empty: it is
        self._holdings_due: set[str] = set()
        self._has_holdings_due = asyncio.Event()
        self._has_changed = asyncio.Event()  # a stream ended
        self._subscriptions: list[Subscription] = []
        self._telling: asyncio.Task[None] | None = None

    # ---- life

    async def start(self) -> None:
        self._info = await self._engine.start(self._on_output, self._on_death)
        self._load.free_blocks = self._info.num_blocks
        self._refusal = ""
        log.info(
            "model is loaded",
            extra={
                "architecture": self._info.architecture,
                "device": self._info.device,
                "dtype": self._info.dtype,
                "kv_tokens": self._info.num_blocks * self._info.block_size,
                "graph_mib": self._info.graph_bytes >> 20,
                "capture_s": round(self._info.capture_s, 1),
            },
        )
        me, subjects = self._id, self._subjects
        for subject, handler in (
            (subjects.heartbeats("gateway"), self._on_gateway),
            (subjects.heartbeat("worker", me), self._on_own_beat),
            (subjects.worker_cancel(me), self._on_cancel),
            (subjects.cancel(), self._on_cancel),
            (subjects.worker_replay(me), self._on_replay),
            (subjects.kv_snapshot(me), self._on_kv_snapshot),
            (subjects.worker_submit(me), self._on_submit),
        ):
            self._subscriptions.append(await self._bus.subscribe(subject, handler))
        self._telling = asyncio.create_task(self._send_due_holdings())

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        load = self._current_load()
        self._load.on_told(load)
        figures = {
            "streams": self._streams.num_live,
            "retained": self._streams.num_held - self._streams.num_live,
        }
        return load, {name: float(value) for name, value in figures.items()}

    def not_ready(self) -> str:
        return self._refusal

    async def drain(self) -> None:
        """Lets run what ends soon, and gives the rest back to its gateways."""
        self._refusal = self._refusal or "draining"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_SHARE * self._timing.drain_timeout_s
        while self._streams.num_live and (left_s := deadline - loop.time()) > 0:
            self._has_changed.clear()
            try:
                await asyncio.wait_for(self._has_changed.wait(), left_s)
            except TimeoutError:
                break
        await self._bounce("the worker stops")

    async def stop(self) -> None:
        self._refusal = self._refusal or "stopped"
        if self._telling:
            self._telling.cancel()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await self._engine.stop()

    # ---- requests

    async def _on_submit(self, message: Message) -> None:
        try:
            request = decode(GenerateRequest, message.data)
        except DecodeError as error:
            reply = SubmitReply(False, self._id, code=error.code, reason=error.message)
        else:
            reply = self._admit(request)
        if message.reply:
            await self._bus.publish(message.reply, encode(reply))

    def _admit(self, request: GenerateRequest) -> SubmitReply:
        """Answers at once: taken, taken already, for another worker, or wrong for good."""
        assert self._info is not None
        admission = self._streams.classify(request.request_id, request.attempt)
        if admission in (Admission.DUPLICATE, Admission.ENDED):
            self._tell_soon(request.gateway_id)
            return SubmitReply(True, self._id)
        if admission is Admission.STALE:
            return self._refuse(request, "a higher attempt is known", code="stale_attempt")
        if self._refusal:
            return self._refuse(request, self._refusal)
        try:
            check_request(request, self._info)
        except ShoalError as error:
            return self._refuse(request, error.message, code=error.code)
        live, limit = self._streams.num_live, self._info.max_running + self._options.max_waiting
        if live and live + len(request.choices) > limit:
            return self._refuse(request, f"full: {live} of {limit} sequences")
        handles, dropped = self._streams.admit(request)
        if dropped:
            self._engine.cancel(dropped)
        self._engine.submit(handles, request)
        self._journal.accepted(request)
        self._load.num_accepted += 1
        self._tell_soon(request.gateway_id)
        self._tell_load()
        return SubmitReply(True, self._id, num_accepted=self._load.num_accepted)

    def _refuse(self, request: GenerateRequest, reason: str, *, code: str = "") -> SubmitReply:
        """Without a ``code`` another worker, or this one later, may take it."""
        self._journal.refused(request, reason, for_good=bool(code))
        return SubmitReply(False, self._id, retry=not code, code=code, reason=reason)

    async def _on_cancel(self, message: Message) -> None:
        cancel = decode(Cancel, message.data)
        handles = self._streams.cancel(cancel, self._now())
        if handles:
            self._engine.cancel(handles)
            self._journal.cancelled(cancel, len(handles))
            self._on_change()

    async def _on_replay(self, message: Message) -> None:
        replay = decode(Replay, message.data)
        for frame in self._streams.replay(replay):
            self._journal.replayed(frame, replay.detokenizer_id)
            await self._publish(self._subjects.detokenizer_frames(replay.detokenizer_id), frame)

    # ---- the engine

    async def _on_output(self, output: StepOutput) -> None:
        """Called for each step: one frame for each detokenizer, one message of cache changes."""
        assert self._info is not None
        self._load.on_output(output)
        self._journal.step(output, self._info, self._streams)
        applied = self._streams.apply(output, self._now())
        self._journal.applied(applied)
        for detokenizer_id, frame in applied.outgoing:
            await self._publish(self._subjects.detokenizer_frames(detokenizer_id), frame)
        if output.stored or output.removed:
            events = self._kv.apply(output.stored, output.removed)
            await self._publish(self._subjects.kv_events(self._id), events)
        if applied.ended:
            self._on_change()
        self._tell_load()

    async def _on_death(self, reason: str, suspects: Collection[int] | None) -> None:
        """Without an engine nothing here goes on: every request goes back, and the process ends."""
        self._refusal = f"the engine died: {reason}"
        log.error("the engine died: %s", reason, extra={"streams": self._streams.num_live})
        await self._bounce(self._refusal, self._streams.live_handles if suspects is None else suspects)
        self._fail(self._refusal)

    async def _bounce(self, reason: str, suspects: Collection[int] = ()) -> None:
        bounced, handles = self._streams.bounce(reason, suspects)
        for gateway_id, message in bounced.items():
            await self._publish(self._subjects.gateway_bounced(gateway_id), message)
            self._journal.bounced(message.request_ids, reason)
        if handles:
            self._engine.cancel(handles)

    # ---- the cache, and others' beats

    async def _on_kv_snapshot(self, message: Message) -> None:
        page = decode(KvSnapshotRequest, message.data).page
        if message.reply:
            await self._publish(message.reply, self._kv.snapshot(page))

    async def _on_gateway(self, message: Message) -> None:
        self._gateways.on_gateway(decode(Heartbeat, message.data).instance_id, self._now())

    async def _on_own_beat(self, message: Message) -> None:
        self._gateways.on_own_beat(self._now())

    async def tick(self) -> None:
        """Sends holdings to every gateway, and forgets what is over."""
        self._free_dead_gateways()
        self._streams.expire(self._now())
        for gateway_id in self._streams.gateways:
            await self._send_holdings(gateway_id)

    def _free_dead_gateways(self) -> None:
        for gateway_id in self._gateways.dead(self._streams.gateways, self._now()):
            handles = self._streams.drop_gateway(gateway_id)
            self._journal.orphaned(gateway_id, len(handles))
            if handles:
                self._engine.cancel(handles)
                self._on_change()

    async def _send_due_holdings(self) -> None:
        while True:
            await self._has_holdings_due.wait()
            await asyncio.sleep(HOLDINGS_DELAY_S)
            self._has_holdings_due.clear()
            due, self._holdings_due = self._holdings_due, set()
            for gateway_id in due:
                await self._send_holdings(gateway_id)

    def _tell_soon(self, gateway_id: str) -> None:
        self._holdings_due.add(gateway_id)
        self._has_holdings_due.set()

    async def _send_holdings(self, gateway_id: str) -> None:
        held = self._streams.holdings(gateway_id)
        await self._publish(self._subjects.gateway_holdings(gateway_id), held)

    # ---- small things

    def _current_load(self) -> WorkerLoad | None:
        if self._info is None:
            return None
        return self._load.current(
            self._info, live=self._streams.num_live, prefill_tokens=self._streams.num_uncomputed_tokens
        )

    def _tell_load(self) -> None:
        load = self._current_load()
        if load is not None and self._load.is_news(load):
            self._load.on_told(load)
            self._beat_now()

    def _on_change(self) -> None:
        self._has_changed.set()
        self._tell_load()

    async def _publish(self, subject: str, message: Any) -> None:
        try:
            await self._bus.publish(subject, encode(message))
        except Exception:
            # A lost message is what every receiver is built for; a step that stops half-way is not.
            log.exception("a message on %s was not sent", subject)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
