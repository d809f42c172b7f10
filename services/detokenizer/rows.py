"""Rows in and out of columnar frames. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from services.common.errors import DecodeError
from services.common.messages.frames import (
    RUNNING,
    PromptLogprobs,
    RowLogprobs,
    StreamInfo,
    TextFrame,
    TokenFrame,
)


@dataclass(slots=True)
class Row:
    """One row of a TokenFrame: ids ``first`` .. ``first + len(ids) - 1`` of a stream's attempt."""

    stream: str
    attempt: int
    first: int
    ids: list[int]
    finish: int
    cached_tokens: int
    stop_id: int | None
    error: str | None
    info: StreamInfo | None
    logprobs: RowLogprobs | None
    prompt_logprobs: PromptLogprobs | None


def rows_of(frame: TokenFrame) -> Iterator[Row]:
    """The rows of a frame. Raises DecodeError at once when its columns do not fit together."""
    size = len(frame.streams)
    columns = (frame.attempts, frame.first, frame.counts, frame.finish, frame.cached_tokens)
    if any(len(column) != size for column in columns):
        raise DecodeError(f"TokenFrame: {size} streams, but columns of {[len(c) for c in columns]}")
    if (
        sum(frame.counts) != len(frame.ids)
        or any(n < 0 for n in frame.counts)
        or any(n < 0 for n in frame.first)
    ):
        raise DecodeError("TokenFrame: counts do not add up to the ids, or are negative")
    for row, logprobs in frame.logprobs.items():
        if not 0 <= row < size or not _covers(logprobs, frame.counts[row]):
            raise DecodeError(f"TokenFrame: log probabilities of row {row} do not fit its ids")
    return _rows(frame)


def _rows(frame: TokenFrame) -> Iterator[Row]:
    start = 0
    columns = zip(
        frame.streams,
        frame.attempts,
        frame.first,
        frame.counts,
        frame.finish,
        frame.cached_tokens,
        strict=True,
    )
    stop_ids, errors, infos, logprobs = frame.stop_ids, frame.errors, frame.infos, frame.logprobs
    prompts = frame.prompt_logprobs
    for i, (stream, attempt, first, count, finish, cached) in enumerate(columns):
        ids = frame.ids[start : start + count]
        start += count
        yield Row(
            stream, attempt, first, ids, finish, cached,
            stop_ids.get(i), errors.get(i), infos.get(i), logprobs.get(i), prompts.get(i),
        )  # fmt: skip


def _covers(logprobs: RowLogprobs, count: int) -> bool:
    top = count * logprobs.num_top
    return len(logprobs.values) == count and len(logprobs.top_ids) == len(logprobs.top_values) == top


def slice_logprobs(logprobs: RowLogprobs, start: int, stop: int) -> RowLogprobs:
    """Those of ids ``start`` .. ``stop - 1`` of the row."""
    if start == 0 and stop == len(logprobs.values):
        return logprobs
    n = logprobs.num_top
    return RowLogprobs(
        logprobs.values[start:stop],
        n,
        logprobs.top_ids[start * n : stop * n],
        logprobs.top_values[start * n : stop * n],
    )


def new_text_frame(worker_id: str, detokenizer_id: str) -> TextFrame:
    return TextFrame(worker_id, detokenizer_id, [], [], [], [], [], [], [], [], [])


def add_row(
    frame: TextFrame,
    row: Row,
    first: int,
    ids: list[int],
    text: str,
    text_offset: int,
    finish: int,
    stop_reason: int | str | None,
) -> None:
    """Adds ids ``first`` .. of a stream, which the worker's ``row`` held, and their text."""
    index = len(frame.streams)
    frame.streams.append(row.stream)
    frame.attempts.append(row.attempt)
    frame.first.append(first)
    frame.counts.append(len(ids))
    frame.ids += ids
    frame.texts.append(text)
    frame.text_offset.append(text_offset)
    frame.finish.append(finish)
    frame.cached_tokens.append(row.cached_tokens)
    if stop_reason is not None:
        frame.stop_reasons[index] = stop_reason
    if row.error is not None and finish != RUNNING:
        frame.errors[index] = row.error
    if row.logprobs is not None and ids:
        start = first - row.first
        frame.logprobs[index] = slice_logprobs(row.logprobs, start, start + len(ids))
    if row.prompt_logprobs is not None:
        frame.prompt_logprobs[index] = row.prompt_logprobs


_ROW_LISTS = ("streams", "attempts", "first", "counts", "texts", "text_offset", "finish", "cached_tokens")
_ROW_MAPS = tuple(f.name for f in fields(TextFrame) if str(f.type).startswith("dict"))


def split_frame(frame: TextFrame) -> tuple[TextFrame, TextFrame]:
    """The first and the second half of a frame's rows, in order."""
    middle = len(frame.streams) // 2
    return _part(frame, 0, middle), _part(frame, middle, len(frame.streams))


def _part(frame: TextFrame, start: int, stop: int) -> TextFrame:
    part = new_text_frame(frame.worker_id, frame.detokenizer_id)
    for name in _ROW_LISTS:
        setattr(part, name, getattr(frame, name)[start:stop])
    for name in _ROW_MAPS:
        whole: dict[int, Any] = getattr(frame, name)
        setattr(part, name, {i - start: value for i, value in whole.items() if start <= i < stop})
    skipped = sum(frame.counts[:start])
    part.ids = frame.ids[skipped : skipped + sum(part.counts)]
    return part
