"""Logs of streams on real Redis and NATS, whatever becomes of Redis and of kvstores."""

import asyncio

import pytest

from services.common.messages.codec import decode, encode
from services.common.messages.retention import (
    MAX_LOG_BYTES,
    StreamLog,
    StreamLogAppend,
    StreamLogBatch,
    StreamLogRequest,
    StreamLogWritten,
)
from services.common.subjects import Subjects
from tests.fakes.waiting import until

SUBJECTS = Subjects("test")


def log_append(request_id, first, ids, request=b""):
    text = "x" * len(ids)
    return StreamLogAppend(request_id, 1, request, [0], [first], [len(ids)], ids, [text], [first], [0])


async def write(bus, *appends, retention_s=60.0):
    """The generation into which they were written, or nothing."""
    names = [append.request_id for append in appends]
    batch = StreamLogBatch(names, [retention_s] * len(names), [encode(a) for a in appends], is_urgent=True)
    answer = await bus.request(SUBJECTS.stream_log_append(), encode(batch), 5)
    return decode(StreamLogWritten, answer).generation


async def write_log(bus, request_id, num_rows, retention_s=60.0):
    for i in range(num_rows):
        append = log_append(request_id, i, [i], b"request" if i == 0 else b"")
        assert await write(bus, append, retention_s=retention_s)


async def read(bus, request_id):
    answer = await bus.request(SUBJECTS.stream_log_read(), encode(StreamLogRequest(request_id)), 5)
    return decode(StreamLog, answer)


async def until_read(bus, request_id, num_ids):
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        log = await read(bus, request_id)
        if log.found and log.choices[0].ids == list(range(num_ids)):
            return log
        assert asyncio.get_running_loop().time() < deadline, log
        await asyncio.sleep(0.05)


async def test_a_log_is_read_back_from_any_kvstore_and_expires(start_kvstore, connect_bus):
    for name in ("one", "two"):
        await start_kvstore(name)
    bus = await connect_bus()
    await write_log(bus, "r", 6, retention_s=4.0)
    for _ in range(5):
        log = await read(bus, "r")
        assert (log.found, log.request, log.choices[0].ids) == (True, b"request", list(range(6)))
    assert not (await read(bus, "never")).found
    while (await read(bus, "r")).found:  # noqa: ASYNC110 - until the test's own time is over
        await asyncio.sleep(0.05)


async def test_an_entry_that_is_written_again_changes_nothing(start_kvstore, connect_bus, client):
    for name in ("one", "two"):
        await start_kvstore(name)
    bus = await connect_bus()
    first = log_append("r", 0, [0], b"request")
    generations = {await write(bus, first) for _ in range(6)}
    assert len(generations) == 1
    assert await client.hlen("test:stream:r") == 2, "the entry and the size"
    assert int(await client.hget("test:stream:r", "size")) == len(encode(first))


@pytest.mark.parametrize("loss", ["flush", "kill", "pause"])
async def test_what_redis_lost_is_written_again_from_memory(
    start_kvstore, connect_bus, client, redis_server, loss
):
    """Also of streams that nobody appends to any more, and for whom their gateway cannot do it."""
    await start_kvstore("one")
    bus = await connect_bus()
    await write_log(bus, "ended", 3)
    if loss == "flush":
        await client.flushall()
    elif loss == "kill":
        redis_server.kill()
    else:
        redis_server.pause()
    log = await read(bus, "ended")
    assert (log.found, log.choices[0].ids) == (True, [0, 1, 2]), "it is answered meanwhile"
    if loss == "kill":
        redis_server.start()
    redis_server.resume()
    deadline = asyncio.get_running_loop().time() + 60
    while not await client.exists("test:stream:ended"):
        assert asyncio.get_running_loop().time() < deadline, "it is not written again"
        await asyncio.sleep(0.05)
    assert await client.hlen("test:stream:ended") == 4


async def test_an_older_state_of_redis_is_known_for_what_it_is(
    start_kvstore, connect_bus, client, redis_server
):
    """As a Redis has that saves itself now and then: all that it has is true, but not all that was true is there."""
    await start_kvstore("one")
    bus = await connect_bus()
    await write_log(bus, "r", 3)
    saved = [(key, await client.dump(key)) for key in await client.keys("test:stream*")]
    before = await write(bus, log_append("r", 3, [3]))
    redis_server.kill()
    redis_server.start()
    await client.connection_pool.disconnect()
    for key, value in saved:
        await client.restore(key, 0, value, replace=True)
    await until_read(bus, "r", 4)
    assert await write(bus, log_append("r", 4, [4])) != before
    await until_read(bus, "r", 5)


