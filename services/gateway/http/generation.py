"""One generation over one HTTP exchange: submit, watch the client, write what comes, end cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.errors import ShoalError
from services.gateway.http.sse import (
    DONE,
    KEEP_ALIVE,
    SSE_HEADERS,
    JsonResponse,
    encode_headers,
    error_event,
    error_response,
    wait_for_disconnect,
)
from services.gateway.life.handle import RequestLife
from services.gateway.life.stream import Delta

log = logging.getLogger(__name__)


class Renderer(Protocol):
    """How a dialect words what a request brings. One per call; keeps what it needs between deltas."""

    async def prepare(self, deltas: list[Delta]) -> None:
        """Words what takes long, the log probabilities of prompts, before ``events`` or ``body`` needs it."""

    def opening(self) -> bytes:
        """Events before the first delta."""

    def events(self, deltas: list[Delta]) -> bytes:
        """Events of new deltas."""

    def closing(self) -> bytes:
        """Events after the last delta, the end mark apart."""

    def body(self, deltas: list[Delta]) -> dict[str, Any]:
        """The whole answer, from one delta per choice."""


class Observer(Protocol):
    """Who counts: metrics, limits, logs."""

    def on_deltas(self, deltas: list[Delta]) -> None: ...

    def on_end(self, error: ShoalError | None, *, left: bool) -> None: ...


class Log(Protocol):
    """Where a stream is kept for a client that comes back."""

    async def begin(self, attempt: int) -> None: ...

    def add(self, deltas: list[Delta], attempt: int) -> None: ...

    def end(self) -> None: ...


class GenerationResponse(Response):
    """A response that is produced while it is sent. Headers are sent when the request is accepted, so a refusal keeps its status code."""

    def __init__(
        self,
        submit: Callable[[], RequestLife],
        renderer: Renderer,
        observer: Observer,
        *,
        stream: bool,
        journal: Log | None = None,
        keep_alive_s: float = 15.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._submit, self._renderer, self._observer = submit, renderer, observer
        self._journal = journal
        self._stream, self._keep_alive_s, self._extra = stream, keep_alive_s, headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: ShoalError | None = None
        left = True
        async with self._submit() as life:
            life.is_kept = self._journal is not None
            watcher = asyncio.create_task(_cancel_when_gone(receive, life))
            try:
                left = not await (self._write_stream if self._stream else self._write_whole)(
                    life, scope, receive, send
                )
            except ShoalError as caught:
                error, left = caught, False
                await error_response(error)(scope, receive, send)
            finally:
                watcher.cancel()
                self._observer.on_end(error, left=left)

    async def _write_whole(self, life: RequestLife, scope: Scope, receive: Receive, send: Send) -> bool:
        """True when the client was there to the end."""
        deltas = await life.all()
        if deltas is None:
            return False
        self._observer.on_deltas(deltas)
        if life.is_scored:
            await self._renderer.prepare(deltas)
        await JsonResponse(self._renderer.body(deltas), headers=self._extra)(scope, receive, send)
        return True

    async def _write_stream(self, life: RequestLife, scope: Scope, receive: Receive, send: Send) -> bool:
        await life.accepted()
        try:
            if self._journal is not None:
                await self._journal.begin(life.attempt)
            headers = [*SSE_HEADERS, *encode_headers(self._extra)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if opening := self._renderer.opening():
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            await self._write_events(life, send)
            data = self._renderer.closing() + DONE
        except ShoalError as error:  # the status is sent: the error becomes the last event
            data = error_event(error) + DONE
        finally:
            if self._journal is not None:
                self._journal.end()
        await send({"type": "http.response.body", "body": data})
        return True

    async def _write_events(self, life: RequestLife, send: Send) -> None:
        while (deltas := await life.next(self._keep_alive_s)) is not None:
            if deltas:
                self._observer.on_deltas(deltas)
                if self._journal is not None:
                    self._journal.add(deltas, life.attempt)
                if life.is_scored:
                    await self._renderer.prepare(deltas)
            data = self._renderer.events(deltas) if deltas else KEEP_ALIVE
            if data:  # else it is held back by a parser
                await send({"type": "http.response.body", "body": data, "more_body": True})


async def _cancel_when_gone(receive: Receive, life: RequestLife) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await wait_for_disconnect(receive)
        life.cancel()
