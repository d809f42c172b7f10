"""``shoal trace REQUEST_ID``: what every service remembers of a request, as one timeline."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.cli import fleet
from services.cli.arguments import Arguments
from services.cli.screen import Screen
from services.common.bus import Message
from services.common.messages import events
from services.common.messages.codec import decode, encode

# What a gateway notes of a stream that stands still in the middle (services/gateway/life/stalls.py). A gap between
# events means nothing: a stream that goes on steadily has none between its first token and its end.
STALLS = ("stalled", "goes on")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event. ``after_s`` counts from the first event; ``gap_s`` from the one before, by the hosts' clocks."""

    at_s: float
    after_s: float
    gap_s: float
    who: str
    event: str
    fields: dict[str, str]


def timeline(replies: Iterable[events.TraceReply]) -> list[Entry]:
    """All services' events in order of time; doubled replies count once."""
    found = {
        (event.at_s, reply.instance_id, event.event, tuple(sorted(event.fields.items())))
        for reply in replies
        for event in reply.events
    }
    entries: list[Entry] = []
    for at_s, who, name, fields in sorted(found):
        first, last = (entries[0].at_s, entries[-1].at_s) if entries else (at_s, at_s)
        entries.append(Entry(at_s, at_s - first, at_s - last, who, name, dict(fields)))
    return entries


async def collect(bus_env: Mapping[str, str], request_id: str, wait_s: float) -> list[events.TraceReply]:
    """Asks every service; those that know nothing of the request stay silent, so it waits a fixed while."""
    bus, subjects = await fleet.connect(bus_env, "trace")
    replies: list[events.TraceReply] = []
    inbox = f"{subjects.namespace}.trace-reply.{secrets.token_hex(8)}"

    async def on_reply(message: Message) -> None:
        replies.append(decode(events.TraceReply, message.data))

    try:
        await bus.subscribe(inbox, on_reply)
        await bus.publish(subjects.trace(), encode(events.TraceRequest(request_id)), reply=inbox)
        await asyncio.sleep(wait_s)
    finally:
        await bus.close()
    return replies


def bare_id(shown: str) -> str:
    """The request's id from that of a response, which begins with what OpenAI's ids begin with."""
    return shown.removeprefix("chatcmpl-").removeprefix("cmpl-")


def main(argv: list[str]) -> int:
    arguments = Arguments(
        prog="./shoal trace",
        description="One timeline of a request: its way through the line, worker, attempts, replays, stalls, end. "
        "The id is in the response's body and in each log line. Exit code 1 when nobody knows it.",
    )
    arguments.add_run_choice()
    arguments.add_argument("request_id")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--wait", type=float, default=0.5, metavar="S", help="seconds to wait for answers")
    flags = arguments.parse(argv)
    bus_env = fleet.bus_of(os.environ, flags.run)
    entries = timeline(asyncio.run(collect(bus_env, bare_id(flags.request_id), flags.wait)))
    if flags.json:
        print(json.dumps([{name: getattr(e, name) for name in Entry.__slots__} for e in entries], indent=1))
    else:
        _show(entries, flags.request_id, Screen())
    return 0 if entries else 1


def _show(entries: list[Entry], request_id: str, screen: Screen) -> None:
    if not entries:
        screen.bad(f"no service remembers {request_id}; services keep their last few thousand requests")
        return
    at = entries[0].at_s
    screen.line(
        f"{request_id}: {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(at))} UTC, {len(entries)} events"
    )
    width = max(len(entry.who) for entry in entries)
    for entry in entries:
        fields = " ".join(f"{name}={value}" for name, value in entry.fields.items())
        line = f"{entry.after_s * 1000:10.1f} ms  {entry.who.ljust(width)}  {entry.event}  {fields}".rstrip()
        if entry.event in STALLS:
            line = screen.paint(f"{line}   <-", "yellow")
        screen.line(line)
