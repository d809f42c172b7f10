"""The log of a stream, kept by kvstore beyond its gateway's death, where the deployment or the request asks for it.

A gateway appends what it has sent to its client; any gateway reads it when that client comes back with
Last-Event-ID. A log is a set of entries. It needs its beginning, and no more than that to be of use: a request
resumes exactly from any prefix of its ids, and what is generated again is the same.

Appends are requests: a kvstore answers when they are written, and what nobody confirms is sent again. To write an
entry twice changes nothing. The answer names the *generation* of what Redis holds. Redis has lost something since
an entry was confirmed if, and only if, its generation is another one now; then all of it is written again.
"""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import Floats, Ids, message

# Of one log, on its way and in Redis: it must fit one message when it is read.
MAX_LOG_BYTES = 4 * 1024 * 1024


@message
class StreamLogAppend:
    """Rows of one request, in the columns of a TextFrame: row i is of choice ``choices[i]``."""

    request_id: str
    attempt: int
    request: bytes = b""  # in the first: what a gateway needs to go on, its StreamRecord
    choices: Ids = field(default_factory=list)
    first: Ids = field(default_factory=list)  # index of the row's first id in its choice's output
    counts: Ids = field(default_factory=list)
    ids: Ids = field(default_factory=list)  # all rows' ids, one after the other
    texts: list[str] = field(default_factory=list)
    text_offset: Ids = field(default_factory=list)
    finish: Ids = field(default_factory=list)  # RUNNING, STOP or LENGTH (frames.py)
    stop_reasons: dict[int, int | str] = field(default_factory=dict)  # row -> stop id or stop string
    cached_tokens: dict[int, int] = field(default_factory=dict)  # a choice's first row -> found in the cache


@message
class StreamLogBatch:
    """Appends of many requests, as one gateway gathers them: entry i belongs to request ``request_ids[i]``."""

    request_ids: list[str] = field(default_factory=list)
    retention_s: Floats = field(default_factory=list)  # kept for so long after this entry
    # Each a StreamLogAppend, encoded: kvstore reads none. An empty one says that the stream still runs.
    appends: list[bytes] = field(default_factory=list)
    is_urgent: bool = False  # somebody waits for the answer


@message
class StreamLogWritten:
    """The answer to a batch. ``generation`` is empty while Redis is away: then a kvstore has it in memory only."""

    generation: str = ""


@message
class StreamLogRequest:
    """Asks for the log of one request."""

    request_id: str


@message
class StreamLogChoice:
    """What is known of one choice: an unbroken prefix of its ids and the text that belongs to it."""

    index: int
    ids: Ids
    text: str = ""
    finish: int = 0
    stop_reason: int | str | None = None
    cached_tokens: int = 0


@message
class StreamLog:
    """The answer. ``found`` is False for a log that never was, is too old, or grew over the bound.

    ``is_partial``: some of it may be elsewhere, because Redis is away or has just lost what it had.
    """

    request_id: str
    found: bool
    attempt: int = 0  # the highest in the log; whoever takes over uses a higher one
    request: bytes = b""
    choices: list[StreamLogChoice] = field(default_factory=list)
    is_partial: bool = False
