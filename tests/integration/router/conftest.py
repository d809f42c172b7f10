"""A stage with one NATS, on which tests put routers, gateways and workers without models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from services.common.bus.nats import NatsBus
from services.common.lifecycle import ServiceRuntime
from services.common.subjects import Subjects
from services.router.app import RouterApp
from tests.conftest import ConnectBus
from tests.fakes.contexts import make_context, start_app
from tests.fakes.gateways import FakeGateway
from tests.fakes.waiting import until
from tests.fakes.workers import FakeWorker


@dataclass
class Stage:
    connect: ConnectBus
    subjects: Subjects = field(default_factory=lambda: Subjects("test"))
    routers: dict[str, ServiceRuntime] = field(default_factory=dict)
    workers: dict[str, FakeWorker] = field(default_factory=dict)

    async def router(self, name: str = "router", *flags: str, seed: int = 0) -> ServiceRuntime:
        bus: NatsBus = await self.connect(name)
        context = make_context("router", bus, name, list(flags), seed=seed)
        self.routers[name] = await start_app(context, RouterApp(context))
        return self.routers[name]

    async def worker(self, name: str = "w", **knobs: object) -> FakeWorker:
        """A worker that every router knows."""
        bus = await self.connect(name)
        worker = FakeWorker(name, bus, self.subjects, **knobs)  # type: ignore[arg-type]
        self.workers[name] = await worker.launch()
        for runtime in self.routers.values():
            await until(lambda app=runtime.app: app._fleet.get(name) and app._feeds.is_synced(name))
        return worker

    async def gateway(self, name: str = "gw") -> FakeGateway:
        return await FakeGateway(await self.connect(name), self.subjects, name).launch()


@pytest.fixture
async def stage(connect_bus: ConnectBus) -> AsyncIterator[Stage]:
    stage = Stage(connect_bus)
    yield stage
    for runtime in stage.routers.values():
        await runtime.stop()
