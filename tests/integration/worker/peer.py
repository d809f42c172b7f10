"""Everyone else, as a worker sees them: a gateway, a detokenizer and a router in one small object."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from services.common.bus import Bus, Message
from services.common.lifecycle import Identity, ServiceRuntime, Timing
from services.common.messages.codec import decode, encode
from services.common.messages.control import Bounced, Cancel, Holdings, Replay
from services.common.messages.events import READY, Heartbeat, KvEvents, KvSnapshot, KvSnapshotRequest
from services.common.messages.frames import TokenFrame
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams, SubmitReply
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.worker.app import WorkerApp, WorkerOptions
from services.worker.engine.client import EngineClient

M = TypeVar("M")
SUBJECTS = Subjects("test")


class WorkerUnderTest:
    """A real WorkerApp in a real ServiceRuntime, over any bus and any engine."""

    def __init__(
        self,
        bus: Bus,
        engine: EngineClient,
        *,
        worker_id: str = "w1",
        timing: Timing | None = None,
        options: WorkerOptions | None = None,
    ) -> None:
        identity = Identity("worker", worker_id, 1, "m")
        timing = timing or Timing(heartbeat_s=0.05, lease_s=10.0, drain_timeout_s=2.0)
        self.failures: list[str] = []
        self.recorder = FlightRecorder()
        self.metrics = Metrics("worker", "0")
        self.app = WorkerApp(
            identity,
            bus,
            SUBJECTS,
            timing,
            engine,
            self.metrics,
            self.recorder,
            options or WorkerOptions(),
            beat_now=lambda: self.runtime.beat_now(),
            fail=self.failures.append,
        )
        self.runtime = ServiceRuntime(identity, bus, SUBJECTS, self.app, timing, self.recorder)

    def events(self, request_id: str) -> list[str]:
        return [event.event for event in self.recorder.of(request_id)]


class Peer:
    """Collects what a worker sends to gateway "g" and detokenizer "d", and speaks to it in their names."""

    def __init__(self, bus: Bus, worker_id: str = "w1") -> None:
        self._bus, self._worker_id = bus, worker_id
        self.ids: dict[str, list[int]] = {}
        self.finish: dict[str, int] = {}
        self.num_frames: Counter[str] = Counter()
        self.frames: list[TokenFrame] = []
        self.holdings = Holdings("worker", "")
        self.bounced: list[Bounced] = []
        self.kv_events: list[KvEvents] = []
        self.beats: list[Heartbeat] = []

    async def start(self, detokenizers: tuple[str, ...] = ("d",)) -> None:
        subscribe = self._bus.subscribe
        for name in detokenizers:
            await subscribe(SUBJECTS.detokenizer_frames(name), self._on_frame)
        await subscribe(SUBJECTS.gateway_holdings("g"), self._on_holdings)
        await subscribe(SUBJECTS.gateway_bounced("g"), self._on_bounced)
        await subscribe(SUBJECTS.kv_events(), self._on_kv)
        await subscribe(SUBJECTS.heartbeats("worker"), self._on_beat)

    async def _on_frame(self, message: Message) -> None:
        frame = decode(TokenFrame, message.data)
        self.num_frames[message.subject] += 1
        self.frames.append(frame)
        at = 0
        for row, stream in enumerate(frame.streams):
            new = frame.ids[at : at + frame.counts[row]]
            at += frame.counts[row]
            ids = self.ids.setdefault(stream, [])
            if row in frame.infos:
                prior = frame.infos[row].prior_ids
                assert len(prior) == frame.first[row]
                ids[: len(prior)] = prior
            assert frame.first[row] <= len(ids), "a gap"
            ids += new[len(ids) - frame.first[row] :]
            if frame.finish[row]:
                self.finish[stream] = frame.finish[row]

    async def _on_holdings(self, message: Message) -> None:
        self.holdings = decode(Holdings, message.data)

    async def _on_bounced(self, message: Message) -> None:
        self.bounced.append(decode(Bounced, message.data))

    async def _on_kv(self, message: Message) -> None:
        self.kv_events.append(decode(KvEvents, message.data))

    async def _on_beat(self, message: Message) -> None:
        self.beats.append(decode(Heartbeat, message.data))

    async def submit(self, request: GenerateRequest) -> SubmitReply:
        answer = await self._bus.request(SUBJECTS.worker_submit(self._worker_id), encode(request), 5.0)
        return decode(SubmitReply, answer)

    async def cancel(self, cancel: Cancel) -> None:
        await self._bus.publish(SUBJECTS.worker_cancel(self._worker_id), encode(cancel))

    async def replay(self, stream: str, attempt: int, detokenizer_id: str) -> None:
        replay = Replay([stream], [attempt], detokenizer_id)
        await self._bus.publish(SUBJECTS.worker_replay(self._worker_id), encode(replay))

    async def snapshot(self) -> KvSnapshot:
        data = encode(KvSnapshotRequest(self._worker_id))
        return decode(KvSnapshot, await self._bus.request(SUBJECTS.kv_snapshot(self._worker_id), data, 5.0))

    async def beat_as_gateway(self, gateway_id: str = "g") -> None:
        beat = Heartbeat("gateway", gateway_id, 1, READY, 0.05)
        await self._bus.publish(SUBJECTS.heartbeat("gateway", gateway_id), encode(beat))


def generate(
    request_id: str = "r",
    prompt: list[int] | None = None,
    *,
    attempt: int = 1,
    seeds: tuple[int, ...] = (0,),
    outputs: tuple[list[int], ...] = (),
    detokenizer_id: str = "d",
    gateway_id: str = "g",
    **sampling: object,
) -> GenerateRequest:
    params = SamplingParams(max_tokens=8)
    for name, value in sampling.items():
        setattr(params, name, value)
    return GenerateRequest(
        request_id=request_id,
        attempt=attempt,
        gateway_id=gateway_id,
        detokenizer_id=detokenizer_id,
        model="m",
        prompt_ids=prompt or [1, 2, 3],
        choices=[
            ChoiceState(i, seed, list(outputs[i]) if i < len(outputs) else []) for i, seed in enumerate(seeds)
        ],
        sampling=params,
    )
