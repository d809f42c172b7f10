"""Hops 2 and 3: tokens from worker to detokenizer, text from detokenizer to gateway.

Both are columnar: row i of every column speaks of the same stream. A worker sends at most one TokenFrame a step
to each detokenizer, and a detokenizer one TextFrame per gateway for each TokenFrame.
"""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import Floats, Ids, message
from services.common.messages.request import StreamParams

# Finish codes: how a stream ended. The gateway speaks them as OpenAI's finish_reason.
RUNNING, STOP, LENGTH, ERROR = 0, 1, 2, 3


@message
class RowLogprobs:
    """Log probabilities of a row's ids: ``values[i]`` of its i-th id, and ``num_top`` likeliest for each."""

    values: Floats
    num_top: int = 0
    top_ids: Ids = field(default_factory=list)  # count * num_top, row-major
    top_values: Floats = field(default_factory=list)


@message
class PromptLogprobs:
    """Log probabilities of a prompt's ids ``first``, ``first + 1``, ...: all of them, or a part.

    A prompt's first id follows nothing and has none, so parts begin at 1. They are in order, and all of them come
    before the stream's first id. Numbers stay packed (little-endian, 4 bytes each), because nobody but the gateway
    looks into them.
    """

    first: int
    values: bytes  # float32
    ranks: bytes  # int32, 1 for the likeliest id
    num_top: int = 0
    top_ids: bytes = b""  # int32, count * num_top, row-major, likeliest first
    top_values: bytes = b""  # float32

    @property
    def count(self) -> int:
        return len(self.values) // 4

    @property
    def num_bytes(self) -> int:
        return len(self.values) + len(self.ranks) + len(self.top_ids) + len(self.top_values)

    @property
    def is_whole(self) -> bool:
        """Whether every column has as many numbers as it must."""
        row, top = 4 * self.count, 4 * self.count * self.num_top
        columns = (self.values, self.ranks, self.top_ids, self.top_values)
        return self.first > 0 and tuple(map(len, columns)) == (row, row, top, top)

    def part(self, start: int, end: int) -> PromptLogprobs:
        """Those of its ``start``-th to its ``end - 1``-th id."""
        row, top = slice(4 * start, 4 * end), slice(4 * start * self.num_top, 4 * end * self.num_top)
        return PromptLogprobs(
            self.first + start,
            self.values[row],
            self.ranks[row],
            self.num_top,
            self.top_ids[top],
            self.top_values[top],
        )


@message
class StreamInfo:
    """What a detokenizer must know before the first row of a stream's attempt; sent with it and with replays."""

    gateway_id: str
    params: StreamParams
    prior_ids: Ids = field(default_factory=list)  # ids 0 .. first-1, emitted by earlier attempts
    prompt_tail: Ids = field(default_factory=list)  # last prompt ids: some tokenizers decode by context
    min_tokens: int = 0  # stop strings do not end the stream before


@message
class TokenFrame:
    """New ids of many streams, from one worker to one detokenizer."""

    worker_id: str
    streams: list[str]  # stream_id(request_id, choice)
    attempts: Ids
    first: Ids  # index of the row's first id in the stream's output, counted from 0 over all attempts
    counts: Ids  # ids in the row; 0 for a row that only ends its stream
    ids: Ids  # all rows' ids, one after the other
    finish: Ids  # RUNNING, STOP, LENGTH or ERROR
    cached_tokens: Ids  # prompt tokens found in the prefix cache
    stop_ids: dict[int, int] = field(
        default_factory=dict
    )  # row -> the stop or eos id that ended it (last id)
    errors: dict[int, str] = field(default_factory=dict)  # row -> what went wrong, where finish is ERROR
    infos: dict[int, StreamInfo] = field(default_factory=dict)  # row -> set on first rows and replays
    logprobs: dict[int, RowLogprobs] = field(default_factory=dict)
    # Rows that have these have no ids, and a StreamInfo that says nothing of prior ids.
    prompt_logprobs: dict[int, PromptLogprobs] = field(default_factory=dict)


@message
class TextFrame:
    """New text of many streams, from one detokenizer to one gateway.

    ``texts[i]`` follows the first ``text_offset[i]`` characters of its stream: text is a function of the ids,
    so a receiver drops what it has by comparing offsets, whoever sends it.
    """

    worker_id: str
    detokenizer_id: str
    streams: list[str]
    attempts: Ids
    first: Ids
    counts: Ids
    ids: Ids
    texts: list[str]
    text_offset: Ids
    finish: Ids
    cached_tokens: Ids
    stop_reasons: dict[int, int | str] = field(default_factory=dict)  # row -> stop id or stop string
    errors: dict[int, str] = field(default_factory=dict)
    logprobs: dict[int, RowLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[int, PromptLogprobs] = field(default_factory=dict)
