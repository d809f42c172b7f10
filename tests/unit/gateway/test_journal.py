from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.bus import Message
from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.messages.codec import decode, encode
from services.common.messages.frames import ERROR, RUNNING, STOP
from services.common.messages.retention import (
    MAX_LOG_BYTES,
    StreamLog,
    StreamLogAppend,
    StreamLogBatch,
    StreamLogWritten,
)
from services.common.subjects import Subjects
from services.gateway.journal import Journal
from services.gateway.life.stream import Delta
from services.gateway.log_writer import BATCH_BYTES, FLUSH_S, LogWriter
from services.kvstore.merge import merge_log, parse_log
from tests.fakes.waiting import until

SUBJECTS = Subjects()


class Desk:
    """A writer, and a kvstore that keeps what arrives, and says so, for as long as it is told to."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.far = MemoryBus(broker)
        self.writer = LogWriter(MemoryBus(broker), SUBJECTS)
        self.batches: list[StreamLogBatch] = []
        self.generation = "one"  # empty: it has it in memory only
        self.is_deaf = False
        self.logs: dict[str, dict[bytes, None]] = {}

    async def start(self) -> None:
        async def on_batch(message: Message) -> None:
            if self.is_deaf:
                return
            batch = decode(StreamLogBatch, message.data)
            self.batches.append(batch)
            for request_id, data in zip(batch.request_ids, batch.appends, strict=True):
                if data:
                    self.logs.setdefault(request_id, {})[data] = None
            await self.far.publish(message.reply, encode(StreamLogWritten(self.generation)))

        await self.far.subscribe(SUBJECTS.stream_log_append(), on_batch)

    def journal(self, request_id: str, record: bytes = b"record", retention_s: float = 60.0) -> Journal:
        return Journal(request_id, record, retention_s, self.writer)

    def appends(self, request_id: str) -> list[StreamLogAppend]:
        return parse_log(self.logs.get(request_id, {}))

    def log(self, request_id: str) -> StreamLog:
        return merge_log(request_id, self.appends(request_id))

    def lose_all(self) -> None:
        """As a Redis that is flushed, or killed."""
        self.logs.clear()
        self.generation += "'"


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    await made.start()
    yield made
    await made.writer.close()


def delta(first: int, text: str, choice: int = 0, finish: int = RUNNING) -> Delta:
    """One id for each character; all of a choice's text is given out in order."""
    made = Delta(choice, [100 + first + i for i in range(len(text))], [text], finish=finish)
    made.num_ids = made.num_chars = first + len(text)
    return made


async def test_the_beginning_is_sent_at_once_and_the_rest_of_all_streams_together(desk: Desk) -> None:
    journals = [desk.journal(f"r{i}", retention_s=10.0 * (i + 1)) for i in range(3)]
    for journal in journals:
        await journal.begin(1)
    assert [(batch.is_urgent, batch.request_ids) for batch in desk.batches] == [
        (True, ["r0"]),
        (True, ["r1"]),
        (True, ["r2"]),
    ]
    for at in range(0, 12, 4):
        for journal in journals:
            journal.add([delta(at, "abcd")], 1)
    await until(lambda: len(desk.batches) == 4)
    journals[0].add([delta(12, "end", finish=STOP)], 1)
    journals[0].end()
    await until(lambda: len(desk.batches) == 5)
    assert desk.batches.pop().request_ids == ["r0"]
    await asyncio.sleep(2 * FLUSH_S)
    assert len(desk.batches) == 4, "nothing new, nothing sent"
    assert desk.batches[-1].request_ids == ["r0", "r1", "r2"]
    assert desk.batches[-1].retention_s == [10.0, 20.0, 30.0]
    for i in range(3):
        (choice,) = desk.log(f"r{i}").choices
        assert choice.text == "abcd" * 3 + ("end" if i == 0 else "")
        assert choice.ids == list(range(100, 100 + len(choice.text)))


async def test_rows_of_one_choice_in_a_row_are_one(desk: Desk) -> None:
    journal = desk.journal("r")
    await journal.begin(1)
    for choice, first, text in ((0, 0, "a"), (0, 1, "b"), (1, 0, "x"), (1, 1, "y"), (0, 2, "c")):
        journal.add([delta(first, text, choice)], 2)
    await desk.writer.close()
    await until(lambda: len(desk.batches) == 2)
    first, rest = desk.appends("r")
    assert (first.request, first.attempt, first.choices) == (b"record", 1, [])
    assert (rest.request, rest.attempt) == (b"", 2)
    assert (rest.choices, rest.first, rest.counts, rest.texts) == (
        [0, 1, 0],
        [0, 0, 2],
        [2, 2, 1],
        ["ab", "xy", "c"],
    )


async def test_why_a_choice_ended_is_kept_and_not_that_the_engine_failed(desk: Desk) -> None:
    journal = desk.journal("r")
    await journal.begin(1)
    begun, stopped = delta(0, "ab"), delta(2, "c", finish=STOP)
    begun.cached_tokens, stopped.stop_reason = 16, "END"
    journal.add([begun], 1)
    journal.add([stopped], 1)
    journal.add([delta(0, "x", 1, finish=ERROR)], 1)
    await desk.writer.close()
    await until(lambda: len(desk.batches) == 2)
    done, failed = merge_log("r", desk.appends("r")).choices
    assert (done.text, done.finish, done.stop_reason, done.cached_tokens) == ("abc", STOP, "END", 16)
    assert (failed.text, failed.finish) == ("x", RUNNING)


