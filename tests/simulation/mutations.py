"""Ways to break one promise each in the process that plays worlds. Who plays them must notice every one.

A check that no fault of the code can fail proves nothing: test_promises.py plays worlds without each of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.detokenizer.streams import StreamTable
from services.gateway.life.client import Client
from services.gateway.life.request import RequestState
from services.gateway.life.stream import Row
from services.router.dispatch import Dispatcher
from services.worker.app import WorkerApp


def _cancel_at_the_worker() -> None:
    """It ignores every Cancel."""

    async def ignore(self: WorkerApp, message: Any) -> None:
        pass

    WorkerApp._on_cancel = ignore  # type: ignore[method-assign]


def _cancel_by_holdings() -> None:
    """A gateway that is told of what it does not want lets it be."""
    on_holdings = Client._on_holdings

    async def learn_only(self: Client, message: Any) -> None:
        bus, self.bus = self.bus, _Nowhere()  # type: ignore[assignment]
        try:
            await on_holdings(self, message)
        finally:
            self.bus = bus

    Client._on_holdings = learn_only  # type: ignore[method-assign]


class _Nowhere:
    """A bus on which nothing goes anywhere."""

    async def publish(self, subject: str, data: bytes) -> None:
        pass


def _dead_gateways_at_the_worker() -> None:
    """It keeps what a dead gateway's clients asked for."""
    WorkerApp._free_dead_gateways = lambda self: None  # type: ignore[method-assign]


def _dead_gateways_at_the_router() -> None:
    """It keeps them in its line."""
    Dispatcher.drop_gateway = lambda self, gateway_id: 0  # type: ignore[method-assign]


def _fence_at_the_gateway() -> None:
    """It takes rows of any attempt for the present one's."""
    on_row = RequestState.on_row

    def take(self: RequestState, choice: int, row: Row, worker_id: str, now: float) -> bool:
        return on_row(self, choice, replace(row, attempt=self.attempt), worker_id, now)

    RequestState.on_row = take  # type: ignore[method-assign]


def _silence_at_the_detokenizer() -> None:
    """It keeps to itself which streams stand still."""
    StreamTable.silent = lambda self, now, for_s: {}  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    "cancel-at-the-worker": _cancel_at_the_worker,
    "cancel-by-holdings": _cancel_by_holdings,
    "dead-gateways-at-the-worker": _dead_gateways_at_the_worker,
    "dead-gateways-at-the-router": _dead_gateways_at_the_router,
    "fence-at-the-gateway": _fence_at_the_gateway,
    "silence-at-the-detokenizer": _silence_at_the_detokenizer,
}
