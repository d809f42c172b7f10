"""Reading server-sent events as they are on the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    data: Any  # parsed, or "[DONE]"


async def events(answer: httpx.Response) -> AsyncIterator[Event]:
    """The events of a response, comments left out."""
    name = ""
    async for line in answer.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            name = value
        elif field == "data":
            yield Event(name, value if value == "[DONE]" else json.loads(value))


def completion_text(found: list[Event], choice: int = 0) -> str:
    assert found[-1].data == "[DONE]"
    chunks = [event.data for event in found[:-1]]
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == choice)
