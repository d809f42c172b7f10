import asyncio
import random

import pytest
import redis.asyncio

from services.common.blockhash import split_hashes
from services.common.bus import NoResponders
from services.common.messages.codec import decode, encode
from services.common.messages.events import KvSnapshotRequest, KvSnapshots
from services.common.subjects import Subjects
from tests.fakes.processes import modules_of, running_service
from tests.fakes.waiting import until
from tests.fakes.workers import FakeWorker, random_prompt

SUBJECTS = Subjects("test")
PATIENCE_S = 60.0  # and no bound: the machine may be busy


@pytest.fixture
async def start_worker(connect_bus):
    async def start(name="w", **knobs):
        return await FakeWorker(name, await connect_bus(name), SUBJECTS, **knobs).launch()

    return start


async def members(client, worker_id="w"):
    try:
        return await client.smembers(f"test:kv:{worker_id}")
    except redis.asyncio.RedisError:
        return None


async def until_members(client, worker, worker_id="w"):
    """Waits until Redis holds exactly a worker's blocks."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while await members(client, worker_id) != set(worker.blocks):
        assert asyncio.get_running_loop().time() < deadline, "Redis does not hold the worker's blocks"
        await asyncio.sleep(0.01)


async def snapshot(bus):
    """What kvstore answers: worker id -> set of hashes."""
    found, page, num_pages = {}, 0, 1
    while page < num_pages:
        answer = await bus.request(SUBJECTS.kvstore_snapshot(), encode(KvSnapshotRequest(page=page)), 5)
        snapshots = decode(KvSnapshots, answer)
        num_pages, page = snapshots.num_pages, page + 1
        for part in snapshots.workers:
            found.setdefault(part.worker_id, set()).update(split_hashes(part.hashes))
    return found


async def test_redis_follows_the_workers_caches(start_kvstore, start_worker, client):
    runtime = await start_kvstore()
    worker = await start_worker(epoch=77)
    first = await worker.cache_prompt(random_prompt(random.Random(1), 400))
    await until_members(client, worker)
    await worker.change(removed=first[50:])
    await worker.cache_prompt(random_prompt(random.Random(2), 40))
    await until_members(client, worker)
    assert 0 < await client.pttl("test:kv:w") <= 10 * runtime.timing.lease_s * 1000
    assert (await client.hget("test:kv:workers", "w")).startswith(b"77 ")
    await worker.change(cleared=True)
    await until_members(client, worker)


async def test_leases_are_renewed_while_a_worker_lives(start_kvstore, start_worker, client):
    await start_kvstore()
    worker = await start_worker()
    await worker.cache_prompt([1] * 8)
    await until_members(client, worker)
    for _ in range(2):
        await client.pexpire("test:kv:w", 2000)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while await client.pttl("test:kv:w") <= 2000:
            assert asyncio.get_running_loop().time() < deadline, "the lease was not renewed"
            await asyncio.sleep(0.01)
    assert await members(client) == set(worker.blocks)


async def test_a_redis_that_lost_everything_is_noticed_though_nothing_changes(
    start_kvstore, start_worker, client
):
    await start_kvstore()
    worker = await start_worker()
    await worker.cache_prompt([1] * 8)
    await until_members(client, worker)
    await client.flushall()
    await until_members(client, worker)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not await client.hexists("test:kv:workers", "w"):  # it is listed after its blocks are there
        assert asyncio.get_running_loop().time() < deadline, "Redis does not list the worker again"
        await asyncio.sleep(0.01)


async def test_a_dead_workers_entries_vanish(start_kvstore, start_worker, client):
    runtime = await start_kvstore()
    worker, other = await start_worker("w"), await start_worker("other")
    for each in (worker, other):
        await each.cache_prompt([1] * 8)
    await until_members(client, other, "other")
    await until_members(client, worker)
    await worker.kill()
    await until(lambda: "w" not in runtime.app._table.workers)
    worker.blocks.clear()
    await until_members(client, worker)
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while b"w" in await client.hgetall("test:kv:workers"):  # it is struck off the list after its blocks are
        assert asyncio.get_running_loop().time() < deadline, "Redis lists a worker that is dead"
        await asyncio.sleep(0.01)
    await until_members(client, other, "other")


async def test_entries_expire_when_nobody_renews_them(start_kvstore, start_worker, client):
    runtime = await start_kvstore()
    worker = await start_worker()
    await worker.cache_prompt([1] * 8)
    await until_members(client, worker)
    await runtime.bus.close()
    await runtime.app.stop()
    assert await members(client)
    worker.blocks.clear()
    await until_members(client, worker)


@pytest.mark.parametrize("loss", ["flush", "kill", "pause"])
async def test_redis_is_written_in_full_when_it_comes_back(
    start_kvstore, start_worker, client, redis_server, loss, connect_bus
):
    await start_kvstore()
    worker, bus = await start_worker(), await connect_bus()
    await worker.cache_prompt(random_prompt(random.Random(3), 400))
    await until_members(client, worker)
    if loss == "flush":
        await client.flushall()
    elif loss == "kill":
        redis_server.kill()
    else:
        redis_server.pause()
    await worker.cache_prompt(random_prompt(random.Random(4), 400))
    await until_answer(bus, worker)  # from memory, whatever Redis does
    if loss == "kill":
        redis_server.start()
    redis_server.resume()
    await until_members(client, worker)


async def until_answer(bus, worker):
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while (await snapshot(bus)).get(worker.worker_id) != set(worker.blocks):
        assert asyncio.get_running_loop().time() < deadline, "it does not answer with the worker's blocks"
        await asyncio.sleep(0.02)


async def test_it_starts_and_answers_without_redis(start_kvstore, start_worker, redis_server, connect_bus):
    redis_server.kill()
    await start_kvstore()
    worker = await start_worker()
    await worker.cache_prompt([1] * 80)
    await until_answer(await connect_bus(), worker)


async def test_a_restarted_kvstore_is_warm_from_redis(start_kvstore, connect_bus, client):
    """The worker cannot be asked here, so what is answered is what Redis held."""
    blocks = {bytes([i]) * 16 for i in range(100)}
    await client.sadd("test:kv:w", *blocks)
    await client.hset("test:kv:workers", "w", "5 17")
    await start_kvstore()
    assert await snapshot(await connect_bus()) == {"w": blocks}


async def test_two_kvstores_on_one_redis_agree(start_kvstore, start_worker, client, connect_bus):
    await start_kvstore("one")
    worker, rng = await start_worker(), random.Random(5)
    await start_kvstore("two")
    for i in range(20):
        hashes = await worker.cache_prompt(random_prompt(rng, 40))
        await worker.change(removed=hashes[5:])
        if i == 10:
            await client.flushall()
        await asyncio.sleep(0.01)
    await until_members(client, worker)
    await until_answer(await connect_bus(), worker)


async def test_two_kvstores_answer_a_question_once(start_kvstore, connect_bus):
    await start_kvstore("one")
    await start_kvstore("two")
    bus, answers = await connect_bus(), []

    async def collect(message):
        answers.append(message)

    await bus.subscribe("answers", collect)
    await bus.publish(SUBJECTS.kvstore_snapshot(), encode(KvSnapshotRequest()), "answers")
    await until(lambda: answers)
    await asyncio.sleep(0.05)
    assert len(answers) == 1


# -- the process -------------------------------------------------------------------------------------------------


def test_kvstore_imports_no_torch():
    loaded = modules_of("import services.kvstore.__main__")
    assert "services.kvstore.app" in loaded
    assert not {"torch", "transformers", "numpy"} & loaded


async def test_the_process_serves_and_ends_with_0_when_told(nats_server, redis_server, connect_bus):
    flags = [*nats_server.flags, "--redis_url", redis_server.url, "--namespace", "test"]
    with running_service("kvstore", flags) as process:
        await process.until_ready()
        bus = await connect_bus()
        assert await snapshot(bus) == {}
        assert redis_server.password not in process.get("/config")[1]
        assert process.terminate() == 0
        with pytest.raises(NoResponders):
            await snapshot(bus)
