"""The gateway as a service: wires its parts, starts and drains them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from services.common.bootstrap import Context
from services.common.errors import Unavailable
from services.common.messages.events import WorkerLoad
from services.common.model_files import model_name, model_path
from services.gateway.auth import KeyLimits, Keys
from services.gateway.canary import Canary
from services.gateway.core import Gateway
from services.gateway.http.application import build_application
from services.gateway.http.server import HttpServer
from services.gateway.life.client import Client
from services.gateway.load import Load
from services.gateway.log_writer import LogWriter
from services.gateway.metrics import GatewayMetrics
from services.gateway.model import load_model
from services.gateway.openai.params import Limits

log = logging.getLogger(__name__)


class GatewayApp:
    """An ``App`` (services/common/lifecycle.py)."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._settings, self._registry = settings, context.metrics.registry
        model = load_model(
            model_path(settings.model_dir),
            model_name(settings.model_name, settings.model_dir),
            max_len=settings.max_req_total_len,
            tokenizer_mode=settings.tokenizer_mode,
            chat_template=settings.chat_template,
        )
        client = Client(
            context.bus,
            context.subjects,
            context.identity.instance_id,
            model.name,
            context.timing,
            context.rng,
            context.recorder,
        )
        limits = KeyLimits(
            settings.limit_requests_per_minute, settings.limit_tokens_per_minute, settings.limit_concurrency
        )
        self.gateway = Gateway(
            context.identity,
            model,
            client,
            LogWriter(context.bus, context.subjects),
            Keys(settings.api_keys, limits, settings.namespace),
            GatewayMetrics(self._registry, model.name),
            Limits(
                settings.max_choices,
                settings.max_stop_strings,
                settings.timeout,
                settings.stream_retention,
                settings.max_stream_retention,
            ),
            load=Load(settings.max_connections),
            max_body_bytes=settings.max_body_bytes,
            log_requests=settings.log_requests,
            max_log_len=settings.max_log_len,
        )
        self.canary = Canary(client, [min(1, model.vocab_size - 1)], lambda: client.last_token_at)
        client.on_fleet_change = self.canary.poke
        self._server: HttpServer | None = None

    async def start(self) -> None:
        await self.gateway.client.start()
        self.canary.start()

    async def serve(self, not_ready: Callable[[], str], listener: socket.socket) -> None:
        """Takes HTTP from now on. Before the rest is ready, /health answers and /ready says what is missing."""
        application = build_application(self.gateway, self._settings, not_ready, self._registry)
        on_refused = self.gateway.metrics.on_refused
        self._server = HttpServer(application, self._settings, listener, on_refused)
        await self._server.start()

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        return None, {"requests": float(self.gateway.client.num_requests)}

    async def tick(self) -> None:
        """Nothing: the client's own tick is faster."""

    def not_ready(self) -> str:
        return self.canary.not_ready()

    async def drain(self) -> None:
        """Answers everybody who is connected, and takes no new connections after a while."""
        self.canary.stop()
        if self._server:
            await self._server.drain()
        await self.gateway.client.wait_idle()

    async def stop(self) -> None:
        self.canary.stop()
        if self._server:
            self.gateway.client.give_up(
                Unavailable(
                    "this gateway stops before the answer's end: --drain_timeout is over, or it was hurried"
                )
            )
            await self._server.stop()
        await self.gateway.logs.close()
        await self.gateway.client.stop()
