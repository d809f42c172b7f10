"""A whole deployment on a virtual clock: real services, a lossy bus, faults from a plan, and the promises."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable

from services.common.bootstrap import Context
from services.common.bus.memory import MemoryBroker
from services.common.lifecycle import App
from services.common.messages.events import WorkerLoad
from services.detokenizer.app import DetokenizerApp
from services.gateway.life.client import Client
from services.router.app import RouterApp
from services.worker.app import WorkerApp, WorkerOptions
from tests.simulation.client import Broken, Call
from tests.simulation.engine import VirtualEngine
from tests.simulation.language import decoding
from tests.simulation.log_keeper import LogKeeper
from tests.simulation.loop import VirtualLoop
from tests.simulation.network import Network
from tests.simulation.node import MODEL, Node
from tests.simulation.plan import SERVICES, Ask, Fault, Kind, Plan

log = logging.getLogger(__name__)

# After the last fault and the last message that was lost, everything ends within this time.
RECOVERY_S = 20.0


class GatewayApp:
    """The gateway without HTTP: its clients call ``client`` directly."""

    def __init__(self, context: Context) -> None:
        self.client = Client(
            context.bus,
            context.subjects,
            context.identity.instance_id,
            MODEL,
            context.timing,
            context.rng,
            context.recorder,
        )

    async def start(self) -> None:
        await self.client.start()

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        return None, {}

    async def tick(self) -> None:
        pass

    def not_ready(self) -> str:
        return ""

    async def drain(self) -> None:
        while self.client.num_requests:  # noqa: ASYNC110 - as a gateway waits for its connections
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        await self.client.stop()


class World:
    def __init__(self, plan: Plan, loop: VirtualLoop) -> None:
        self.plan, self.loop = plan, loop
        self.rng = random.Random(f"world {plan.seed}")
        self.network = Network(plan.noise, plan.faults_end_s, random.Random(f"network {plan.seed}"))
        self.broker = MemoryBroker(rng=self.rng, deliveries=self.network.deliveries)
        self.keeper = LogKeeper(loop, self.broker, plan.seed)
        self.engines: dict[str, VirtualEngine] = {}
        self.gateways: dict[str, GatewayApp] = {}
        self.apps: dict[str, App] = {}  # workers, routers and detokenizers
        self.calls: list[Call] = []
        self._calling: dict[str, asyncio.Task[None]] = {}
        self._step_s = self.rng.choice(plan.steps_s)
        self._depth = self.rng.choice((0, 1))
        builders = {
            "gateway": self._build_gateway,
            "router": self._build_router,
            "worker": self._build_worker,
            "detokenizer": self._build_detokenizer,
        }
        flags = {
            "router": ("--max_queue", str(plan.max_queue)),
            "gateway": (),
            "worker": (),
            "detokenizer": (),
        }
        self.nodes = {
            service: [
                Node(service, i, loop, self.broker, builders[service], self.rng, flags[service])
                for i in range(plan.counts[service])
            ]
            for service in SERVICES
        }

    # -- services --------------------------------------------------------------------------------------------

    async def _build_gateway(self, context: Context) -> App:
        app = GatewayApp(context)
        self.gateways[context.identity.instance_id] = app
        return app

    async def _build_router(self, context: Context) -> App:
        app = self.apps[context.identity.instance_id] = RouterApp(context)
        return app

    async def _build_worker(self, context: Context) -> App:
        engine = VirtualEngine(self.plan.num_blocks, self._step_s, depth=self._depth)
        self.engines[context.identity.instance_id] = engine
        app = self.apps[context.identity.instance_id] = WorkerApp(
            context.identity,
            context.bus,
            context.subjects,
            context.timing,
            engine,
            context.metrics,
            context.recorder,
            WorkerOptions(max_waiting=4),
            beat_now=lambda: context.beat_now(),
            fail=lambda reason: context.fail(reason),
        )
        return app

    async def _build_detokenizer(self, context: Context) -> App:
        app = self.apps[context.identity.instance_id] = DetokenizerApp(
            context.identity.instance_id,
            context.bus,
            context.subjects,
            context.timing,
            decoding(),
            context.metrics,
            context.recorder,
        )
        return app

    # -- what happens ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Plays the plan to its end. Raises Broken when something has not ended in its time."""
        for nodes in self.nodes.values():
            for node in nodes:
                node.start()
        await self.keeper.start()
        self._calling = {ask.request_id: asyncio.create_task(self._call(ask)) for ask in self.plan.asks}
        await asyncio.gather(self.keeper.suffer(), *(self._inject(fault) for fault in self.plan.faults))
        if self.plan.buried_by_s:
            await self._until(self._orphans, self.plan.buried_by_s, "a dead gateway's requests are held")
        await self._until(self._running_calls, self.plan.faults_end_s + RECOVERY_S, "calls have not ended")
        await self._until(self._held, self.loop.time() + self.plan.release_s, "something is still held")

    async def _until(self, unfinished: Callable[[], list[str]], deadline: float, what: str) -> None:
        while found := unfinished():
            if self.loop.time() > deadline:
                raise Broken(f"{what}: {'; '.join(found)}")
            await asyncio.sleep(0.1)

    async def _call(self, ask: Ask) -> None:
        await asyncio.sleep(ask.at)
        node = await self._ready_gateway(ask.gateway)
        assert node.process is not None
        call = Call(ask, node.process, may_be_refused=self.plan.max_queue < 10)
        self.calls.append(call)
        task = node.process.run(call.run(self.gateways[node.name].client))
        while not call.is_over:
            await asyncio.sleep(0.1)
            if not call.is_over and (task.done() or call.process.is_killed):
                node = await self._ready_gateway()
                assert node.process is not None
                log.info("%s comes back to %s", ask.request_id, node.name)
                call.process = node.process
                task = node.process.run(call.come_back(self.gateways[node.name].client))

    async def _ready_gateway(self, index: int | None = None) -> Node:
        nodes = self.nodes["gateway"] if index is None else [self.nodes["gateway"][index]]
        while not (ready := [node for node in nodes if node.is_ready]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return self.rng.choice(ready)

    async def _inject(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        if fault.kind is Kind.OUTAGE:
            log.info("NATS is away for %.2f s", fault.duration)
            self.broker.is_up = False
            await asyncio.sleep(fault.duration)
            self.broker.is_up = True
            log.info("NATS is back")
            return
        node = self.nodes[fault.service][fault.index]
        name, process = node.name, node.process
        log.info("%s: %s for %.2f s", name, fault.kind.value, fault.duration)
        if fault.kind in (Kind.DEAF, Kind.MUTE):
            cut_off = self.network.deaf if fault.kind is Kind.DEAF else self.network.mute
            cut_off.add(name)
            await asyncio.sleep(fault.duration)
            cut_off.discard(name)
        elif fault.kind is Kind.PAUSE:
            if process is not None:
                process.pause()
                await asyncio.sleep(fault.duration)
                process.resume()
        else:
            if fault.kind is Kind.DRAIN:
                await node.drain()
            elif fault.kind is Kind.ENGINE and process is not None and node.is_ready:
                process.run(self.engines[name].die())
                await asyncio.sleep(0.1)
            node.kill()
            await asyncio.sleep(fault.duration)
            node.start(new_name=fault.new_id)
        log.info("%s: %s is over", name, fault.kind.value)

    def events(self) -> Counter[str]:
        """How often what is tested here came to pass."""
        found = Counter(lost=self.network.num_lost)
        for app in self.gateways.values():
            counters = app.client.counters
            found.update(
                resubmissions=counters.resubmissions, replays=counters.replays, stale=counters.stale_rows
            )
        found.update(preemptions=sum(engine.num_preempted for engine in self.engines.values()))
        found.update(resumed_elsewhere=sum(call.was_resumed for call in self.calls))
        found.update(log_faults=self.keeper.num_faults)
        found.update(fault.kind.value for fault in self.plan.faults)
        return found

    # -- what must be true -----------------------------------------------------------------------------------

    def _running_calls(self) -> list[str]:
        calls = {call.ask.request_id: call.progress for call in self.calls}
        return [
            f"{name} ({calls.get(name, 'not begun')})" for name, t in self._calling.items() if not t.done()
        ]

    def _orphans(self) -> list[str]:
        """Requests of gateways that were killed, in the lines of routers and at workers."""
        calls = [call for call in self.calls if call.process.is_killed and call.is_over]
        theirs = {call.ask.request_id for call in calls}
        found = []
        for node in self._up("router"):
            app = self.apps.get(node.name)
            if isinstance(app, RouterApp):
                held = [request.request_id for request in app._dispatcher.holdings()]
                found += [f"{node.name} has {name}" for name in held if name in theirs]
        for node in self._up("worker"):
            app = self.apps.get(node.name)
            if isinstance(app, WorkerApp):
                held = list(app._streams._held)
                found += [f"{node.name} runs {name}" for name in held if name in theirs]
        return found

    def _held(self) -> list[str]:
        """What a live service holds though no client wants anything any more."""
        found, num_blocks = [], self.plan.num_blocks
        for node in self._up("worker"):
            if (engine := self.engines.get(node.name)) is not None:
                scheduler, load = engine.scheduler, self.apps[node.name].heartbeat()[0]
                free = scheduler.cache.pool.num_free
                if scheduler.has_work or free != num_blocks:
                    found.append(
                        f"{node.name} runs {scheduler.num_running}, {num_blocks - free} blocks are taken"
                    )
                elif load is None or (load.running, load.waiting, load.free_blocks) != (0, 0, num_blocks):
                    found.append(f"{node.name} tells of a load of {load}")
        found += [
            f"{node.name} has requests in its line" for node in self._up("router") if self._waiting(node)
        ]
        found += [
            f"{node.name} has requests"
            for node in self._up("gateway")
            if (gateway := self.gateways.get(node.name)) is not None and gateway.client.num_requests
        ]
        found += [
            f"{node.name} has {count:.0f} streams"
            for node in self._up("detokenizer")
            if (app := self.apps.get(node.name)) is not None and (count := app.heartbeat()[1]["streams"])
        ]
        return found

    def _up(self, service: str) -> list[Node]:
        return [node for node in self.nodes[service] if node.is_up]

    def _waiting(self, router: Node) -> float:
        app = self.apps.get(router.name)
        return app.heartbeat()[1]["waiting"] if app is not None else 0.0
