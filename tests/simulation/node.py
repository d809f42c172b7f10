"""One service of a simulated world: started, stopped, killed, paused, and started again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from services.common.bootstrap import Context
from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.lifecycle import App, Identity, ServiceRuntime, Timing
from services.common.messages.events import READY
from services.common.options import Settings, parse
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from tests.simulation.loop import Process, VirtualLoop

log = logging.getLogger(__name__)

MODEL = "sim"
DRAIN_TIMEOUT_S = 2.0
SUBJECTS = Subjects("sim")

Build = Callable[[Context], Awaitable[App]]


@cache
def _settings(service: str, flags: tuple[str, ...]) -> Settings:
    return parse(service, flags, {})


@dataclass
class Node:
    """A place for one service; each start is a new process with a new epoch, and perhaps a new name."""

    service: str
    index: int
    loop: VirtualLoop
    broker: MemoryBroker
    build: Build
    rng: random.Random
    flags: Sequence[str] = ()
    epoch: int = 0
    generation: int = 0  # of its name
    process: Process | None = None
    runtime: ServiceRuntime | None = None
    bus: MemoryBus | None = None
    graveyard: list[Process] = field(default_factory=list)  # keeps what was killed from being collected

    @property
    def name(self) -> str:
        return f"{self.service}-{self.index}" + (f".{self.generation}" if self.generation else "")

    @property
    def is_up(self) -> bool:
        return self.process is not None

    @property
    def is_ready(self) -> bool:
        return self.is_up and self.runtime is not None and self.runtime.state == READY

    def start(self, *, new_name: bool = False) -> None:
        if self.process is not None:
            return
        self.epoch += 1
        self.generation += new_name
        self.process = Process(self.name, self.loop)
        self.process.run(self._main())

    async def _main(self) -> None:
        try:
            runtime = await self._start()
        except Exception:
            log.exception("%s does not start", self.name)
            return
        await runtime.has_failed.wait()
        await runtime.stop()
        self.kill()

    async def _start(self) -> ServiceRuntime:
        identity = Identity(self.service, self.name, self.epoch, MODEL)
        metrics, recorder = Metrics(self.service, "sim"), FlightRecorder(self.loop.time)
        self.bus = MemoryBus(self.broker, self.name)
        rng = random.Random(self.rng.getrandbits(64))
        settings = _settings(self.service, tuple(self.flags))
        timing = Timing(drain_timeout_s=DRAIN_TIMEOUT_S, phase_s=rng.random())
        context = Context(settings, identity, self.bus, SUBJECTS, timing, metrics, recorder, rng)
        app = await self.build(context)
        runtime = ServiceRuntime(identity, self.bus, SUBJECTS, app, timing, recorder)
        context.beat_now, context.fail = runtime.beat_now, runtime.fail
        await runtime.start()
        self.runtime = runtime
        return runtime

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is None:
            return
        self.process.kill()
        self.graveyard.append(self.process)
        if self.bus:
            self.bus.kill()
        self.process = self.runtime = self.bus = None

    async def drain(self) -> None:
        """SIGTERM; returns when the process has ended."""
        process, runtime = self.process, self.runtime
        if process is None or runtime is None:
            self.kill()  # told to stop while it starts
            return

        async def end() -> None:
            await runtime.drain()
            await runtime.stop()

        ending = process.run(end())
        # The process may be paused or killed meanwhile, and then its task never ends.
        for _ in range(200):
            if ending.done() or process.is_killed:
                break
            await asyncio.sleep(0.05)
        if self.process is process:
            self.kill()
