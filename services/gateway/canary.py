"""One token through the whole path, now and then: what /ready believes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.errors import ShoalError
from services.common.messages.request import SamplingParams
from services.gateway.life.client import Client
from services.gateway.life.spec import Spec

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Canary:
    """Sends its request at the start, at once when the fleet changed, and when nothing else shows that all works.

    ``last_success_at`` gives the time at which some client's request last brought a token.
    """

    client: Client
    prompt_ids: list[int]
    last_success_at: Callable[[], float]
    interval_s: float = 10.0
    retry_s: float = 0.5
    timeout_s: float = 10.0
    reason: str = "no token has gone through yet"  # why not ready; empty when ready
    _poke: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        if self._task:
            self._task.cancel()

    def poke(self) -> None:
        """Something changed: look again now."""
        self._poke.set()

    def not_ready(self) -> str:
        return self.client.fleet.missing() or self.reason

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        is_poked = False
        while True:
            if self.client.fleet.missing():
                self.reason = "no token has gone through yet"
            elif is_poked or self.reason or loop.time() - self.last_success_at() >= self.interval_s:
                await self._try()
            is_poked = await self._pause(self.retry_s if self.reason else self.interval_s / 2)

    async def _pause(self, seconds: float) -> bool:
        """True when it was cut short by ``poke``."""
        try:
            await asyncio.wait_for(self._poke.wait(), seconds)
        except TimeoutError:
            return False
        self._poke.clear()
        return True

    async def _try(self) -> None:
        spec = Spec(
            f"canary-{self.client.rng.getrandbits(64):016x}",
            self.prompt_ids,
            SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True),
            priority=-(2**31),
            timeout_s=self.timeout_s,
        )
        try:
            async with self.client.submit([spec]) as life:
                await life.all()
        except ShoalError as error:
            if not self.reason:
                log.warning("the canary failed: %s", error.message)
            self.reason = f"the last canary failed: {error.message}"
        else:
            if self.reason:
                log.info("a token went through the whole path")
            self.reason = ""
