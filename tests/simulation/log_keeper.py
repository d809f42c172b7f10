"""kvstore's logs of streams in a simulated world: its real code on a virtual Redis, and what befalls both.

Faults come at times of their own, drawn from the world's seed, one after the other: each begins when the former has
been healed, as after any loss a log is whole again a moment later, for streams that run.
"""

from __future__ import annotations

import asyncio
import logging
import random

from services.common.bus.memory import MemoryBroker, MemoryBus
from services.kvstore.log_server import LogServer
from services.kvstore.stream_log import StreamLogs
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.node import SUBJECTS
from tests.simulation.plan import FAULTS_END_S
from tests.simulation.virtual_redis import VirtualRedis

log = logging.getLogger(__name__)

TICK_S = 0.4
HEALED_S = 2.0  # from the end of one fault to the next
FAULTS = ("flush", "restart redis", "redis away", "slow redis", "restart kvstore")


class LogKeeper:
    """One kvstore with its Redis."""

    def __init__(self, loop: VirtualLoop, broker: MemoryBroker, seed: int) -> None:
        self._loop, self._broker = loop, broker
        self._rng = random.Random(f"log keeper {seed}")
        self._redis = VirtualRedis(self._rng)
        self._process: Process | None = None
        self._bus: MemoryBus | None = None
        self._graveyard: list[Process] = []  # keeps what was killed from being collected
        self.num_faults = 0

    async def start(self) -> None:
        """Returns when it takes appends."""
        process = self._process = Process("log-keeper", self._loop)
        self._bus = MemoryBus(self._broker, "log-keeper")
        logs = StreamLogs(self._redis, SUBJECTS.namespace, self._rng)  # type: ignore[arg-type]
        server = LogServer(self._bus, SUBJECTS, logs, 600.0, lambda error: None)
        await process.run(server.start())
        process.run(self._tick(server))

    async def _tick(self, server: LogServer) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            server.tick()

    async def suffer(self) -> None:
        """Plays its faults, outside of its process; two in three worlds have some."""
        at = self._rng.uniform(0.5, 2.5)
        for _ in range(self._rng.choice((0, 1, 2))):
            duration = self._rng.uniform(0.05, 1.5)
            if at + duration > FAULTS_END_S:
                break
            await asyncio.sleep(at)
            fault = self._rng.choice(FAULTS)
            self.num_faults += 1
            log.info("the logs: %s for %.2f s", fault, duration)
            await self._strike(fault, duration)
            log.info("the logs: %s is over", fault)
            at = HEALED_S

    async def _strike(self, fault: str, duration: float) -> None:
        redis = self._redis
        if fault == "flush":
            redis.flush()
        elif fault == "slow redis":
            redis.delay_s = 0.3
            await asyncio.sleep(duration)
            redis.delay_s = 0.001
        elif fault == "restart kvstore":
            self._kill()
            await asyncio.sleep(duration)
            await self.start()
        else:
            redis.is_up = False
            await asyncio.sleep(duration)
            if fault == "restart redis":
                redis.restart()
            redis.is_up = True

    def _kill(self) -> None:
        assert self._process is not None
        assert self._bus is not None
        self._process.kill()
        self._graveyard.append(self._process)
        self._bus.kill()
