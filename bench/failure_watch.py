"""What a system says of itself while it is struck: its probes, several times a second, and its heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from services.cli import fleet, http
from services.common.bus import Message
from services.common.bus.nats import NatsBus
from services.common.subjects import Subjects
from tests.fakes.stack import Stack

LOOK_S = 0.1
ANSWER_S = 1.0  # a probe that takes longer is not ready


def longest_gap(times: Sequence[float]) -> tuple[float, float]:
    """(begin, end) of the longest time between two of ascending ``times``; zeros when there are not two."""
    return max(pairwise(times), key=lambda pair: pair[1] - pair[0], default=(0.0, 0.0))


@dataclass(slots=True)
class ServiceWatch:
    """Looks at the only worker's and the only gateway's /ready. Times are of the wall clock."""

    gateway: str
    bus: NatsBus
    subjects: Subjects
    seen: fleet.Fleet = field(default_factory=fleet.Fleet)
    looks: list[tuple[float, bool, bool]] = field(default_factory=list)  # (time, gateway, worker ready)

    @classmethod
    @asynccontextmanager
    async def of(cls, stack: Stack) -> AsyncIterator[ServiceWatch]:
        bus, subjects = await fleet.connect(stack.state["bus"], "watch")
        watch = cls(stack.base_urls[0], bus, subjects)
        await bus.subscribe(subjects.heartbeats(), watch.seen.on_message)
        looking = asyncio.create_task(watch._look())
        try:
            yield watch
        finally:
            looking.cancel()
            await bus.close()

    async def _look(self) -> None:
        while True:
            at = time.time()
            addresses = [self.gateway]
            addresses += [b.address for b in self.seen.beats.values() if b.service == "worker" and b.address]
            answers = await asyncio.gather(*(http.get(a + "/ready", timeout_s=ANSWER_S) for a in addresses))
            gateway, *workers = [status == 200 for status, _ in answers]
            self.looks.append((at, gateway, any(workers)))
            await asyncio.sleep(LOOK_S)

    def longest_ready(self, begin: float, end: float) -> float:
        """Seconds for which gateway or worker said "ready" at every look between two times."""
        looks = [look for look in self.looks if begin <= look[0] <= end]
        return max(
            _longest_run([(at, g) for at, g, _ in looks]), _longest_run([(at, w) for at, _, w in looks])
        )

    async def until_served(self, since: float, timeout_s: float) -> None:
        """Until gateway and worker are ready again, having not been so for a look, or for long. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not self._is_back(since):  # noqa: ASYNC110 - nobody tells when another process is there
                await asyncio.sleep(LOOK_S)

    def _is_back(self, since: float) -> bool:
        looks = [look for look in self.looks if look[0] > since]
        was_away = any(not (gateway and worker) for _, gateway, worker in looks)
        is_ready = bool(looks) and looks[-1][1] and looks[-1][2]
        return is_ready and (was_away or looks[-1][0] - looks[0][0] > 5.0)

    @asynccontextmanager
    async def handed_over(
        self, worker_id: str, on_request: Callable[[bytes], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Meanwhile calls ``on_request`` with each GenerateRequest that a router hands to the worker."""

        async def on_message(message: Message) -> None:
            await on_request(message.data)

        subscription = await self.bus.subscribe(self.subjects.worker_submit(worker_id), on_message)
        try:
            yield
        finally:
            await subscription.unsubscribe()


def _longest_run(looks: Sequence[tuple[float, bool]]) -> float:
    longest, since = 0.0, None
    for at, is_ready in looks:
        since = (since if since is not None else at) if is_ready else None
        longest = max(longest, at - since if since is not None else 0.0)
    return longest
