"""The log of a stream, kept by kvstore beyond its gateway's death, where the deployment or the request asks for it.

A gateway appends what it has sent to its client; any gateway reads it when that client comes back with
Last-Event-ID. A log needs not be complete: a request resumes exactly from any prefix of its ids, and what is
generated again is the same. So appends are not answered, and a lost one costs time only.
"""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import Floats, Ids, message


@message
class StreamLogAppend:
    """Rows of one request, in the columns of a TextFrame: row i is of choice ``choices[i]``."""

    request_id: str
    attempt: int
    request: bytes = (
        b""  # in the first append: what the gateway needs to go on, its GenerateRequest and dialect
    )
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
    appends: list[bytes] = field(default_factory=list)  # each a StreamLogAppend, encoded: kvstore reads none


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
    """The answer. ``found`` is False for a log that never was, is too old, or grew over the bound."""

    request_id: str
    found: bool
    attempt: int = 0  # the highest in the log; whoever takes over uses a higher one
    request: bytes = b""
    choices: list[StreamLogChoice] = field(default_factory=list)
