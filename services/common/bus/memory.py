"""A bus in one process: the same promises as NATS, and faults on request.

``MemoryBroker`` stands for the NATS server, each ``MemoryBus`` for one client's connection. ``deliveries`` may
drop, duplicate and delay messages: it is asked once for every (message, subscriber).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable

from services.common.bus.base import (
    MAX_PAYLOAD,
    Handler,
    Message,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
)

log = logging.getLogger(__name__)

# (subject, subscriber's client name) -> delays in seconds of each copy to deliver; () loses the message
Deliveries = Callable[[str, str], tuple[float, ...]]


def subject_matches(pattern: str, subject: str) -> bool:
    """NATS wildcards: ``*`` is one token, a trailing ``>`` is one or more."""
    if "*" not in pattern and ">" not in pattern:
        return pattern == subject
    wanted, found = pattern.split("."), subject.split(".")
    for i, part in enumerate(wanted):
        if part == ">":
            return len(found) > i
        if i >= len(found) or part not in ("*", found[i]):
            return False
    return len(wanted) == len(found)


class MemoryBroker:
    """The subscriptions of all clients. Not thread-safe; lives on one event loop."""

    def __init__(self, *, rng: random.Random | None = None, deliveries: Deliveries | None = None) -> None:
        self.deliveries = deliveries
        self.is_up = True
        self.num_published = 0
        self._rng = rng or random.Random(0)
        self._context = contextvars.copy_context()  # what is under way belongs to no sender any more
        self._inboxes = itertools.count(1)
        self._subscriptions: dict[MemorySubscription, None] = {}  # in the order in which they came
        self._wanted_by: dict[str, list[MemorySubscription]] = {}  # by subject; kept as they come and go

    def route(self, message: Message) -> int:
        """Hands a message to its subscribers; returns how many it was meant for."""
        self.num_published += 1
        if not self.is_up:
            return 0
        groups: dict[str, list[MemorySubscription]] = {}
        targets: list[MemorySubscription] = []
        for sub in self._subscribers(message.subject):
            if sub.queue:
                groups.setdefault(sub.queue, []).append(sub)
            else:
                targets.append(sub)
        targets += [self._rng.choice(members) for members in groups.values()]
        loop = asyncio.get_running_loop()
        for sub in targets:
            delays = (0.0,) if self.deliveries is None else self.deliveries(message.subject, sub.client)
            for delay in delays:
                if delay <= 0:
                    sub.put(message)
                else:
                    loop.call_later(delay, sub.put, message, context=self._context)
        return len(targets)

    def _subscribers(self, subject: str) -> list[MemorySubscription]:
        found = self._wanted_by.get(subject)
        if found is None:
            found = [sub for sub in self._subscriptions if subject_matches(sub.pattern, subject)]
            self._wanted_by[subject] = found
        return found

    def new_inbox(self) -> str:
        return f"_INBOX.{next(self._inboxes)}"

    def add(self, subscription: MemorySubscription) -> None:
        self._subscriptions[subscription] = None
        for found in self._lists_of(subscription.pattern):
            found.append(subscription)

    def remove(self, subscription: MemorySubscription) -> None:
        if subscription in self._subscriptions:
            del self._subscriptions[subscription]
            for found in self._lists_of(subscription.pattern):
                found.remove(subscription)
            if not self._wanted_by.get(subscription.pattern, True):  # as of most inboxes, nobody asks again
                del self._wanted_by[subscription.pattern]

    def _lists_of(self, pattern: str) -> Iterable[list[MemorySubscription]]:
        """The known lists that a subscription belongs in. An inbox is in one, and comes with every request."""
        if "*" not in pattern and ">" not in pattern:
            found = self._wanted_by.get(pattern)
            return () if found is None else (found,)
        return (found for subject, found in self._wanted_by.items() if subject_matches(pattern, subject))


class MemorySubscription:
    def __init__(self, broker: MemoryBroker, client: str, pattern: str, handler: Handler, queue: str) -> None:
        self.client, self.pattern, self.queue = client, pattern, queue
        self._broker, self._handler = broker, handler
        # A queue of asyncio's own does the same in twice the time, and simulations pass millions of messages.
        self._inbox: deque[Message] = deque()
        self._arrival: asyncio.Future[None] | None = None  # what the task waits for while there is nothing
        self._is_handling = False
        self._all_handled: asyncio.Future[None] | None = None  # set while somebody waits for it
        self._task = asyncio.create_task(self._run())

    def put(self, message: Message) -> None:
        self._inbox.append(message)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._inbox:
                self._arrival = loop.create_future()
                await self._arrival
            self._is_handling = True
            try:
                await self._handler(self._inbox.popleft())
            except Exception:
                log.exception("handler of %s failed", self.pattern)
            finally:
                self._is_handling = False
                if self._all_handled is not None and not (self._inbox or self._all_handled.done()):
                    self._all_handled.set_result(None)

    async def unsubscribe(self) -> None:
        self._broker.remove(self)
        if not self._task.done() and (self._inbox or self._is_handling):
            self._all_handled = self._all_handled or asyncio.get_running_loop().create_future()
            await self._all_handled
        self.stop()

    def stop(self) -> None:
        self._broker.remove(self)
        self._task.cancel()


class MemoryBus:
    """One client of a MemoryBroker."""

    def __init__(
        self, broker: MemoryBroker, client: str = "client", *, max_payload: int = MAX_PAYLOAD
    ) -> None:
        self._broker, self._client, self._max_payload = broker, client, max_payload
        self._subscriptions: list[MemorySubscription] = []
        self._is_open = True

    @property
    def max_payload(self) -> int:
        return self._max_payload

    @property
    def is_connected(self) -> bool:
        return self._is_open and self._broker.is_up

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self._send(Message(subject, data, reply))

    def _send(self, message: Message) -> int:
        if len(message.data) > self._max_payload:
            raise PayloadTooLarge(f"a message of {len(message.data)} bytes is over {self._max_payload}")
        return self._broker.route(message) if self._is_open else 0

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def on_answer(message: Message) -> None:
            if not answer.done():
                answer.set_result(message.data)

        inbox = self._broker.new_inbox()
        subscription = await self.subscribe(inbox, on_answer)
        self._subscriptions.remove(subscription)  # ends here, not with the bus
        try:
            if self._send(Message(subject, data, inbox)) == 0 and self.is_connected:
                raise NoResponders(f"nobody listens on {subject}")
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise RequestTimeout(f"no answer on {subject} within {timeout_s:.3g} s") from None
        finally:
            subscription.stop()

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> MemorySubscription:
        subscription = MemorySubscription(self._broker, self._client, subject, handler, queue)
        self._subscriptions.append(subscription)
        if self._is_open:
            self._broker.add(subscription)
        return subscription

    def kill(self) -> None:
        """As SIGKILL leaves it: nothing is flushed, nothing arrives, nothing leaves."""
        self._is_open = False
        for subscription in self._subscriptions:
            subscription.stop()

    async def close(self) -> None:
        self.kill()
