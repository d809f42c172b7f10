"""What a dialect holds of a running request: its news, one wake-up at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.gateway.life.request import RequestState
from services.gateway.life.stream import Delta


class RequestLife:
    """A submitted request. Use ``async with``: leaving the block early cancels the request everywhere.

    ``next`` gives what came since the last call, merged per choice, so a slow reader holds up nobody and costs
    no more memory than the output itself.
    """

    def __init__(self, state: RequestState, started_at: float, end: Callable[[RequestLife], None]) -> None:
        self.state = state
        self.started_at = started_at
        self._end = end
        self._wake: asyncio.Future[None] | None = None
        self._is_cancelled = False

    @property
    def request_id(self) -> str:
        return self.state.spec.request_id

    async def __aenter__(self) -> RequestLife:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end(self)

    def notify(self) -> None:
        """Something arrived, or the request ended."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def cancel(self) -> None:
        """The reader is gone: ``next`` returns None from now on."""
        self._is_cancelled = True
        self.notify()

    async def next(self, timeout_s: float | None = None) -> list[Delta] | None:
        """New deltas; [] when ``timeout_s`` passed without any; None at the end. Raises the request's error.

        The error comes after every delta that arrived before it.
        """
        deltas = self._take()
        if not deltas and not self._is_over():
            await self._wait(timeout_s)
            deltas = self._take()
        if deltas and not self._is_cancelled:
            return deltas
        if not self._is_over():
            return []
        if self.state.error is not None and not self._is_cancelled:
            raise self.state.error
        return None

    def _is_over(self) -> bool:
        return self._is_cancelled or self.state.is_done

    def _take(self) -> list[Delta]:
        return [delta for stream in self.state.streams if (delta := stream.take()) is not None]

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(timeout_s, self.notify) if timeout_s else None
        try:
            await self._wake
        finally:
            self._wake = None
            if timer:
                timer.cancel()
