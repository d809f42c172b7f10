"""What a bus promises.

Delivery is at most once: a message may be lost, and nobody is told. Order holds from one sender to one
subscription as long as nothing is lost. Everything above is built to live with that (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from services.common.errors import ShoalError

MAX_PAYLOAD = 8 * 1024 * 1024  # bytes; `shoal up` starts its NATS with the same limit


class BusError(ShoalError):
    status, code = 503, "bus_error"


class NoResponders(BusError):
    """Nobody listens on a subject that was asked."""

    code = "no_responders"


class RequestTimeout(BusError):
    """Nobody answered in time; the request may or may not have been received."""

    code = "bus_timeout"


class PayloadTooLarge(BusError):
    """A message over the bus's limit. Told to the sender at once, never sent."""

    status, code, type = 413, "request_too_large", "invalid_request_error"


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    data: bytes
    reply: str = ""  # subject to answer to; empty when no answer is expected


Handler = Callable[[Message], Awaitable[None]]


class Subscription(Protocol):
    async def unsubscribe(self) -> None:
        """Takes no further messages and returns when those that arrived before have been handled.

        Not to be awaited in the subscription's own handler, which it would wait for.
        """


class Bus(Protocol):
    """Owned by one process. Handlers of one subscription run one after the other, in order of arrival."""

    @property
    def max_payload(self) -> int:
        """Largest message in bytes."""

    @property
    def is_connected(self) -> bool:
        """False while the connection is down; messages are then kept up to a bound and sent on reconnection."""

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Sends without waiting for delivery. Raises PayloadTooLarge; a lost connection is not an error here."""

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """The first answer. Raises NoResponders, RequestTimeout or PayloadTooLarge."""

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Calls ``handler`` for each message; with ``queue``, one member of the group gets each message.

        An exception from a handler is logged with the subject and does not end the subscription.
        """

    async def close(self) -> None:
        """Flushes what was published and ends all subscriptions."""
