"""From start to stop: what every service process does alike.

A service is an ``App``. ``ServiceRuntime`` gives it a bus, tells the world that it lives (heartbeats), calls it
regularly, answers traces, and stops it: SIGTERM means drain, then stop, then exit 0; a second signal means stop now.
The runtime uses the event loop's clock alone, so that simulations can drive it by a virtual one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from services.common.bus import Bus, Message
from services.common.messages import events
from services.common.messages.codec import decode, encode
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder
from services.common.version import VERSION

log = logging.getLogger(__name__)

MIN_BEAT_GAP_S = 0.01
STOP_SHARE, MAX_STOP_S = 0.25, 5.0  # of --drain_timeout that are kept for the stop after the drain
MIN_STOP_S = 1.0  # however short the timeout is


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this process is. ``epoch`` differs at every start, so a restarted service is not taken for its past."""

    service: str
    instance_id: str
    epoch: int
    model: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A service silent for ``lease_s`` counts as dead. Why these: docs/architecture.md, "Liveness"."""

    heartbeat_s: float = 0.4
    lease_s: float = 1.35
    drain_timeout_s: float = 30.0
    phase_s: float = 0.0  # of the beats. Simulated services have others, as if on machines of their own.


class App(Protocol):
    """One service's logic. It owns its subscriptions and tasks; the runtime calls it, never the reverse."""

    async def start(self) -> None:
        """Subscribes and starts tasks; returns when the service can take work."""

    def heartbeat(self) -> tuple[events.WorkerLoad | None, dict[str, float]]:
        """Load for routers (workers only) and figures for people."""

    async def tick(self) -> None:
        """What is due by time. Called each heartbeat interval from the end of ``start`` on; the next beat waits for it.

        One wake-up for all that a service does regularly, and one write for what it then sends: on CPUs that serve
        little else, waking costs more than what is done.
        """

    def not_ready(self) -> str:
        """Why the service cannot take work now; empty when it can."""

    async def drain(self) -> None:
        """Takes no new work and returns when what ran is finished or handed over."""

    async def stop(self) -> None:
        """Ends subscriptions and tasks."""


@runtime_checkable
class HttpApp(App, Protocol):
    """An app whose own HTTP server has /health, /ready and /metrics among its paths."""

    async def serve(self, not_ready: Callable[[], str], listener: socket.socket) -> None:
        """Answers HTTP from now on; called before ``start``."""


