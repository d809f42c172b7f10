"""The small HTTP server beside each service that has none of its own: /health, /ready, /metrics, /config."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from services.common.errors import ConfigError

Probe = Callable[[], str]  # empty when all is well, else the reason


class HealthServer:
    """Serves GET on four paths over HTTP/1.1, one request a connection. Holds no state of the service.

    /health is 200 while the event loop turns; /ready is 200 or 503 with the reason.
    """

    def __init__(self, not_ready: Probe, registry: CollectorRegistry, config: dict[str, str]) -> None:
        self._not_ready, self._registry, self._config = not_ready, registry, config
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._serve, sock=listener)

    async def stop(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5.0)
            method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            status, kind, body = self._answer(method, path.partition("?")[0])
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + (b"" if method == "HEAD" else body)
            )
            await writer.drain()
        except (ValueError, OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whatever that was, it was no request of ours
        finally:
            writer.close()

    def _answer(self, method: str, path: str) -> tuple[str, str, bytes]:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "application/json", b'{"error":"GET only"}'
        if path == "/health":
            return "200 OK", "application/json", b'{"status":"ok"}'
        if path == "/ready":
            reason = self._not_ready()
            status = "503 Service Unavailable" if reason else "200 OK"
            return status, "application/json", _json({"ready": not reason, "reason": reason})
        if path == "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path == "/config":
            return "200 OK", "application/json", _json(self._config)
        return "404 Not Found", "application/json", b'{"error":"no such path"}'


def _json(value: Any) -> bytes:
    return orjson.dumps(value)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket, or ConfigError in one line when the port is taken. Port 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    listener.listen(2048)
    listener.setblocking(False)
    return listener


async def serve_health(
    not_ready: Probe, registry: CollectorRegistry, config: dict[str, str], listener: socket.socket
) -> Callable[[], Awaitable[None]]:
    """Starts a HealthServer on an open socket; returns what stops it."""
    server = HealthServer(not_ready, registry, config)
    await server.start(listener)
    return server.stop
