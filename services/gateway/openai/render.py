"""What both OpenAI endpoints share in wording an answer: ids, usage, positions, finish reasons, event bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from services.common.messages.frames import ERROR, LENGTH, RUNNING, STOP
from services.gateway.life.stream import Delta

FINISH_REASONS = {RUNNING: None, STOP: "stop", LENGTH: "length", ERROR: "error"}


@dataclass(slots=True)
class Usage:
    """Tokens of one call. ``prompt_tokens`` counts each prompt once."""

    prompt_tokens: int
    num_choices: int  # per prompt
    completion_tokens: int = 0
    _cached: dict[int, int] = field(default_factory=dict)  # prompt -> tokens found in the prefix cache

    def add(self, delta: Delta) -> None:
        self.completion_tokens += len(delta.ids)
        self._cached.setdefault(delta.choice // self.num_choices, delta.cached_tokens)

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }


class Positions:
    """Where the stream stands, as the id of each event: tokens and characters sent, for each choice.

    ``0:12.45,1:10.40e``: choice 0 has had 12 tokens and 45 characters, choice 1 its end too. A client that shows
    it again, as Last-Event-ID, wants what comes after.
    """

    def __init__(self, count: int) -> None:
        self._parts = [f"{i}:0.0" for i in range(count)]

    def move(self, delta: Delta) -> None:
        end = "" if delta.finish == RUNNING else "e"
        self._parts[delta.choice] = f"{delta.choice}:{delta.num_ids}.{delta.num_chars}{end}"

    def line(self) -> bytes:
        return f"id: {','.join(self._parts)}\n".encode()


def event(positions: Positions, content: dict[str, Any]) -> bytes:
    return positions.line() + b"data: " + orjson.dumps(content) + b"\n\n"


def stop_reason(delta: Delta, stop_token_ids: list[int]) -> int | str | None:
    """vLLM's field: the stop string, or the id from stop_token_ids, that ended the choice; null for the model's eos."""
    reason = delta.stop_reason
    return None if isinstance(reason, int) and reason not in stop_token_ids else reason


@dataclass(slots=True)
class Call:
    """What a renderer knows of the request that it answers."""

    id: str
    created: int
    model: str
    prompt_ids: list[list[int]]
    num_choices: int  # shown, per prompt
    stop_token_ids: list[int]
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    wants_logprobs: bool = False

    @property
    def total_choices(self) -> int:
        return self.num_choices * len(self.prompt_ids)

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompt_ids))

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
