"""python -m services.worker"""

from __future__ import annotations

import sys

from services.common.bootstrap import Context, run_service
from services.worker.app import WorkerApp
from services.worker.config import engine_settings, served_name, worker_options
from services.worker.engine.client import ProcessEngine


async def build(context: Context) -> WorkerApp:
    settings, identity = context.settings, context.identity
    return WorkerApp(
        identity,
        context.bus,
        context.subjects,
        context.timing,
        ProcessEngine(engine_settings(settings, identity.instance_id)),
        context.metrics,
        context.recorder,
        worker_options(settings),
        beat_now=lambda: context.beat_now(),
        fail=lambda reason: context.fail(reason),
    )


def main() -> int:
    return run_service("worker", build, model_name=served_name)


if __name__ == "__main__":
    sys.exit(main())
