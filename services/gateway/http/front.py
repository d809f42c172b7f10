"""The outermost layer: counts every HTTP exchange, and turns what nobody expected into a JSON 500."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import ShoalError
from services.gateway.http.sse import error_response
from services.gateway.load import Load
from services.gateway.metrics import GatewayMetrics

EXCHANGE = "shoal.exchange"

log = logging.getLogger(__name__)


class Front:
    """``routes`` are the paths that get a label of their own; all others share one.

    The exchange, as ``load`` counts it, is in the scope of the request.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, load: Load, routes: frozenset[str]) -> None:
        self._app, self._metrics, self._load, self._routes = app, metrics, load, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            with self._load.exchange() as scope[EXCHANGE]:
                await self._app(scope, receive, watched)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await error_response(ShoalError("an internal error; the log has more"))(
                    scope, receive, watched
                )
        finally:
            self._metrics.in_flight.dec()
            path = scope["path"]
            route = path if path in self._routes else "other"
            self._metrics.requests.labels(route, str(status or 499)).inc()
