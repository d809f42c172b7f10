"""The one way a service process comes up: settings, logs, bus, health, app; and how it ends."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.common.bus import Bus
from services.common.bus.nats import NatsBus, NatsSettings
from services.common.errors import ShoalError
from services.common.health import listen, serve_health
from services.common.lifecycle import (
    App,
    HttpApp,
    Identity,
    ServiceRuntime,
    Timing,
    new_epoch,
    new_instance_id,
    run_until_signalled,
)
from services.common.logs import setup_logging
from services.common.options import Settings, help_text, parse
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.common.version import VERSION


@dataclass(slots=True)
class Context:
    """What an app is made of, beside its own parts.

    ``beat_now`` sends a heartbeat early; ``fail`` ends the process with exit code 1, for the reason given.
    """

    settings: Settings
    identity: Identity
    bus: Bus
    subjects: Subjects
    timing: Timing
    metrics: Metrics
    recorder: FlightRecorder
    rng: random.Random
    beat_now: Callable[[], None] = lambda: None
    fail: Callable[[str], None] = lambda reason: None


BuildApp = Callable[[Context], Awaitable[App]]


def nats_settings(settings: Settings) -> NatsSettings:
    return NatsSettings(
        url=settings.nats_url or "nats://127.0.0.1:4222",
        user=settings.nats_user,
        password=settings.nats_password,
        token=settings.nats_token,
        tls_ca=settings.nats_tls_ca,
        tls_cert=settings.nats_tls_cert,
        tls_key=settings.nats_tls_key,
    )


def run_service(
    service: str,
    build: BuildApp,
    argv: Sequence[str] | None = None,
    *,
    model_name: Callable[[Settings], str] = lambda settings: settings.model_name,
    http_address: Callable[[Settings], tuple[str, int]] | None = None,
) -> int:
    """Runs a service until it is told to stop; returns the exit code (2: a setting or file is wrong).

    With ``http_address`` the app is an HttpApp: it listens there, and serves /health and the like itself.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        print(f"python -m services.{service} [options]\n\n{help_text(service)}")
        return 0
    try:
        settings = parse(service, words, os.environ)
        rng = random.Random()
        instance_id = settings.instance_id or new_instance_id(service, rng)
        setup_logging(service, instance_id, level=settings.log_level, log_format=settings.log_format)
        listener = listen(*(http_address or _health_address)(settings))
        main = _main(service, build, settings, instance_id, rng, model_name(settings), listener)
        return _run(main)
    except ShoalError as error:
        print(f"shoal {service}: {error.message}", file=sys.stderr, flush=True)
        return 2


def _run(main: Awaitable[int]) -> int:
    async def body() -> int:
        return await main

    try:
        import uvloop
    except ImportError:
        return asyncio.run(body())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(body())


def _health_address(settings: Settings) -> tuple[str, int]:
    return settings.health_host, settings.health_port


async def _main(
    service: str,
    build: BuildApp,
    settings: Settings,
    instance_id: str,
    rng: random.Random,
    model: str,
    listener: socket.socket,
) -> int:
    host, port = listener.getsockname()[:2]
    identity = Identity(service, instance_id, new_epoch(), model, f"http://{host}:{port}")
    timing = Timing(settings.heartbeat_interval, settings.lease, settings.drain_timeout)
    metrics, recorder = Metrics(service, VERSION), FlightRecorder()

    async def start() -> ServiceRuntime:
        bus = await NatsBus.connect(nats_settings(settings), instance_id)
        context = Context(
            settings, identity, bus, Subjects(settings.namespace), timing, metrics, recorder, rng
        )
        app = await build(context)
        runtime = ServiceRuntime(identity, bus, context.subjects, app, timing, recorder)
        context.beat_now, context.fail = runtime.beat_now, runtime.fail
        if isinstance(app, HttpApp):
            await app.serve(runtime.not_ready, listener)
        else:
            await serve_health(runtime.not_ready, metrics.registry, settings.describe(), listener)
        await runtime.start()
        return runtime

    return await run_until_signalled(start)
