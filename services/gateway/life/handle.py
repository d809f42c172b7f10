"""What a dialect holds of its running requests: their news, one wake-up at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from services.gateway.life.request import RequestState
from services.gateway.life.stream import Delta


class RequestLife:
    """One client call: one submitted request, or several (a list of prompts) that live and fail together.

    Use ``async with``: leaving the block early cancels everywhere what still runs. ``next`` gives what came
    since the last call, merged per choice, so a slow reader holds up nobody and costs no more memory than the
    output itself. Choices are counted through: those of the first prompt, then those of the second, ...
    """

    def __init__(
        self, states: list[RequestState], started_at: float, end: Callable[[RequestLife], None]
    ) -> None:
        self.states = states
        self.started_at = started_at
        self.is_kept = False  # its client can take it up at another gateway
        self.is_scored = any(state.scores is not None for state in states)
        self._end = end
        self._wake: asyncio.Future[None] | None = None
        self._only_end = False
        self._is_cancelled = False

    @property
    def attempt(self) -> int:
        """The highest that was made."""
        return max(state.attempt for state in self.states)

    async def __aenter__(self) -> RequestLife:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end(self)

    def notify(self) -> None:
        """Something arrived, or a request ended."""
        if self._wake is not None and not self._wake.done() and not (self._only_end and not self._is_over()):
            self._wake.set_result(None)

    def cancel(self) -> None:
        """The reader is gone: ``next`` returns None from now on."""
        self._is_cancelled = True
        self.notify()

    async def accepted(self) -> None:
        """Returns when every request is held somewhere; raises the error of one that was refused."""
        while not self._is_over() and not all(state.was_accepted for state in self.states):
            await self._wait(None)
        self._raise_error()

    async def next(self, timeout_s: float | None = None) -> list[Delta] | None:
        """New deltas; [] when ``timeout_s`` passed without any; None at the end. Raises a request's error.

        The error comes after every delta that arrived before it.
        """
        deltas = list(self._take())
        if not deltas and not self._is_over():
            await self._wait(timeout_s)
            deltas = list(self._take())
        if self._is_cancelled:
            return None
        if deltas:
            return deltas
        if not self._is_over():
            return []
        self._raise_error()
        return None

    async def all(self) -> list[Delta] | None:
        """Everything, at the end: one delta per choice. None when the reader left. Raises a request's error."""
        self._only_end = True
        while not self._is_over():
            await self._wait(None)
        self._raise_error()
        return None if self._is_cancelled else list(self._take())

    def _raise_error(self) -> None:
        for state in self.states:
            if state.error is not None and not self._is_cancelled:
                raise state.error

    def _is_over(self) -> bool:
        states = self.states
        return (
            self._is_cancelled or all(s.is_done for s in states) or any(s.error is not None for s in states)
        )

    def _take(self) -> Iterator[Delta]:
        base = 0
        for state in self.states:
            for stream in () if state.awaits_scores else state.streams:
                delta = stream.take()
                if delta is not None:
                    delta.choice += base
                    if state.scores is not None:
                        delta.prompt_logprobs = state.scores.whole
                    yield delta
            base += len(state.streams)

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        wake = self._wake = loop.create_future()
        timer = loop.call_later(timeout_s, _set, wake) if timeout_s else None
        try:
            await wake
        finally:
            self._wake = None
            if timer:
                timer.cancel()


def _set(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