async def test_a_batch_that_grows_long_is_sent_in_parts(desk: Desk) -> None:
    for i in range(5):
        journal = desk.journal(f"r{i}")
        journal.add([delta(0, "x" * (BATCH_BYTES // 8))], 1)  # an id takes four bytes
    desk.writer.flush()
    await until(lambda: sum(len(batch.appends) for batch in desk.batches) == 5)
    assert [len(batch.appends) for batch in desk.batches] == [1] * 5


async def test_a_flush_takes_all_streams_that_run_to_be_written_again(desk: Desk) -> None:
    running, quiet = desk.journal("running"), desk.journal("quiet")
    for journal in (running, quiet):
        await journal.begin(1)
        journal.add([delta(0, "abc")], 1)
    desk.writer.flush()
    await until(lambda: desk.log("quiet").choices)
    desk.lose_all()
    running.add([delta(3, "de")], 1)
    await until(lambda: desk.log("quiet").choices and desk.log("running").found, "the logs", 4 * FLUSH_S)
    assert [desk.log(name).choices[0].text for name in ("running", "quiet")] == ["abcde", "abc"]
    assert desk.log("quiet").request == b"record"


async def test_what_nobody_heard_is_sent_again_until_somebody_does(desk: Desk) -> None:
    desk.is_deaf = True
    journal = desk.journal("r")
    began = asyncio.get_running_loop().time()
    await journal.begin(1)
    assert asyncio.get_running_loop().time() - began < 1, "a stream does not wait for its log"
    journal.add([delta(0, "abc", finish=STOP)], 1)
    journal.end()
    desk.is_deaf = False
    await until(lambda: desk.log("r").found and desk.log("r").choices)
    assert (desk.log("r").choices[0].text, desk.log("r").choices[0].finish) == ("abc", STOP)
    num_batches = len(desk.batches)
    await asyncio.sleep(2 * FLUSH_S)
    assert len(desk.batches) == num_batches, "it was confirmed"


async def test_where_there_is_no_kvstore_the_headers_go_out_at_once(desk: Desk) -> None:
    writer = LogWriter(MemoryBus(MemoryBroker()), SUBJECTS)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for i in range(100):
        await Journal(f"r{i}", b"record", 60.0, writer).begin(1)
    assert loop.time() - began < 10
    await writer.close()


async def test_while_redis_is_away_new_rows_go_to_a_kvstore_and_all_goes_to_redis_later(desk: Desk) -> None:
    desk.generation = ""
    journal = desk.journal("r")
    await journal.begin(1)
    journal.add([delta(0, "abc")], 1)
    desk.writer.flush()
    await until(lambda: desk.log("r").choices)
    desk.logs.clear()  # that kvstore is killed too
    desk.generation = "two"
    journal.add([delta(3, "de")], 1)
    desk.writer.flush()
    await until(lambda: desk.log("r").found)
    assert desk.log("r").choices[0].text == "abcde"


async def test_a_stream_without_news_has_its_log_kept_alive(desk: Desk) -> None:
    journal = desk.journal("r", retention_s=1.0)
    await journal.begin(1)
    num_batches = len(desk.batches)
    await until(lambda: len(desk.batches) > num_batches)
    assert desk.batches[-1].appends == [b""]
    journal.end()


async def test_a_log_s_bound_holds_and_what_is_beyond_it_is_left_out(desk: Desk) -> None:
    journal = desk.journal("r")
    await journal.begin(1)
    part = "x" * (MAX_LOG_BYTES // 20)  # an id takes four bytes, and a character one
    for i in range(6):
        journal.add([delta(i * len(part), part)], 1)
        desk.writer.flush()
    journal.end()
    await until(lambda: desk.log("r").choices)
    await asyncio.sleep(FLUSH_S)
    assert journal.num_bytes <= MAX_LOG_BYTES
    assert 0 < len(desk.log("r").choices[0].text) < 4 * len(part)


async def test_what_ended_while_nobody_confirms_is_bounded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.log_writer.MAX_ENDED_BYTES", 250_000)
    desk.generation = ""
    for i in range(4):
        journal = desk.journal(f"r{i}", b"q" * 100_000)
        await journal.begin(1)
        journal.end()
    await until(lambda: len(desk.batches) == 4)
    desk.logs.clear()
    desk.generation = "two"
    await until(lambda: len(desk.logs) == 2)
    assert sorted(desk.logs) == ["r2", "r3"], "the oldest went first"


async def test_what_ended_is_given_up_when_nobody_could_want_it_any_more(desk: Desk) -> None:
    desk.generation = ""
    journal = desk.journal("r", retention_s=0.1)
    await journal.begin(1)
    journal.end()
    await until(lambda: len(desk.batches) == 1)
    desk.logs.clear()
    await asyncio.sleep(1.2)  # the first time that it would be sent again
    desk.generation = "two"
    other = desk.journal("other")
    await other.begin(1)
    other.end()
    await until(lambda: "other" in desk.logs)
    assert "r" not in desk.logs
