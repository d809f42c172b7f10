"""Streams that outlive their gateway: how one is taken up from its log after its Last-Event-ID.

The log (services/common/messages/retention.py) needs not be complete. What it has is given out from it; what it
has not is generated again, exactly as it was, and what the client has already is left out by position.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import InvalidValue
from services.common.messages.codec import Ids, message
from services.common.messages.frames import RUNNING
from services.common.messages.retention import StreamLog
from services.gateway.http.generation import Renderer
from services.gateway.life.spec import Restored, RestoredChoice
from services.gateway.life.stream import Delta, cut_logprobs

MAX_RECORD_BYTES = 1024 * 1024  # a longer request is not logged
_POSITION = re.compile(r"(\d{1,6}):(\d{1,9})\.(\d{1,10})(e?)")


@message
class StreamRecord:
    """What any gateway needs to go on with a call: the first entry of its log."""

    path: str
    body: bytes
    tenant: str
    created: float
    seed: int
    prompts: list[Ids] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Position:
    """What the client has of one choice."""

    num_ids: int = 0
    num_chars: int = 0
    has_end: bool = False


def parse_positions(text: str, count: int) -> list[Position]:
    """The positions in an event's id (openai/render.py), one for each choice. Raises InvalidValue."""
    positions = [Position()] * count
    for part in filter(None, text.split(",")):
        match = _POSITION.fullmatch(part)
        if match is None or int(match[1]) >= count:
            raise InvalidValue(
                f"Last-Event-ID is no id of an event of this stream: {part[:64]!r}", param="Last-Event-ID"
            )
        positions[int(match[1])] = Position(int(match[2]), int(match[3]), bool(match[4]))
    return positions


@dataclass(slots=True)
class Resume:
    """A call that is taken up. ``num_choices`` is per prompt."""

    log: StreamLog
    positions: list[Position]
    prompts: list[list[int]]

    def restored(self, num_choices: int, *, wants_logprobs: bool) -> list[Restored]:
        """What each prompt's request begins with. Log probabilities are not logged: they are computed anew
        for what the client has not seen."""
        requests = [Restored(self.log.attempt, {}) for _ in self.prompts]
        for choice in self.log.choices:
            if not 0 <= choice.index < len(self.positions):
                continue
            seen = self.positions[choice.index]
            known = RestoredChoice(
                choice.ids, choice.text, choice.finish, choice.stop_reason, choice.cached_tokens
            )
            if wants_logprobs and not seen.has_end:
                known.ids, known.text = choice.ids[: seen.num_ids], choice.text[: seen.num_chars]
                known.finish, known.stop_reason = RUNNING, None
            requests[choice.index // num_choices].choices[choice.index % num_choices] = known
        return requests

    def misses_beginning(self, prompt: int, num_choices: int) -> bool:
        """Whether the client has nothing yet of a choice of the prompt: its first event is still to be worded."""
        first = prompt * num_choices
        return any(position == Position() for position in self.positions[first : first + num_choices])


class ResumedRenderer:
    """Words a stream from its beginning, for the dialect's own state, and gives out what the client has not."""

    def __init__(self, renderer: Renderer, positions: Sequence[Position]) -> None:
        self._renderer, self._positions = renderer, positions
        self._is_begun = any(position != Position() for position in positions)

    async def prepare(self, deltas: list[Delta]) -> None:
        await self._renderer.prepare(deltas)

    def opening(self) -> bytes:
        data = self._renderer.opening()
        return b"" if self._is_begun else data

    def events(self, deltas: list[Delta]) -> bytes:
        parts: list[bytes] = []
        for delta in deltas:
            head, tail = split(delta, self._positions[delta.choice])
            if head is not None:
                self._renderer.events([head])
            if tail is not None:
                parts.append(self._renderer.events([tail]))
        return b"".join(parts)

    def closing(self) -> bytes:
        return self._renderer.closing()

    def body(self, deltas: list[Delta]) -> dict[str, Any]:
        return self._renderer.body(deltas)


def split(delta: Delta, seen: Position) -> tuple[Delta | None, Delta | None]:
    """The part of a delta that the client has, and the part that it has not."""
    text = delta.text
    new_ids = max(delta.num_ids - seen.num_ids, 0)
    new_chars = max(delta.num_chars - seen.num_chars, 0)
    is_over = not new_ids and not new_chars and (seen.has_end or delta.finish == RUNNING)
    if is_over:
        return delta, None
    if new_ids >= len(delta.ids) and new_chars >= len(text):
        return None, delta
    at, cut = max(len(delta.ids) - new_ids, 0), max(len(text) - new_chars, 0)
    head = Delta(delta.choice, delta.ids[:at], [text[:cut]], cached_tokens=delta.cached_tokens)
    head.num_ids, head.num_chars = delta.num_ids - new_ids, delta.num_chars - new_chars
    tail = Delta(
        delta.choice,
        delta.ids[at:],
        [text[cut:]],
        cut_logprobs(delta.logprobs, at) if delta.logprobs is not None else None,
        delta.finish,
        delta.stop_reason,
        delta.num_ids,
        delta.num_chars,
        delta.cached_tokens,
    )
    return head, tail
