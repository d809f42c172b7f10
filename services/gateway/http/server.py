"""uvicorn, run inside our own event loop: started, drained and stopped by the service's lifecycle."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from services.common.errors import ConfigError
from services.common.options import Settings
from services.gateway.http.connection import Connection, ConnectionRules
from services.gateway.http.listener import accept_all, refuse_new

CONNECTIONS_PER_REQUEST = 2  # of --max_connections: idle ones are kept open too
POLL_S = 0.05
HANDSHAKE_S = 0.2  # for who is connecting while the listener ends


class HttpServer:
    """``on_refused`` is told the status of each answer that the application does not know of."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        listener: socket.socket,
        on_refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        self._listener = listener
        listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )  # inherited: an event must leave at once
        self._grace_s = min(settings.drain_grace, settings.drain_timeout / 4)
        self._rules = ConnectionRules(
            CONNECTIONS_PER_REQUEST * settings.max_connections, settings.max_header_bytes, on_refused
        )
        self._config = uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(Connection, rules=self._rules)),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=True,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
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

    async def drain(self) -> None:
        """Returns when every connection has ended, none of them with a request unanswered.

        For ``--drain_grace`` new connections are taken still, so that a load balancer that asks /ready finds out
        before the port is closed. From the first moment on, every answer is the last of its connection and says so
        (`Connection: close`). A connection on which nothing is asked is closed a second later: a client may just
        have begun to.
        """
        self._rules.is_draining = True
        for connection in self._connections():
            connection.begin_drain()
        await asyncio.sleep(self._grace_s)
        await self._stop_accepting()
        while connections := self._connections():
            for connection in connections:
                connection.close_if_quiet()
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Ends all connections; what still streams is given a second."""
        self._server.should_exit = True
        if self._loop_task:
            self._loop_task.cancel()  # it only looks every 0.1 s whether it shall end
            await asyncio.wait([self._loop_task])
            await self._server.shutdown(sockets=[self._listener])

    async def _stop_accepting(self) -> None:
        """Closes the port when everybody who had connected to it is served."""
        refuse_new(self._listener)
        await asyncio.sleep(HANDSHAKE_S)
        waiting = accept_all(self._listener)
        for server in self._server.servers:
            server.close()
        self._listener.close()
        loop, make = asyncio.get_running_loop(), self._new_connection
        taking = [loop.connect_accepted_socket(make, one, ssl=self._config.ssl) for one in waiting]
        await asyncio.gather(*taking, return_exceptions=True)  # a client may have left, or fail at TLS

    def _new_connection(self) -> asyncio.Protocol:
        state = self._server.server_state
        return self._config.http_protocol_class(config=self._config, server_state=state, app_state={})  # type: ignore[call-arg]

    def _connections(self) -> list[Connection]:
        return [one for one in self._server.server_state.connections if isinstance(one, Connection)]


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
