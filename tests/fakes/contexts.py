"""What a service's app is made of, for running it inside a test's process."""

from __future__ import annotations

import random

from services.common.bootstrap import Context
from services.common.bus import Bus
from services.common.lifecycle import App, Identity, ServiceRuntime, Timing
from services.common.options import parse
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics

QUICK = Timing(heartbeat_s=0.05, lease_s=0.5, drain_timeout_s=5.0)


def make_context(
    service: str,
    bus: Bus,
    instance_id: str,
    flags: list[str] | None = None,
    *,
    epoch: int = 1,
    timing: Timing = QUICK,
    seed: int = 0,
) -> Context:
    return Context(
        settings=parse(service, flags or [], {}),
        identity=Identity(service, instance_id, epoch),
        bus=bus,
        subjects=Subjects("test"),
        timing=timing,
        metrics=Metrics(service, "test"),
        recorder=FlightRecorder(),
        rng=random.Random(seed),
    )


async def start_app(context: Context, app: App) -> ServiceRuntime:
    """Runs an app as its own process would; end it with ``runtime.stop()``."""
    runtime = ServiceRuntime(
        context.identity, context.bus, context.subjects, app, context.timing, context.recorder
    )
    context.beat_now = runtime.beat_now
    await runtime.start()
    return runtime
