"""A real gateway in the test's own process and event loop, on a free port, over whichever bus it is given."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from openai import AsyncOpenAI

from services.common.bootstrap import Context
from services.common.bus import Bus
from services.common.health import listen
from services.common.lifecycle import Identity, ServiceRuntime, Timing
from services.common.options import parse
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.gateway.app import GatewayApp

TIMING = Timing(heartbeat_s=0.05, lease_s=0.3, drain_timeout_s=5.0)
MODEL = "tiny"


class RunningGateway:
    def __init__(self, app: GatewayApp, runtime: ServiceRuntime, address: str) -> None:
        self.app, self.runtime, self.address = app, runtime, address

    def http(self, **headers: str) -> httpx.AsyncClient:
        # There is nothing to verify, and reading the authorities' certificates takes 50 ms of processor time.
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=20, verify=False)

    def openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{self.address}/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx.AsyncClient(verify=False),
        )


@asynccontextmanager
async def running_gateway(
    bus: Bus, model_dir: Path, *options: str, instance_id: str = "gateway-1", subjects: Subjects | None = None
) -> AsyncIterator[RunningGateway]:
    """``options`` as on the command line."""
    words = ["--model_dir", str(model_dir), "--model_name", MODEL, *options]
    settings = parse("gateway", words, {})
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    identity = Identity("gateway", instance_id, 1, MODEL, address)
    subjects, recorder = subjects or Subjects(settings.namespace), FlightRecorder()
    context = Context(
        settings,
        identity,
        bus,
        subjects,
        TIMING,
        Metrics("gateway", "test"),
        recorder,
        random.Random(1),
    )
    app = GatewayApp(context)
    runtime = ServiceRuntime(identity, bus, subjects, app, TIMING, recorder)
    await app.serve(runtime.not_ready, listener)
    await runtime.start()
    try:
        yield RunningGateway(app, runtime, address)
    finally:
        await runtime.stop()
