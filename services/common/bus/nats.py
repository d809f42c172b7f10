"""The bus over NATS core, by nats-py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription

from services.common.bus.base import (
    BusError,
    Handler,
    Message,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
    Subscription,
)

log = logging.getLogger(__name__)

# What is published while the connection is down, in bytes. Beyond it messages are lost, as the promises allow.
PENDING_BYTES = 32 * 1024 * 1024
UNSUBSCRIBE_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class NatsSettings:
    url: str = "nats://127.0.0.1:4222"  # several, comma-separated
    user: str = ""
    password: str = ""
    token: str = ""
    tls_ca: str = ""  # files in PEM
    tls_cert: str = ""
    tls_key: str = ""
    ping_interval_s: float = 1.0  # with two unanswered pings a stopped server is left
    connect_timeout_s: float = 10.0


class _Client(Client):
    """nats-py's, which would go on in the clear, with the password, where a server asks for no TLS."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.options.get("tls") and not info.get("tls_required"):
            raise nats.errors.Error("nats: TLS is wanted here, and the server does not require it")
        await super()._process_info(info, initial_connection)


async def _within(timeout_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Awaits nats-py's ``connect``. It loses a cancellation that comes while it closes a refused connection, and then
    goes on for ever; so it is told until it hears. Raises TimeoutError."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        is_late = not task.done()
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
    if is_late:
        raise TimeoutError
    task.result()


class NatsBus:
    """One connection to NATS; reconnects for ever. Made by ``connect``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    async def connect(cls, settings: NatsSettings, name: str) -> NatsBus:
        """Raises BusError when no server answers within ``connect_timeout_s``."""
        client = _Client()
        try:
            # With reconnection without end, connect itself goes on trying; the limit is ours.
            await _within(settings.connect_timeout_s, client.connect(**_connect_options(settings, name)))
        except (OSError, nats.errors.Error, TimeoutError) as error:
            reason = str(error) or str(client.last_error or "") or type(error).__name__
            raise BusError(f"NATS at {settings.url} cannot be reached: {reason}") from error
        return cls(client)

    @property
    def max_payload(self) -> int:
        return self._client.max_payload

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self._check_size(data)
        try:
            await self._client.publish(subject, data, reply=reply)
        except nats.errors.OutboundBufferLimitError:
            log.warning("NATS is away and the buffer is full: a message on %s is lost", subject)
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            log.debug("published on %s after the bus was closed", subject)

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        self._check_size(data)
        try:
            return (await self._client.request(subject, data, timeout=timeout_s)).data
        except nats.errors.NoRespondersError:
            raise NoResponders(f"nobody listens on {subject}") from None
        except (nats.errors.TimeoutError, TimeoutError):
            raise RequestTimeout(f"no answer on {subject} within {timeout_s:.3g} s") from None
        except nats.errors.Error as error:
            raise RequestTimeout(f"NATS is away: {error or type(error).__name__}") from error

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        async def on_message(msg: Msg) -> None:
            try:
                await handler(Message(msg.subject, msg.data, msg.reply))
            except Exception:
                log.exception("handler of %s failed", subject)

        subscription = await self._client.subscribe(
            subject, queue, cb=on_message, pending_msgs_limit=65_536, pending_bytes_limit=256 * 1024 * 1024
        )
        # A request that is sent next must find the subscription in place. nats-py writes flush()'s PING past its
        # own buffer, so the first PONG only tells that the buffer was written, and the second that it was read.
        if self._client.is_connected:
            await self._client.flush()
            await self._client.flush()
        return NatsSubscription(subscription)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._client.drain(), CLOSE_TIMEOUT_S)
        except (nats.errors.Error, TimeoutError, OSError):
            with contextlib.suppress(OSError):  # the server was faster
                await self._client.close()

    def _check_size(self, data: bytes) -> None:
        if len(data) > self.max_payload:
            raise PayloadTooLarge(
                f"a message of {len(data)} bytes is over the bus's limit of {self.max_payload}"
            )


class NatsSubscription:
    def __init__(self, subscription: ClientSubscription) -> None:
        self._subscription = subscription

    async def unsubscribe(self) -> None:
        # Where the server is away or the connection closed, nothing arrives any more.
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            await asyncio.wait_for(self._subscription.drain(), UNSUBSCRIBE_TIMEOUT_S)


def _connect_options(settings: NatsSettings, name: str) -> dict[str, Any]:
    told = ""

    async def on_error(error: Exception) -> None:
        nonlocal told
        text = str(error) or type(error).__name__
        # While a server is away, the same refusal comes ten times a second.
        log.log(logging.DEBUG if text == told else logging.WARNING, "NATS: %s", text)
        told = text

    async def on_disconnected() -> None:
        log.warning("NATS connection lost; reconnecting")

    async def on_reconnected() -> None:
        nonlocal told
        told = ""
        log.info("NATS connection is back")

    options: dict[str, Any] = {
        "servers": settings.url.split(","),
        "name": name,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "connect_timeout": 2,
        "ping_interval": settings.ping_interval_s,
        "max_outstanding_pings": 2,
        "pending_size": PENDING_BYTES,
        "error_cb": on_error,
        "disconnected_cb": on_disconnected,
        "reconnected_cb": on_reconnected,
    }
    if settings.user:
        options |= {"user": settings.user, "password": settings.password}
    if settings.token:
        options["token"] = settings.token
    if settings.tls_ca or settings.tls_cert or "tls://" in settings.url:
        import ssl

        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
        options["tls"] = context
    return options
