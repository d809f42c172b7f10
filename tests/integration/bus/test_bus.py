"""What a bus promises, shown by one class for the memory bus and for NATS."""

import asyncio
import logging
import random

import pytest

from services.common.bus import BusError, Message, NoResponders, PayloadTooLarge, RequestTimeout
from services.common.bus.base import MAX_PAYLOAD
from services.common.bus.memory import MemoryBroker, MemoryBus
from tests.fakes.waiting import until


class Collector:
    def __init__(self):
        self.messages: list[Message] = []

    async def __call__(self, message):
        self.messages.append(message)

    @property
    def data(self):
        return [message.data for message in self.messages]


class BusSuite:
    """``connect(name)`` makes buses that reach each other."""

    async def test_a_message_reaches_every_subscriber_in_order(self, connect):
        sender, first, second = await connect(), await connect(), await connect()
        seen, also = Collector(), Collector()
        await first.subscribe("a.b", seen)
        await second.subscribe("a.b", also)
        sent = [bytes([i]) for i in range(100)]
        for data in sent:
            await sender.publish("a.b", data)
        await until(lambda: len(seen.data) == len(also.data) == 100)
        assert seen.data == also.data == sent
        assert seen.messages[0].subject == "a.b"

    async def test_one_of_a_queue_group_gets_each_message(self, connect):
        sender, first, second = await connect(), await connect(), await connect()
        some, others = Collector(), Collector()
        await first.subscribe("work", some, queue="workers")
        await second.subscribe("work", others, queue="workers")
        for i in range(100):
            await sender.publish("work", bytes([i]))
        await until(lambda: len(some.data) + len(others.data) == 100)
        assert sorted(some.data + others.data) == [bytes([i]) for i in range(100)]
        assert some.data
        assert others.data

    @pytest.mark.parametrize(
        ("pattern", "matches"),
        [("x.*.y", True), ("x.>", True), ("x.1.z", False), ("x.*", False), ("x.1.y.>", False)],
    )
    async def test_wildcards(self, connect, pattern, matches):
        bus, seen, all_seen = await connect(), Collector(), Collector()
        await bus.subscribe(pattern, seen)
        await bus.subscribe(">", all_seen)
        await bus.publish("x.1.y", b"1")
        await bus.publish("end", b"")
        await until(lambda: len(all_seen.messages) == 2)
        assert bool(seen.messages) is matches

    async def test_a_request_gets_the_answer(self, connect):
        asker, answerer = await connect(), await connect()

        async def answer(message):
            await answerer.publish(message.reply, message.data.upper())

        await answerer.subscribe("shout", answer)
        answers = await asyncio.gather(*(asker.request("shout", bytes([i]) + b"a", 5) for i in range(20)))
        assert answers == [bytes([i]) + b"A" for i in range(20)]

    async def test_a_request_that_nobody_listens_to_fails_at_once(self, connect):
        bus = await connect()
        with pytest.raises(NoResponders):
            await bus.request("nobody", b"", 60)

    async def test_a_request_that_nobody_answers_times_out(self, connect):
        bus = await connect()
        await bus.subscribe("silent", Collector())
        with pytest.raises(RequestTimeout):
            await bus.request("silent", b"", 0.05)

    async def test_a_message_over_the_limit_is_refused_to_its_sender(self, connect):
        bus, seen = await connect(), Collector()
        await bus.subscribe("big", seen)
        assert bus.max_payload == MAX_PAYLOAD
        for send in (
            bus.publish("big", bytes(MAX_PAYLOAD + 1)),
            bus.request("big", bytes(MAX_PAYLOAD + 1), 1),
        ):
            with pytest.raises(PayloadTooLarge):
                await send
        await bus.publish("big", bytes(MAX_PAYLOAD))
        await until(lambda: seen.messages)
        assert [len(data) for data in seen.data] == [MAX_PAYLOAD]

    async def test_a_failing_handler_is_logged_and_gets_the_next_message(self, connect, caplog):
        bus, seen = await connect(), []

        async def fail_once(message):
            seen.append(message.data)
            if len(seen) == 1:
                raise ValueError("first")

        await bus.subscribe("s", fail_once)
        with caplog.at_level(logging.ERROR):
            await bus.publish("s", b"1")
            await bus.publish("s", b"2")
            await until(lambda: len(seen) == 2)
        assert "handler of s failed" in caplog.text

    async def test_handlers_of_one_subscription_do_not_overlap(self, connect):
        bus, running, overlaps, done = await connect(), [], [], []

        async def slow(message):
            overlaps.extend(running)
            running.append(message.data)
            await asyncio.sleep(0.001)
            running.remove(message.data)
            done.append(message.data)

        await bus.subscribe("s", slow)
        for i in range(10):
            await bus.publish("s", bytes([i]))
        await until(lambda: len(done) == 10)
        assert overlaps == []

    async def test_unsubscribing_handles_what_arrived_and_nothing_later(self, connect):
        bus, release, seen, ends = await connect(), asyncio.Event(), [], Collector()

        async def slow(message):
            await release.wait()
            seen.append(message.data)

        subscription = await bus.subscribe("s", slow)
        await bus.subscribe("end", ends)
        for i in range(3):
            await bus.publish("s", bytes([i]))
        await bus.publish("end", b"")
        await until(lambda: ends.messages)
        leaving = asyncio.create_task(subscription.unsubscribe())
        await asyncio.sleep(0.01)
        release.set()
        await leaving
        assert seen == [b"\0", b"\1", b"\2"]
        await bus.publish("s", b"late")
        await bus.publish("end", b"")
        await until(lambda: len(ends.messages) == 2)
        assert len(seen) == 3

    async def test_a_closed_bus_takes_no_messages_and_raises_nothing_on_publish(self, connect):
        bus, other, seen = await connect(), await connect(), Collector()
        await bus.subscribe("s", seen)
        await bus.close()
        await bus.publish("s", b"1")
        await other.publish("s", b"2")
        assert not bus.is_connected
        assert seen.messages == []
        with pytest.raises(BusError):
            await other.request("s", b"", 0.2)


