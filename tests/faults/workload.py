"""The 64 requests that every fault is tried on, and what each of them brought back.

Mixed on purpose: greedy and seeded sampling, streamed and not, short and long, n = 2, stop strings, penalties.
What a request returns is compared byte for byte with the same request on an undisturbed system.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

SUBJECTS = (
    "a fox",
    "the sea",
    "an old clock",
    "a kind robot",
    "the moon",
    "a small village",
    "two sisters",
    "rain",
)
RECONNECT_S = 30.0  # for so long a client whose gateway died asks the others for its stream


@dataclass(frozen=True, slots=True)
class Job:
    index: int
    path: str
    body: dict[str, Any]

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


@dataclass(slots=True)
class Outcome:
    """What the client saw, by choice. ``error`` is empty when all went well."""

    texts: dict[int, str] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    stop_reasons: dict[int, int | str | None] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    completion_tokens: int = -1
    error: str = ""
    token_times: list[float] = field(default_factory=list)  # of events with ids; seconds since it was sent
    reconnects: int = 0
    repeats: int = 0  # of a request that its gateway left unanswered
    refused_connections: int = 0  # by gateways that were passed over
    stream_path: str = ""
    last_event_id: str = ""

    @property
    def is_in_midstream(self) -> bool:
        """Has tokens, and not yet all."""
        return bool(self.token_times) and self.completion_tokens < 0

    @property
    def first_token_s(self) -> float:
        """0 where there was none, or nothing was streamed."""
        return self.token_times[0] if self.token_times else 0.0

    @property
    def worst_stall_s(self) -> float:
        return self.stall_after(0.0)

    def stall_after(self, seconds: float) -> float:
        """The longest wait between two events with tokens, of those waits that went on after so many seconds."""
        waits = [(end, end - begin) for begin, end in pairwise(self.token_times)]
        return max((wait for end, wait in waits if end > seconds), default=0.0)


def jobs(model: str, count: int = 64, seed: int = 7, max_tokens: int = 64) -> list[Job]:
    """The same list for the same arguments, in every process."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": rng.choice((8, 24, max_tokens, max_tokens)),
            "temperature": 0.0 if i % 2 else 0.8,
            "seed": 1000 + i,
            "stream": i % 4 != 3,
            "return_token_ids": True,
        }
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        if i % 5 == 0:
            body["n"] = 2
        if i % 6 == 1:
            body["stop"] = [" the ", "zebra"]
        if i % 7 == 2:
            body |= {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
        if i % 3 == 0:
            body |= {"ignore_eos": True, "min_tokens": 4}
        if i % 8 == 4:
            body |= {"top_p": 0.9, "top_k": 40}
        subject = rng.choice(SUBJECTS)
        if i % 2:
            body["messages"] = [{"role": "user", "content": f"Tell me a story about {subject}. Number {i}."}]
            made.append(Job(i, "/v1/chat/completions", body))
        else:
            body["prompt"] = f"Once upon a time there was {subject}, and number {i} of its friends said"
            made.append(Job(i, "/v1/completions", body))
    return made


async def run_all(
    base_urls: list[str],
    todo: list[Job],
    *,
    timeout_s: float = 120.0,
    outcomes: Sequence[Outcome] | None = None,
) -> list[Outcome]:
    """Runs all jobs at once, spread over the gateways; what is not streamed is asked of odd ones only.

    A job never retries: one request, one answer. A stream whose connection breaks is taken up, at another gateway,
    after the last event that arrived. A gateway that takes no connection is passed over, as a load balancer does.
    ``outcomes``, one for each job, can be watched while they fill.
    """
    outcomes = outcomes or [Outcome() for _ in todo]
    async with new_client(timeout_s) as client:
        pairs = zip(todo, outcomes, strict=True)
        return await asyncio.gather(*(run_job(client, base_urls, job, outcome=o) for job, o in pairs))


def new_client(timeout_s: float = 120.0) -> httpx.AsyncClient:
    """Without kept connections: a killed gateway breaks those of its requests and no others."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(
        timeout=timeout_s, limits=limits, verify=False
    )  # reading certificates takes 50 ms


async def run_job(
    client: httpx.AsyncClient,
    base_urls: list[str],
    job: Job,
    *,
    may_repeat: bool = False,
    outcome: Outcome | None = None,
) -> Outcome:
    """``may_repeat``: the client sends again what a gateway dropped before it answered with so much as a header."""
    outcome, mine = outcome or Outcome(), job.index % len(base_urls)
    rest = base_urls[mine + 1 :] + base_urls[:mine]
    began = asyncio.get_running_loop().time()
    for url in [base_urls[mine], *rest, *rest]:
        try:
            if job.streams:
                await _stream(client, url, rest, job, outcome, began)
            else:
                response = await client.post(url + job.path, json=job.body)
                _take(_checked(response, response.content), outcome)
        except httpx.ConnectError as error:
            outcome.error = f"ConnectError: {error}"
            outcome.refused_connections += 1
            continue
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome.error = f"{type(error).__name__}: {error}"
            if may_repeat and isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                outcome.repeats += not outcome.stream_path
                continue
            return outcome
        outcome.error = ""
        return outcome
    return outcome


async def _stream(
    client: httpx.AsyncClient, url: str, others: list[str], job: Job, outcome: Outcome, began: float
) -> None:
    reader = StreamReader(outcome, began)
    loop = asyncio.get_running_loop()
    try:
        await reader.read(client, "POST", url + job.path, json=job.body)
    except httpx.HTTPError as broken:
        if not outcome.stream_path:
            raise
        deadline = loop.time() + RECONNECT_S
        while not reader.is_done:
            if loop.time() > deadline:
                raise broken from None
            await _reconnect(client, others or [url], reader)


async def _reconnect(client: httpx.AsyncClient, base_urls: list[str], reader: StreamReader) -> None:
    outcome = reader.outcome
    outcome.reconnects += 1
    url = base_urls[outcome.reconnects % len(base_urls)] + outcome.stream_path
    headers = {"Last-Event-ID": outcome.last_event_id} if outcome.last_event_id else {}
    try:
        await reader.read(client, "GET", url, headers=headers)
    except httpx.HTTPError:
        await asyncio.sleep(0.2)


def _checked(response: httpx.Response, content: bytes) -> dict[str, Any]:
    if response.status_code != 200:
        raise ValueError(f"HTTP {response.status_code}: {content[:300]!r}")
    return dict(json.loads(content))


@dataclass(slots=True)
class StreamReader:
    """Reads one stream of events over as many connections as that takes."""

    outcome: Outcome
    began: float
    is_done: bool = False

    async def read(self, client: httpx.AsyncClient, method: str, url: str, **request: Any) -> None:
        """Raises httpx.HTTPError when the connection breaks before the end, ValueError on a refusal."""
        loop = asyncio.get_running_loop()
        async with client.stream(method, url, **request) as response:
            if response.status_code != 200:
                _checked(response, await response.aread())
            self.outcome.stream_path = response.headers.get("x-stream-path", "")
            event_id = ""
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    event_id = value
                elif name == "data":
                    self._take_event(event_id, value, loop.time())
        if not self.is_done:
            raise httpx.RemoteProtocolError("the stream ended without [DONE]")

    def _take_event(self, event_id: str, data: str, now: float) -> None:
        outcome = self.outcome
        if data == "[DONE]":
            self.is_done = True
            return
        payload = json.loads(data)
        _take(payload, outcome)
        if any(choice.get("token_ids") for choice in payload["choices"]):
            outcome.token_times.append(now - self.began)
        outcome.last_event_id = event_id or outcome.last_event_id


def _take(payload: dict[str, Any], outcome: Outcome) -> None:
    """Adds one response or one chunk."""
    if "error" in payload:
        raise ValueError(json.dumps(payload["error"]))
    for choice in payload["choices"]:
        i = choice["index"]
        part = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or part.get("content") or ""
        outcome.texts[i] = outcome.texts.get(i, "") + text
        outcome.ids.setdefault(i, []).extend(choice.get("token_ids") or [])
        if choice.get("finish_reason"):
            outcome.finish[i] = choice["finish_reason"]
            outcome.stop_reasons[i] = choice["stop_reason"]
    if payload.get("usage"):
        outcome.completion_tokens = payload["usage"]["completion_tokens"]


def differences(found: list[Outcome], expected: list[Outcome]) -> list[str]:
    """One line for each job that did not come back as in the undisturbed run."""
    lines = []
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.error:
            lines.append(f"job {i}: {a.error}")
            continue
        for what in ("texts", "finish", "stop_reasons", "ids", "completion_tokens"):
            if getattr(a, what) != getattr(b, what):
                lines.append(
                    f"job {i}: {what} differ: {getattr(a, what)!r:.200} instead of {getattr(b, what)!r:.200}"
                )
                break
    return lines
