"""What counts as the right answer: completions parsed into reasoning, content and tool calls, then compared."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from demo.data.core import Case

_THOUGHT = re.compile(r"^<think>\n(.*?)\n?</think>\s*", re.DOTALL)
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion taken apart. `calls` are (name, arguments) pairs; a call that is no JSON stays in the content."""

    content: str
    thought: str | None = None
    calls: tuple[tuple[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "content": self.content,
            "thought": self.thought,
            "calls": [list(call) for call in self.calls],
        }


def parse(text: str) -> Reply:
    """Takes the raw text of a completion apart."""
    thought = _THOUGHT.match(text)
    if thought:
        text = text[thought.end() :]
    calls: list[tuple[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        try:
            call = json.loads(match[1])
            calls.append((call["name"], call["arguments"]))
        except (ValueError, KeyError, TypeError):
            return match[0]
        return ""

    content = _CALL.sub(take, text).strip()
    return Reply(content, thought[1].strip() if thought else None, tuple(calls))


def is_right(case: Case, reply: Reply) -> bool:
    """Exact match of content and calls. With thinking on there must be a thought, whose words are free."""
    if (reply.thought is not None) != (case.thought is not None):
        return False
    wanted = [parse(text) for text in (case.answer, *case.accepted)]
    return any(reply.content == w.content and reply.calls == w.calls for w in wanted)


def loops(words: list[str], size: int = 8) -> bool:
    """Whether a run of `size` words comes back."""
    seen = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(set(seen)) < len(seen)