class TestMemoryBus(BusSuite):
    @pytest.fixture
    async def connect(self):
        broker, made = MemoryBroker(rng=random.Random(1)), []

        async def connect_memory(name="test"):
            made.append(MemoryBus(broker, name))
            return made[-1]

        yield connect_memory
        for bus in made:
            await bus.close()


class TestNatsBus(BusSuite):
    @pytest.fixture
    def connect(self, connect_bus):
        return connect_bus


async def test_nats_delivers_after_a_restart_what_was_published_meanwhile(nats_server, connect_bus):
    bus, seen = await connect_bus(), Collector()
    await bus.subscribe("s", seen)
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    await bus.publish("s", b"kept")
    nats_server.start()
    await until(lambda: seen.data == [b"kept"])


async def test_a_paused_nats_is_noticed(nats_server, connect_bus):
    bus = await connect_bus()
    nats_server.pause()
    await until(lambda: not bus.is_connected)
    nats_server.resume()
    await until(lambda: bus.is_connected)


async def test_a_request_while_nats_is_away_times_out(nats_server, connect_bus):
    bus = await connect_bus()
    nats_server.kill()
    with pytest.raises(RequestTimeout):
        await bus.request("s", b"", 0.2)


async def test_the_memory_bus_drops_doubles_and_delays_as_told():
    broker = MemoryBroker(deliveries=lambda subject, client: {"lost": (), "twice": (0, 0.01)}[subject])
    bus, seen = MemoryBus(broker), Collector()
    await bus.subscribe(">", seen)
    await bus.publish("lost", b"1")
    await bus.publish("twice", b"2")
    await until(lambda: len(seen.messages) == 2)
    assert seen.data == [b"2", b"2"]
    await bus.close()


async def test_a_killed_memory_bus_neither_sends_nor_receives():
    broker = MemoryBroker()
    dead, live = MemoryBus(broker, "dead"), MemoryBus(broker, "live")
    seen, other = Collector(), Collector()
    await dead.subscribe("s", seen)
    await live.subscribe("s", other)
    dead.kill()
    await dead.publish("s", b"from the dead")
    await live.publish("s", b"to all")
    await until(lambda: other.messages)
    assert other.data == [b"to all"]
    assert seen.messages == []
    await live.close()
