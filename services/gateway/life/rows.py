"""TextFrames, taken apart into rows."""

from __future__ import annotations

from collections.abc import Iterator

from services.common.errors import DecodeError
from services.common.messages.frames import TextFrame
from services.gateway.life.stream import Row


def rows_of(frame: TextFrame) -> Iterator[tuple[str, Row]]:
    """(stream, row) for each row. Raises DecodeError, before the first, where the columns do not fit each other."""
    _check_columns(frame)
    start = 0
    for i, name in enumerate(frame.streams):
        end = start + frame.counts[i]
        yield (
            name,
            Row(
                frame.attempts[i],
                frame.first[i],
                frame.ids[start:end],
                frame.texts[i],
                frame.text_offset[i],
                frame.finish[i],
                frame.cached_tokens[i],
                frame.stop_reasons.get(i),
                frame.errors.get(i, ""),
                frame.logprobs.get(i),
                frame.prompt_logprobs.get(i),
            ),
        )
        start = end


def _check_columns(frame: TextFrame) -> None:
    rows = len(frame.streams)
    columns = (
        frame.attempts,
        frame.first,
        frame.counts,
        frame.texts,
        frame.text_offset,
        frame.finish,
        frame.cached_tokens,
    )
    if any(len(column) != rows for column in columns):
        raise DecodeError("TextFrame: columns of different lengths")
    if sum(frame.counts) != len(frame.ids) or any(count < 0 for count in frame.counts):
        raise DecodeError("TextFrame: counts do not add up to the ids")
    if not all(part.is_whole for part in frame.prompt_logprobs.values()):
        raise DecodeError("TextFrame: log probabilities of a prompt do not fit each other")