async def test_while_redis_is_away_appends_are_held_and_said_not_to_be_written(
    start_kvstore, connect_bus, redis_server
):
    await start_kvstore("one", "--stream_retention", "30")
    bus = await connect_bus()
    await write_log(bus, "r", 2)
    redis_server.kill()
    assert await write(bus, log_append("r", 2, [2])) == ""
    log = await read(bus, "r")
    assert (log.choices[0].ids, log.is_partial) == ([0, 1, 2], True)
    unknown = await read(bus, "never")
    assert (unknown.found, unknown.is_partial) == (False, True), "nobody can say that it is not there"
    redis_server.start()
    while not await write(bus, log_append("r", 3, [3])):  # noqa: ASYNC110 - another process tells by its answer
        await asyncio.sleep(0.05)
    log = await read(bus, "r")
    assert (log.choices[0].ids, log.is_partial) == ([0, 1, 2, 3], True), "another kvstore may not know it yet"


async def test_a_kvstore_that_starts_takes_over_what_redis_has(
    start_kvstore, connect_bus, client, redis_server
):
    """So that the loss of Redis after that of a kvstore costs no more than either."""
    first = await start_kvstore("one")
    bus = await connect_bus()
    await write_log(bus, "r", 3)
    await first.stop()
    second = await start_kvstore("two")
    await until(lambda: second.app._logs.held_bytes > 0)
    await client.flushall()
    await until_read(bus, "r", 3)


async def test_of_two_kvstores_each_writes_again_what_it_had(start_kvstore, connect_bus, client):
    for name in ("one", "two"):
        await start_kvstore(name)
    bus = await connect_bus()
    await write_log(bus, "r", 20)
    await client.flushall()
    await until_read(bus, "r", 20)


async def test_a_log_keeps_to_its_bound(start_kvstore, connect_bus, client):
    await start_kvstore("one", "--stream_retention", "30")
    bus = await connect_bus()
    assert await write(bus, log_append("r", 0, [0], b"q" * 3_000_000))
    assert await write(bus, log_append("r", 1, [1] * 300_000)), (
        "there is nothing to be gained by sending it again"
    )
    assert (await read(bus, "r")).choices[0].ids == [0]
    assert int(await client.hget("test:stream:r", "size")) <= MAX_LOG_BYTES


async def test_memory_is_bounded_and_the_quietest_logs_leave_it_first(start_kvstore, connect_bus, client):
    runtime = await start_kvstore("one", "--stream_retention", "30")
    runtime.app._logs.max_bytes = 1_000_000
    bus = await connect_bus()
    for i in range(5):
        await write(bus, log_append(f"r{i}", 0, [0], b"q" * 300_000))
    assert runtime.app._logs.held_bytes <= 1_000_000
    assert [(await read(bus, f"r{i}")).found for i in range(5)] == [True] * 5, "Redis has them all"
    await client.flushall()
    await until_read(bus, "r4", 1)
    assert [(await read(bus, f"r{i}")).found for i in range(5)] == [False, False, True, True, True]


async def test_a_log_is_kept_for_as_long_as_its_append_says_up_to_the_most_that_is_allowed(
    start_kvstore, connect_bus, client
):
    await start_kvstore("one", "--max_stream_retention", "40")
    bus = await connect_bus()
    for asked, kept in ((2.0, 2.0), (20.0, 20), (1e9, 40)):
        assert await write(bus, log_append(f"r{kept}", 0, [1], b"request"), retention_s=asked)
        assert (kept - 10) * 1000 < await client.pttl(f"test:stream:r{kept}") <= kept * 1000


async def test_an_empty_append_keeps_a_log_alive(start_kvstore, connect_bus, client):
    await start_kvstore("one")
    bus = await connect_bus()
    await write(bus, log_append("r", 0, [0], b"request"), retention_s=5)
    batch = StreamLogBatch(["r"], [60.0], [b""])
    await bus.request(SUBJECTS.stream_log_append(), encode(batch), 5)
    assert await client.pttl("test:stream:r") > 50_000


async def test_nothing_is_kept_where_retention_is_off(start_kvstore, connect_bus, client):
    await start_kvstore("one", "--max_stream_retention", "0")
    bus = await connect_bus()
    await write_log(bus, "r", 3)
    assert not (await read(bus, "r")).found
    assert await client.keys("test:stream:*") == []
