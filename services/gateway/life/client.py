"""Carries out over the bus what RequestState decides: the gateway's only user of subjects."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from services.common.bus import Bus, BusError, Message, Subscription
from services.common.errors import DecodeError, ShoalError, from_code
from services.common.lifecycle import Timing
from services.common.messages.codec import decode, encode
from services.common.messages.control import Bounced, Cancel, Holdings, Replay
from services.common.messages.events import Heartbeat
from services.common.messages.frames import TextFrame
from services.common.messages.request import SubmitReply
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder
from services.gateway.life.fleet import FOLLOWED, Fleet
from services.gateway.life.handle import RequestLife
from services.gateway.life.request import RequestState
from services.gateway.life.rows import rows_of
from services.gateway.life.spec import Action, Patience, Restored, SendCancel, SendReplay, Spec, Submit
from services.gateway.life.stalls import StallWatch

log = logging.getLogger(__name__)

_TICK_S = 0.05


@dataclass(slots=True)
class Counters:
    """Totals since the start, for metrics."""

    resubmissions: int = 0
    replays: int = 0
    cancels: int = 0
    stale_rows: int = 0


class Running(NamedTuple):
    state: RequestState
    life: RequestLife
    stalls: StallWatch


@dataclass(slots=True)
class Client:
    """Submits requests and follows them to their end, over a bus that loses messages and services that die.

    One per gateway process. Owns its subscriptions, its tick and the table of requests.
    """

    bus: Bus
    subjects: Subjects
    gateway_id: str
    model: str
    timing: Timing
    rng: random.Random
    recorder: FlightRecorder
    patience: Patience = field(default_factory=Patience)
    counters: Counters = field(default_factory=Counters)
    on_fleet_change: Callable[[], None] = lambda: None
    fleet: Fleet = field(init=False)
    last_token_at: float = float("-inf")  # by the loop's clock
    _running: dict[str, Running] = field(default_factory=dict)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _subscriptions: list[Subscription] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.model, self.timing, self.rng)

    async def start(self) -> None:
        me = self.gateway_id
        for subject, handler in (
            *((self.subjects.heartbeats(service), self._on_heartbeat) for service in FOLLOWED),
            (self.subjects.heartbeat("gateway", me), self._on_own_beat),
            (self.subjects.gateway_frames(me), self._on_frame),
            (self.subjects.gateway_holdings(me), self._on_holdings),
            (self.subjects.gateway_bounced(me), self._on_bounced),
        ):
            self._subscriptions.append(await self.bus.subscribe(subject, handler))
        self._spawn(self._run_ticks())

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        for task in list(self._tasks):
            task.cancel()

    @property
    def num_requests(self) -> int:
        return len(self._running)

    async def wait_idle(self) -> None:
        """Returns when no request runs."""
        while self._running:
            self._idle.clear()
            await self._idle.wait()

    # -- the reader's side -----------------------------------------------------------------------------------

    def submit(self, specs: Sequence[Spec], restored: Sequence[Restored] = ()) -> RequestLife:
        """Starts requests, whose ids must be new. Returns at once; news and errors come from the handle.

        ``restored``, one for each spec, takes requests over from where a log has them.
        """
        now = self._now()
        states = [
            RequestState(spec, self.model, self.gateway_id, self.rng, now, self.patience) for spec in specs
        ]
        life = RequestLife(states, now, self._end)
        for state, known in zip_longest(states, restored):
            running = self._running[state.request_id] = Running(state, life, StallWatch())
            self.recorder.record(state.request_id, "received", prompt_tokens=len(state.spec.prompt_ids))
            if known is not None:
                state.restore(known)
                self.recorder.record(state.request_id, "taken over", attempt=state.attempt)
            if not state.is_done:
                self._perform(running, state.submit(now, self.fleet))
        return life

    def evict(self, request_id: str) -> None:
        """Ends a call that this gateway carries, because its client has come back on another connection."""
        running = self._running.get(request_id) or self._running.get(f"{request_id}-p0")
        if running is not None:
            running.life.cancel()
            self._end(running.life)

    def give_up(self, error: ShoalError) -> None:
        """Ends what still runs with an error, for this gateway's own end. Kept streams just break off: their clients
        take that for a sign to come back to another."""
        for running in list(self._running.values()):
            if not running.life.is_kept:
                self._perform(running, running.state.fail(error))

    def _end(self, life: RequestLife) -> None:
        """The reader left: cancels whatever still runs."""
        for state in life.states:
            running = self._running.pop(state.request_id, None)
            if running is None:
                continue
            how = "cancelled" if not state.is_done else (state.error.code if state.error else "finished")
            self._perform(running, state.cancel())
            tokens = sum(stream.next_index for stream in state.streams)
            self.recorder.record(state.request_id, "ended", how=how, attempt=state.attempt, tokens=tokens)
        if not self._running:
            self._idle.set()

    # -- actions ---------------------------------------------------------------------------------------------

    def _perform(self, running: Running, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Submit():
                    self._spawn(self._submit(running, action.attempt))
                case SendReplay():
                    self._replay(running.state.request_id, action)
                case SendCancel():
                    self._cancel(running.state, action)
        if running.state.is_done:
            running.life.notify()

    def _replay(self, request_id: str, action: SendReplay) -> None:
        self.counters.replays += len(action.streams)
        fields = {"streams": action.streams, "worker": action.worker_id, "to": action.detokenizer_id}
        self.recorder.record(request_id, "replay", **fields)
        replay = Replay(action.streams, [action.attempt] * len(action.streams), action.detokenizer_id)
        self._spawn(self.bus.publish(self.subjects.worker_replay(action.worker_id), encode(replay)))

    def _cancel(self, state: RequestState, action: SendCancel) -> None:
        """Tells the holder, and the detokenizer, which would keep the streams for minutes of silence."""
        self.counters.cancels += 1
        cancel = Cancel([state.request_id], [action.attempt], reason=action.reason)
        worker, names = action.worker_id, state.stream_ids
        subject = self.subjects.worker_cancel(worker) if worker else self.subjects.cancel()
        self._spawn(self.bus.publish(subject, encode(cancel)))
        if state.detokenizer_id:
            streams = Cancel(
                streams=names, stream_attempts=[action.attempt] * len(names), reason=action.reason
            )
            subject = self.subjects.detokenizer_cancel(state.detokenizer_id)
            self._spawn(self.bus.publish(subject, encode(streams)))

    async def _submit(self, running: Running, attempt: int) -> None:
        state, request_id = running.state, running.state.request_id
        if attempt > 1:
            self.counters.resubmissions += 1
            log.info("submitting again", extra={"request_id": request_id, "attempt": attempt})
        self.recorder.record(request_id, "submit", attempt=attempt, detokenizer=state.detokenizer_id)
        data = encode(state.build_message(self._now()))
        try:
            timeout_s = state.answer_timeout_s(self.timing.lease_s)
            router_id = state.router_to_ask(self.fleet)
            subjects = self.subjects
            subject = subjects.router_submit(router_id) if router_id else subjects.submit(self.model)
            answer = await self.bus.request(subject, data, timeout_s)
            reply = decode(SubmitReply, answer)
        except (BusError, DecodeError) as error:
            self.recorder.record(request_id, "no reply", attempt=attempt, why=error.message)
            actions = state.on_no_reply(attempt, error, self._now(), self.fleet)
        else:
            what = "accepted" if reply.accepted else "refused"
            why = reply.reason or reply.code
            self.recorder.record(request_id, what, attempt=attempt, by=reply.holder_id, why=why)
            actions = state.on_reply(attempt, reply, self._now(), self.fleet)
            running.life.notify()
        self._perform(running, actions)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what arrives ----------------------------------------------------------------------------------------

    async def _on_frame(self, message: Message) -> None:
        frame = decode(TextFrame, message.data)
        now = self._now()
        for name, row in rows_of(frame):
            request_id, _, choice = name.rpartition(":")
            running = self._running.get(request_id)
            if running is None or not choice.isdecimal() or int(choice) >= len(running.state.streams):
                continue
            if running.state.on_row(int(choice), row, frame.worker_id, now):
                self.last_token_at = now
                running.life.notify()
            else:
                self.counters.stale_rows += 1

    async def _on_holdings(self, message: Message) -> None:
        """Learns who holds what, and has everything freed that nobody here wants any more."""
        held = decode(Holdings, message.data)
        now = self._now()
        unwanted = Cancel(reason="not wanted by its gateway")
        for request_id, attempt in zip(held.request_ids, held.attempts, strict=False):
            running = self._running.get(request_id)
            if running is None or running.state.is_done or attempt < running.state.attempt:
                unwanted.request_ids.append(request_id)
                unwanted.attempts.append(attempt)
            else:
                running.state.on_holding(held.service, held.holder_id, attempt, now)
        dropped = set(unwanted.request_ids)
        columns = (held.streams, held.stream_attempts, held.next_index, held.finished)
        for name, attempt, next_index, finished in zip(*columns, strict=False):
            if (
                not self._wants(name, attempt, next_index, bool(finished))
                and name.rpartition(":")[0] not in dropped
            ):
                unwanted.streams.append(name)
                unwanted.stream_attempts.append(attempt)
        if unwanted.request_ids or unwanted.streams:
            self.counters.cancels += 1
            await self.bus.publish(self._cancel_subject(held), encode(unwanted))

    def _cancel_subject(self, held: Holdings) -> str:
        match held.service:
            case "worker":
                return self.subjects.worker_cancel(held.holder_id)
            case "detokenizer":
                return self.subjects.detokenizer_cancel(held.holder_id)
            case _:
                return self.subjects.cancel()

    def _wants(self, name: str, attempt: int, next_index: int, finished: bool) -> bool:
        """Whether a stream that is reported is still of use; takes note of how far it is."""
        request_id, _, choice = name.rpartition(":")
        running = self._running.get(request_id)
        if running is None or not choice.isdecimal() or int(choice) >= len(running.state.streams):
            return False
        return running.state.on_stream_report(int(choice), attempt, next_index, finished)

    async def _on_bounced(self, message: Message) -> None:
        bounced = decode(Bounced, message.data)
        error = from_code(bounced.code, bounced.reason) if bounced.code else None
        suspects = {name for name, flag in zip(bounced.request_ids, bounced.suspects, strict=False) if flag}
        for request_id, attempt in zip(bounced.request_ids, bounced.attempts, strict=False):
            running = self._running.get(request_id)
            if running is None:
                continue
            state = running.state
            self.recorder.record(request_id, "bounced", by=bounced.holder_id, why=bounced.reason)
            if request_id in suspects:
                actions = state.on_crashed(attempt, self._now(), self.fleet, bounced.reason)
            else:
                actions = state.on_bounced(attempt, self._now(), self.fleet, error)
            self._perform(running, actions)

    async def _on_own_beat(self, message: Message) -> None:
        self.fleet.on_own_beat(self._now())

    async def _on_heartbeat(self, message: Message) -> None:
        beat = decode(Heartbeat, message.data)
        was_missing = self.fleet.missing()
        if self.fleet.on_heartbeat(beat, self._now()):
            self._on_gone(beat.service, beat.instance_id)
        if beat.service == "detokenizer" and beat.state != "ready":
            self._on_gone(beat.service, beat.instance_id)
        if was_missing != self.fleet.missing():
            self.on_fleet_change()

    def _on_gone(self, service: str, instance_id: str) -> None:
        now = self._now()
        for running in list(self._running.values()):
            self._perform(running, running.state.on_gone(service, instance_id, now, self.fleet))

    # -- time ------------------------------------------------------------------------------------------------

    async def _run_ticks(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                self._tick(self._now())
            except Exception:
                log.exception("tick failed")

    def _tick(self, now: float) -> None:
        for service, instance_id in self.fleet.remove_expired(now):
            log.warning("%s %s fell silent", service, instance_id)
            self._on_gone(service, instance_id)
            self.on_fleet_change()
        for running in list(self._running.values()):
            self._note_stalls(running, now)
            actions = running.state.tick(now, self.fleet)
            if actions or running.state.is_done:
                self._perform(running, actions)

    def _note_stalls(self, running: Running, now: float) -> None:
        state = running.state
        for found in running.stalls.look(state.streams, now):
            waited = f"{found.waited_s:.2f}"
            fields = {"choice": found.choice, "at": found.at, "waited_s": waited, "worker": state.worker_id}
            self.recorder.record(state.request_id, found.event, **fields)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
