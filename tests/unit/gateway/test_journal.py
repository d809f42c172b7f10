from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.bus import Message
from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.messages.codec import decode
from services.common.messages.frames import ERROR, RUNNING, STOP
from services.common.messages.retention import StreamLogAppend, StreamLogBatch
from services.common.subjects import Subjects
from services.gateway.journal import BATCH_BYTES, FLUSH_S, Journal, LogWriter
from services.gateway.life.stream import Delta
from services.kvstore.stream_log import merge_log
from tests.fakes.waiting import until

SUBJECTS = Subjects()


class Desk:
    """A writer, and what arrives of it at kvstore."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.far = MemoryBus(broker)
        self.writer = LogWriter(MemoryBus(broker), SUBJECTS)
        self.batches: list[StreamLogBatch] = []

    async def start(self) -> None:
        async def on_batch(message: Message) -> None:
            self.batches.append(decode(StreamLogBatch, message.data))

        await self.far.subscribe(SUBJECTS.stream_log_append(), on_batch)

    def journal(self, request_id: str, record: bytes = b"record", retention_s: float = 60.0) -> Journal:
        return Journal(request_id, record, retention_s, self.writer)

    def appends(self, request_id: str) -> list[StreamLogAppend]:
        entries = [pair for b in self.batches for pair in zip(b.request_ids, b.appends, strict=True)]
        return [decode(StreamLogAppend, data) for name, data in entries if name == request_id]


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
        journal.begin(1)
    await until(lambda: len(desk.batches) == 3)
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
        (choice,) = merge_log(f"r{i}", desk.appends(f"r{i}")).choices
        assert (choice.ids, choice.text) == (list(range(100, 112)), "abcd" * 3)


async def test_rows_of_one_choice_in_a_row_are_one(desk: Desk) -> None:
    journal = desk.journal("r")
    journal.begin(1)
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
    journal.begin(1)
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
