"""The router on the bus: what it hears, what it says, and its tick."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from services.common.bootstrap import Context
from services.common.bus import BusError, Message, Subscription
from services.common.errors import DecodeError
from services.common.kv_feed import KvFeeds
from services.common.liveness import GATEWAY_LEASES, Liveness
from services.common.messages.codec import decode, encode
from services.common.messages.control import Cancel, Holdings
from services.common.messages.events import Heartbeat, KvEvents, KvSnapshotRequest, KvSnapshots, WorkerLoad
from services.common.messages.request import GenerateRequest, SubmitReply, split_stream_id
from services.common.subjects import Subjects
from services.router.dispatch import Dispatcher
from services.router.fleet import Fleet
from services.router.metrics import RouterMetrics
from services.router.placement import Placement
from services.router.policy import make_policy
from services.router.prefix_index import PrefixIndex
from services.router.queue import Line
from services.router.request import QueuedRequest, queued_request

log = logging.getLogger(__name__)

# A worker silent for so many intervals gets no work until it is heard. Seen at the next tick, so before any gateway
# takes the worker for dead and submits its requests again: the router must not offer it those.
OVERDUE_INTERVALS = 2.1
WARM_TIMEOUT_S = 2.0


class RouterApp:
    """An ``App`` (services/common/lifecycle.py)."""

    def __init__(self, context: Context) -> None:
        settings, timing = context.settings, context.timing
        self._id, self._bus, self._subjects = context.identity.instance_id, context.bus, context.subjects
        self._metrics = RouterMetrics(context.metrics)
        self._fleet, self._index = Fleet(), PrefixIndex()
        self._feeds = KvFeeds(self._bus, self._subjects, self._index)
        self._workers = Liveness(timing.heartbeat_s, timing.lease_s)
        self._gateways = Liveness(timing.heartbeat_s, GATEWAY_LEASES * timing.lease_s)
        self._overdue_leases = OVERDUE_INTERVALS * timing.heartbeat_s / timing.lease_s
        placement = Placement(
            self._fleet, self._index, make_policy(settings.load_balance_method, context.rng)
        )
        self._dispatcher = Dispatcher(
            self._id,
            self._bus,
            self._subjects,
            placement,
            self._metrics,
            context.recorder,
            partial(Line, settings.schedule_policy, settings.max_queue),
            answer_timeout_s=timing.lease_s,
        )
        self._subscriptions: list[Subscription] = []
        self._submissions: list[Subscription] = []
        self._warming: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        subscribe, subjects = self._bus.subscribe, self._subjects
        self._subscriptions = [
            await subscribe(subjects.heartbeats("worker"), self._on_worker),
            await subscribe(subjects.heartbeats("gateway"), self._on_gateway),
            await subscribe(subjects.heartbeat("router", self._id), self._on_own_beat),
            await subscribe(subjects.kv_events(), self._on_kv_events),
            await subscribe(subjects.cancel(), self._on_cancel),
        ]
        self._warming = asyncio.create_task(self._warm_up())
        self._submissions = [
            await subscribe(subjects.router_submit(self._id), self._on_submit),
            await subscribe(subjects.submit_any(), self._on_submit, queue=Subjects.queue("router")),
        ]

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        return None, {
            "waiting": float(self._dispatcher.num_waiting),
            "workers": float(self._fleet.num_ready()),
            "index_blocks": float(len(self._index)),
        }

    def not_ready(self) -> str:
        return ""

    async def drain(self) -> None:
        """Gives the whole line back; who was offered to a worker is waited for."""
        self._dispatcher.is_draining = True
        for subscription in self._submissions:
            await subscription.unsubscribe()
        self._dispatcher.give_back_line()
        await self._dispatcher.settle_all()

    async def stop(self) -> None:
        tasks = [task for task in (self._warming, self._sweeping) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await self._feeds.stop()
        await self._dispatcher.stop()

    # -- what arrives ----------------------------------------------------------------------------------------

    async def _on_submit(self, message: Message) -> None:
        now = self._now()
        try:
            request = queued_request(decode(GenerateRequest, message.data), message.data, now)
        except DecodeError as error:
            log.warning("a request cannot be read: %s", error.message)
            reply = SubmitReply(False, self._id, code=error.code, reason=error.message)
        else:
            self._gateways.saw_first(request.gateway_id, now)
            reply = self._dispatcher.submit(request)
            request.decoded = None
        if message.reply:
            await self._bus.publish(message.reply, encode(reply))

    async def _on_own_beat(self, message: Message) -> None:
        now = self._now()
        self._workers.saw_own_beat(now)
        self._gateways.saw_own_beat(now)

    async def _on_gateway(self, message: Message) -> None:
        self._gateways.saw(decode(Heartbeat, message.data).instance_id, self._now())

    async def _on_worker(self, message: Message) -> None:
        beat = decode(Heartbeat, message.data)
        if not self._fleet.on_heartbeat(beat):
            if self._fleet.get(beat.instance_id) is None:
                self._workers.forget(beat.instance_id)
                self._feeds.on_gone(beat.instance_id)
            return
        self._workers.saw(beat.instance_id, self._now())
        self._feeds.on_worker(beat.instance_id, beat.epoch)
        self._dispatcher.run(beat.model)

    async def _on_kv_events(self, message: Message) -> None:
        self._feeds.on_events(decode(KvEvents, message.data))

    async def _on_cancel(self, message: Message) -> None:
        cancel = decode(Cancel, message.data)
        for request_id, attempt in zip(cancel.request_ids, cancel.attempts, strict=False):
            self._dispatcher.cancel(request_id, attempt)
        for stream, attempt in zip(cancel.streams, cancel.stream_attempts, strict=False):
            request_id, choice = split_stream_id(stream)
            self._dispatcher.cancel(request_id, attempt, choice)

    # -- time ------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Gives up who fell silent, tells gateways what it holds, and places what waits."""
        now = self._now()
        for worker_id in self._workers.silent(now):
            log.warning("worker %s fell silent", worker_id)
            self._workers.forget(worker_id)
            self._fleet.remove(str(worker_id))
            self._feeds.on_gone(str(worker_id))
        for worker_id in self._workers.silent(now, self._overdue_leases):
            self._fleet.mark_overdue(str(worker_id))
        for gateway_id in self._gateways.silent(now):
            self._gateways.forget(gateway_id)
            num = self._dispatcher.drop_gateway(str(gateway_id))
            log.warning("gateway %s fell silent; %d of its requests are freed", gateway_id, num)
        self._dispatcher.expire(now)
        self._dispatcher.run_all()
        await self._send_holdings()
        self._show()
        if self._index.needs_sweep and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        for _ in self._index.sweep():
            await asyncio.sleep(0)

    async def _send_holdings(self) -> None:
        by_gateway: dict[str, Holdings] = {}
        for request in self._dispatcher.holdings():
            held = by_gateway.setdefault(request.gateway_id, Holdings("router", self._id))
            held.request_ids.append(request.request_id)
            held.attempts.append(request.attempt)
        for gateway_id, held in by_gateway.items():
            await self._bus.publish(self._subjects.gateway_holdings(gateway_id), encode(held))

    def _show(self) -> None:
        counts = dict.fromkeys(("resumed", "keyed", "anonymous"), 0)
        for request in self._dispatcher.waiting():
            counts[_tenant_class(request)] += 1
        for tenant_class, count in counts.items():
            self._metrics.waiting.labels(tenant_class).set(count)
        self._metrics.in_flight.set(self._dispatcher.num_unanswered)
        self._metrics.workers.set(self._fleet.num_ready())
        self._metrics.blocks.set(len(self._index))

    async def _warm_up(self) -> None:
        """Asks kvstore once for what all workers hold; each worker's own snapshot replaces it when it comes."""
        page, num_pages = 0, 1
        try:
            while page < num_pages:
                answer = await self._bus.request(
                    self._subjects.kvstore_snapshot(), encode(KvSnapshotRequest(page=page)), WARM_TIMEOUT_S
                )
                snapshots = decode(KvSnapshots, answer)
                for snapshot in snapshots.workers:
                    self._workers.saw_first(snapshot.worker_id, self._now())
                    self._feeds.on_worker(snapshot.worker_id, snapshot.epoch)
                    self._feeds.warm(snapshot)
                page, num_pages = page + 1, snapshots.num_pages
        except (BusError, DecodeError) as error:
            log.info("no index from kvstore: %s", error.message)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _tenant_class(request: QueuedRequest) -> str:
    if request.is_resumed:
        return "resumed"
    return "keyed" if request.tenant else "anonymous"
