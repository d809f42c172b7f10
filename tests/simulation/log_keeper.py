"""Stands for kvstore's logs of streams: the same messages and the same merging, without Redis."""

from __future__ import annotations

from collections import defaultdict

from services.common.bus import Bus, Message
from services.common.messages.codec import decode, encode
from services.common.messages.retention import StreamLogAppend, StreamLogBatch, StreamLogRequest
from services.common.subjects import Subjects
from services.kvstore.stream_log import merge_log


class LogKeeper:
    """Runs in a process of its own, which no fault befalls."""

    def __init__(self, bus: Bus, subjects: Subjects) -> None:
        self._bus, self._subjects = bus, subjects
        self._appends: defaultdict[str, list[StreamLogAppend]] = defaultdict(list)

    async def start(self) -> None:
        await self._bus.subscribe(self._subjects.stream_log_append(), self._on_append)
        await self._bus.subscribe(self._subjects.stream_log_read(), self._on_read)

    async def _on_append(self, message: Message) -> None:
        batch = decode(StreamLogBatch, message.data)
        for request_id, data in zip(batch.request_ids, batch.appends, strict=True):
            self._appends[request_id].append(decode(StreamLogAppend, data))

    async def _on_read(self, message: Message) -> None:
        request_id = decode(StreamLogRequest, message.data).request_id
        found = merge_log(request_id, self._appends[request_id])
        await self._bus.publish(message.reply, encode(found))
