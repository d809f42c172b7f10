"""What a log's entries say together: the unbroken prefix of every choice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from services.common.errors import DecodeError
from services.common.messages.codec import decode
from services.common.messages.frames import RUNNING
from services.common.messages.retention import StreamLog, StreamLogAppend, StreamLogChoice


def parse_log(entries: Iterable[bytes]) -> list[StreamLogAppend]:
    """What cannot be read is left out: a log needs no completeness."""
    found = []
    for data in entries:
        with suppress(DecodeError):
            found.append(decode(StreamLogAppend, data))
    return found


def merge_log(request_id: str, appends: Sequence[StreamLogAppend]) -> StreamLog:
    """From rows in any order, doubled or overlapping.

    Attempts fence: from where a higher one's rows begin, those of lower ones do not count, so that a gateway that
    was paused adds nothing to a stream that another has taken over.
    """
    request = next((append.request for append in appends if append.request), b"")
    rows = sorted(
        (row for append in appends for row in _rows(append)),
        key=lambda row: (row.choice, row.attempt, row.first, row.text_offset),
    )
    choices: dict[int, StreamLogChoice] = {}
    attempts: dict[int, int] = {}  # of each choice's last row
    for row in rows:
        choice = choices.setdefault(row.choice, StreamLogChoice(row.choice, []))
        if row.first > len(choice.ids) or row.text_offset > len(choice.text):
            continue  # beyond a gap
        if attempts.get(row.choice) != row.attempt:
            attempts[row.choice] = row.attempt
            _cut(choice, row)
        if choice.finish != RUNNING:
            continue
        if row.first + len(row.ids) < len(choice.ids) or row.text_offset + len(row.text) < len(choice.text):
            continue  # wholly known
        choice.ids += row.ids[len(choice.ids) - row.first :]
        choice.text += row.text[len(choice.text) - row.text_offset :]
        choice.finish, choice.stop_reason = row.finish, row.stop_reason
        choice.cached_tokens = choice.cached_tokens or row.cached_tokens
    attempt = max((append.attempt for append in appends), default=0)
    ordered = [choices[index] for index in sorted(choices)]
    return StreamLog(request_id, bool(request), attempt, request, ordered)


def _cut(choice: StreamLogChoice, row: _Row) -> None:
    """Forgets what a lower attempt brought beyond the beginning of a higher one's first row."""
    if row.first < len(choice.ids) or row.text_offset < len(choice.text):
        del choice.ids[row.first :]
        choice.text = choice.text[: row.text_offset]
        choice.finish, choice.stop_reason = RUNNING, None


class _Row(NamedTuple):
    attempt: int
    choice: int
    first: int
    ids: list[int]
    text_offset: int
    text: str
    finish: int
    stop_reason: int | str | None
    cached_tokens: int


def _rows(append: StreamLogAppend) -> list[_Row]:
    columns = (append.choices, append.first, append.counts, append.text_offset, append.texts, append.finish)
    if len({len(column) for column in columns}) != 1 or sum(append.counts) != len(append.ids):
        return []
    rows: list[_Row] = []
    start = 0
    for i, (index, first, count, offset, text, finish) in enumerate(zip(*columns, strict=True)):
        ids = append.ids[start : start + count]
        reason, cached = append.stop_reasons.get(i), append.cached_tokens.get(i, 0)
        rows.append(_Row(append.attempt, index, first, ids, offset, text, finish, reason, cached))
        start += count
    return rows
