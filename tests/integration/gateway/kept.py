"""Streams that are kept: what is asked of one gateway, broken off, and taken up at another."""

from __future__ import annotations

from typing import Any

import httpx

from tests.fakes.gateway import RunningGateway

from .sse import Event, events

LONG = " ".join(f"w{i}" for i in range(40))
KEY = {"Authorization": "Bearer k1"}
OTHER_KEY = {"Authorization": "Bearer k2"}


async def read(answer: httpx.Response, count: int | None = None) -> list[Event]:
    found: list[Event] = []
    async for event in events(answer):
        found.append(event)
        if len(found) == count:
            break
    return found


async def broken_and_resumed(
    gateways: list[RunningGateway], path: str, body: dict[str, Any], *, after: int, then: int = 0
) -> tuple[list[Event], list[Event]]:
    """The events that arrived, and those after them at another gateway. ``then`` more were sent and are lost."""
    first, second = gateways
    async with first.http(**KEY) as http, http.stream("POST", path, json=body | {"stream": True}) as answer:
        address = answer.headers["x-stream-path"]
        before = (await read(answer, after + then))[:after]
    headers = {"Last-Event-ID": before[-1].id}
    async with second.http(**KEY) as http, http.stream("GET", address, headers=headers) as answer:
        assert answer.status_code == 200
        return before, await read(answer)


def texts(found: list[Event]) -> str:
    choices = [c for event in found if event.data != "[DONE]" for c in event.data["choices"]]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)