@dataclass(slots=True)
class ServiceRuntime:
    identity: Identity
    bus: Bus
    subjects: Subjects
    app: App
    timing: Timing = field(default_factory=Timing)
    recorder: FlightRecorder = field(default_factory=FlightRecorder)
    state: str = events.STARTING
    _beat_now: asyncio.Event = field(default_factory=asyncio.Event)
    has_failed: asyncio.Event = field(default_factory=asyncio.Event)
    _beats: asyncio.Task[None] | None = None
    _stop_by: float | None = None  # by the loop's clock; None: it was not drained

    async def start(self) -> None:
        self._beats = asyncio.create_task(self._run_beats())
        await self.bus.subscribe(self.subjects.trace(), self._on_trace)
        await self.app.start()
        self.state = events.READY
        self.beat_now()
        log.info("ready", extra={"address": self.identity.address})

    def beat_now(self) -> None:
        """Sends the next heartbeat at once, because the load changed. Never more than one in 10 ms."""
        self._beat_now.set()

    def fail(self, reason: str) -> None:
        """The app cannot go on: the process stops, without a drain, and exits with 1."""
        log.error("stopping: %s", reason)
        self.has_failed.set()

    def not_ready(self) -> str:
        if self.state != events.READY:
            return self.state
        if not self.bus.is_connected:
            return "NATS is away"
        return self.app.not_ready()

    async def drain(self) -> None:
        """Hands over within the timeout, less what ``stop`` may need of it. What is left then is lost here and resumed
        elsewhere by its gateway."""
        self.state = events.DRAINING
        self.beat_now()
        timeout_s = self.timing.drain_timeout_s
        self._stop_by = asyncio.get_running_loop().time() + max(timeout_s, MIN_STOP_S)
        drain_s = timeout_s - min(MAX_STOP_S, timeout_s * STOP_SHARE)
        try:
            await asyncio.wait_for(self.app.drain(), drain_s)
        except TimeoutError:
            log.warning("drain timed out after %.1f s", drain_s)

    async def stop(self) -> None:
        """Ends everything; after a drain, by the end of its timeout, done or not."""
        self.state = events.STOPPED
        try:
            async with asyncio.timeout_at(self._stop_by):
                await self._stop()
        except TimeoutError:
            log.warning("not all could be ended in order within --drain_timeout")

    async def _stop(self) -> None:
        await self._send_heartbeat()
        if self._beats:
            self._beats.cancel()
        await self.app.stop()
        await self.bus.close()

    async def _run_beats(self) -> None:
        """A beat and a tick each interval; between them early beats.

        Intervals begin at the multiples of their length by the machine's clock, so services of one machine beat
        together: who hears several of them is woken once, and by its own beat.
        """
        loop, due_at = asyncio.get_running_loop(), 0.0
        interval_s, phase_s = self.timing.heartbeat_s, self.timing.phase_s
        while True:
            sent_at = loop.time()
            is_due = sent_at >= due_at - MIN_BEAT_GAP_S  # timers of uvloop are early by up to a millisecond
            if is_due:
                due_at = phase_s + interval_s * ((sent_at + MIN_BEAT_GAP_S - phase_s) // interval_s + 1)
            try:
                await self._send_heartbeat()
                if is_due and self.state != events.STARTING:
                    await self.app.tick()
            except Exception:
                log.exception("a beat failed")
            wake = loop.call_at(due_at, self._beat_now.set)
            await self._beat_now.wait()
            wake.cancel()
            if (early_s := sent_at + MIN_BEAT_GAP_S - loop.time()) > 0:
                await asyncio.sleep(early_s)
            self._beat_now.clear()

    async def _send_heartbeat(self) -> None:
        me = self.identity
        starting = self.state == events.STARTING
        worker, load = (None, {}) if starting else self.app.heartbeat()
        beat = events.Heartbeat(
            service=me.service,
            instance_id=me.instance_id,
            epoch=me.epoch,
            state=self.state,
            interval_s=self.timing.heartbeat_s,
            model=me.model,
            address=me.address,
            pid=os.getpid(),
            host=platform.node(),
            version=VERSION,
            worker=worker,
            load=load,
        )
        await self.bus.publish(self.subjects.heartbeat(me.service, me.instance_id), encode(beat))

    async def _on_trace(self, message: Message) -> None:
        wanted = decode(events.TraceRequest, message.data).request_id
        found = self.recorder.of(wanted)
        if found and message.reply:
            reply = events.TraceReply(self.identity.service, self.identity.instance_id, found)
            await self.bus.publish(message.reply, encode(reply))


def new_instance_id(service: str, rng: random.Random) -> str:
    return f"{service}-{rng.getrandbits(40):010x}"


def new_epoch() -> int:
    """Rises with every start: microseconds since 1970."""
    return time.time_ns() // 1000


async def run_until_signalled(start: Callable[[], Awaitable[ServiceRuntime]]) -> int:
    """Runs one service to its end. Returns the exit code: 0 after SIGTERM or SIGINT, 1 when it stopped itself.

    Signals count from the first moment, so a service that is told to stop while it starts does.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    again = asyncio.Event()

    def on_signal() -> None:
        (again if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    starting = asyncio.ensure_future(start())
    stop_wait = asyncio.ensure_future(told.wait())
    await asyncio.wait({starting, stop_wait}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return 0
    runtime = starting.result()
    failed = asyncio.ensure_future(runtime.has_failed.wait())
    await asyncio.wait({stop_wait, failed}, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        await runtime.stop()
        return 1
    failed.cancel()
    log.info("told to stop: draining")
    draining = asyncio.ensure_future(runtime.drain())
    hurry = asyncio.ensure_future(again.wait())
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurry):
        task.cancel()
    await runtime.stop()
    log.info("stopped")
    return 0
