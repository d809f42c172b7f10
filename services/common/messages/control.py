"""Messages that steer a request after it was submitted, and those that find out what was lost."""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import Ids, message


@message
class Holdings:
    """Every heartbeat, each router and worker tells each gateway which of its requests it holds.

    A detokenizer tells only of streams that have been silent for a heartbeat: those whose request was cancelled before
    their first row came, which nobody will ever end.

    This is what makes loss harmless. A gateway submits again what nobody has reported for a lease; asks for a
    replay of a stream whose ``next_index`` is beyond what arrived; cancels what it no longer wants.
    """

    service: str  # "router", "worker" or "detokenizer"
    holder_id: str
    request_ids: list[str] = field(default_factory=list)
    attempts: Ids = field(default_factory=list)  # of each request
    streams: list[str] = field(default_factory=list)  # running; a worker's finished ones too, for a while
    stream_attempts: Ids = field(default_factory=list)
    next_index: Ids = field(default_factory=list)  # ids made so far: 0 .. next_index-1
    finished: Ids = field(default_factory=list)  # 1: the stream has ended


@message
class Cancel:
    """Stop these requests (all choices) or streams, in every attempt up to the one named. Frees their blocks."""

    request_ids: list[str] = field(default_factory=list)
    attempts: Ids = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    stream_attempts: Ids = field(default_factory=list)
    reason: str = ""


@message
class Replay:
    """Send a stream's ids again, from the first, with its StreamInfo, to ``detokenizer_id`` from now on.

    Asked by a gateway that misses text, or by a detokenizer that sees a gap or a stream it does not know.
    """

    streams: list[str]
    attempts: Ids
    detokenizer_id: str


@message
class Bounced:
    """A holder gives requests back to their gateway, which submits them again at once (drain, rank died...).

    With a ``code`` (see errors.py) they are refused for good, after they had been accepted: no other attempt
    would fare better, so the gateway ends them with that error.
    """

    holder_id: str
    request_ids: list[str]
    attempts: Ids
    reason: str
    code: str = ""
    suspects: Ids = field(default_factory=list)  # of each request, 1: the engine died while it ran it
