"""The index is the worker's cache again after any loss, doubling and delay of events and answers."""

import asyncio
import random

import pytest

from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.kv_feed import KvFeeds
from services.common.messages.codec import decode, encode
from services.common.messages.events import KvEvents, KvSnapshot
from services.common.subjects import Subjects
from tests.fakes.waiting import until
from tests.fakes.workers import FakeWorker

SUBJECTS = Subjects("test")


class Sets:
    """An index of one plain set per worker."""

    def __init__(self):
        self.held = {}

    def store(self, worker_id, hashes):
        self.held.setdefault(worker_id, set()).update(hashes)

    def remove(self, worker_id, hashes):
        self.held.setdefault(worker_id, set()).difference_update(hashes)

    def clear(self, worker_id):
        self.held.pop(worker_id, None)


class Stage:
    def __init__(self, deliveries=None, **knobs):
        self.broker = MemoryBroker(deliveries=deliveries)
        self.index = Sets()
        self.bus = MemoryBus(self.broker, "router")
        self.feeds = KvFeeds(self.bus, SUBJECTS, self.index, timeout_s=0.1, retry_s=0.01)
        self.worker = FakeWorker("w", MemoryBus(self.broker, "w"), SUBJECTS, **knobs)

    async def start(self):
        async def on_events(message):
            self.feeds.on_events(decode(KvEvents, message.data))

        await self.bus.subscribe(SUBJECTS.kv_events(), on_events)
        await self.worker.start()
        self.feeds.on_worker("w", self.worker.epoch)
        return self

    def agrees(self):
        return self.feeds.is_synced("w") and self.index.held.get("w", set()) == set(self.worker.blocks)

    async def stop(self):
        await self.feeds.stop()
        await self.worker.bus.close()
        await self.bus.close()


def block(i):
    return i.to_bytes(16, "little")


@pytest.mark.parametrize("page_hashes", [1, 7, 1000])
async def test_a_worker_is_followed_from_what_it_holds_already(page_hashes):
    stage = Stage(page_hashes=page_hashes)
    stage.worker.blocks.update(dict.fromkeys(map(block, range(20))))
    stage.worker.seq = 5
    await stage.start()
    await until(stage.agrees)
    await stage.worker.change(stored=[block(50)], removed=[block(3)])
    await until(lambda: stage.agrees() and stage.feeds.position("w") == (1, 6))
    assert stage.feeds.num_snapshots == 1
    await stage.stop()


async def test_doubled_and_old_events_change_nothing():
    stage = await Stage().start()
    await until(stage.agrees)
    await stage.worker.change(stored=[block(1)])
    await stage.worker.change(removed=[block(1)])
    await until(lambda: stage.feeds.position("w")[1] == 2)
    stage.feeds.on_events(KvEvents("w", 1, 1, stored=block(1)))
    stage.feeds.on_events(KvEvents("w", 0, 3, stored=block(1)))  # of its past
    stage.feeds.on_events(KvEvents("stranger", 1, 1, stored=block(1)))
    assert stage.index.held == {"w": set()}
    assert stage.feeds.num_snapshots == 1
    await stage.stop()


async def test_a_new_epoch_starts_from_nothing():
    stage = await Stage().start()
    await until(stage.agrees)
    await stage.worker.change(stored=[block(1)])
    await until(stage.agrees)
    stage.worker.epoch, stage.worker.seq, stage.worker.blocks = 2, 0, {}
    await stage.worker.change(stored=[block(9)])
    await until(lambda: stage.index.held == {"w": {block(9)}} and stage.feeds.is_synced("w"))
    stage.feeds.on_gone("w")
    assert stage.index.held == {}
    assert stage.feeds.position("w") == (0, 0)
    await stage.stop()


async def test_what_kvstore_knows_serves_until_the_worker_answers():
    stage = Stage()
    warm = KvSnapshot("w", 1, 3, 0, 1, block(1) + block(2))
    stage.feeds.warm(warm)
    assert stage.index.held == {}  # nobody has said that it lives
    stage.feeds.on_worker("w", 1)
    stage.feeds.warm(KvSnapshot("w", 99, 3, 0, 1, block(7)))  # of another life
    stage.feeds.warm(warm)
    assert stage.index.held == {"w": {block(1), block(2)}}
    stage.worker.blocks[block(2)] = None
    await stage.start()
    await until(stage.agrees)
    stage.feeds.warm(warm)
    assert stage.index.held == {"w": {block(2)}}
    await stage.stop()


async def test_a_cache_that_changes_between_pages_ends_in_agreement():
    stage = Stage(page_hashes=3)
    stage.worker.blocks.update(dict.fromkeys(map(block, range(30))))
    stage.worker.seq = 1
    await stage.start()
    for i in range(30):
        await stage.worker.change(stored=[block(100 + i)], removed=[block(i)])
        await asyncio.sleep(0)
    await until(lambda: stage.feeds.is_synced("w") and stage.feeds.position("w")[1] == stage.worker.seq)
    held = stage.index.held["w"]
    assert held <= set(stage.worker.blocks)  # pages torn by changes may miss blocks, never invent them
    await stage.stop()


@pytest.mark.parametrize("seed", range(12))
async def test_any_loss_doubling_and_delay_ends_in_agreement(seed):
    rng = random.Random(seed)
    chaos = [True]

    def deliveries(subject, client):
        if not chaos[0]:
            return (0,)
        return rng.choice([(), (0,), (0,), (0, 0.002), (0.003,)])

    stage = await Stage(deliveries).start()
    names = [block(i) for i in range(12)]
    for _ in range(60):
        await stage.worker.change(
            stored=rng.sample(names, 2), removed=rng.sample(names, 2), cleared=rng.random() < 0.05
        )
        if rng.random() < 0.3:
            await asyncio.sleep(0.002)
    chaos[0] = False
    await asyncio.sleep(0.01)  # what was delayed arrives
    await stage.worker.change(stored=[names[0]])
    await until(stage.agrees)
    await stage.stop()


async def test_a_malformed_snapshot_is_asked_for_again():
    stage = Stage()
    answers = iter([b"garbage", encode(KvSnapshot("w", 7, 1, 0, 1, block(1)))])
    bus = MemoryBus(stage.broker, "liar")

    async def lie(message):
        data = next(answers, encode(KvSnapshot("w", 1, 4, 0, 1, block(2))))
        await bus.publish(message.reply, data)

    await bus.subscribe(SUBJECTS.kv_snapshot("w"), lie)
    stage.feeds.on_worker("w", 1)
    await until(lambda: stage.feeds.position("w") == (1, 4))
    assert stage.index.held == {"w": {block(2)}}
    await bus.close()
    await stage.stop()
