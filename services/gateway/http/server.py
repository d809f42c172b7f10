"""uvicorn, run inside our own event loop: started, drained and stopped by the service's lifecycle."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from services.common.errors import ConfigError
from services.common.options import Settings


class HttpServer:
    def __init__(self, app: ASGIApp, settings: Settings, listener: socket.socket) -> None:
        self._listener = listener
        listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # inherited: an event must leave at once
        self._config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=True,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=64 * 1024,
            **_tls(settings),
        )
        self._server = uvicorn.Server(self._config)
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--ssl_certfile: the certificate cannot be used: {error}") from error
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=[self._listener])
        self._loop_task = asyncio.create_task(self._server.main_loop())

    def begin_drain(self) -> None:
        """No new connections. Idle ones are closed, so that no request is sent on one that is about to end; the
        others when their answer is given."""
        for server in self._server.servers:
            server.close()
        self._listener.close()
        for connection in list(self._server.server_state.connections):
            connection.shutdown()

    async def stop(self) -> None:
        """Ends all connections; what still streams is given a second."""
        self._server.should_exit = True
        if self._loop_task:
            await self._loop_task
            await self._server.shutdown(sockets=[self._listener])


def _tls(settings: Settings) -> dict[str, Any]:
    if not settings.ssl_certfile:
        return {}
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            raise ConfigError(f"--{name} {path}: there is no such file")
    tls: dict[str, Any] = {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile or None,
    }
    if settings.ssl_ca_certs:
        tls |= {"ssl_ca_certs": settings.ssl_ca_certs, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return tls
