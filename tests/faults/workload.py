"""The 64 requests that every fault is tried on, and what each of them brought back.

Mixed on purpose: greedy and seeded sampling, streamed and not, short and long, n = 2, stop strings, penalties,
logprobs. What a request returns is compared byte for byte with the same request on an undisturbed system.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
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
    """What the client saw. ``texts`` by choice; ``finish`` by choice; ``error`` is empty when all went well."""

    texts: dict[int, str] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    ids: dict[int, list[int]] = field(default_factory=dict)
    completion_tokens: int = -1
    error: str = ""
    worst_stall_s: float = 0.0


def jobs(model: str, count: int = 64, seed: int = 7, max_tokens: int = 96) -> list[Job]:
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


async def run_all(base_urls: list[str], todo: list[Job], *, timeout_s: float = 120.0) -> list[Outcome]:
    """Runs all jobs at once, spread over the gateways. A job never retries: one connection, one answer."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=timeout_s, limits=limits) as client:
        return await asyncio.gather(
            *(_run(client, base_urls[job.index % len(base_urls)], job) for job in todo)
        )


async def _run(client: httpx.AsyncClient, base_url: str, job: Job) -> Outcome:
    outcome = Outcome()
    try:
        if job.streams:
            async with client.stream("POST", base_url + job.path, json=job.body) as response:
                if response.status_code != 200:
                    outcome.error = f"HTTP {response.status_code}: {(await response.aread())[:300]!r}"
                    return outcome
                await _read_events(response, outcome)
        else:
            response = await client.post(base_url + job.path, json=job.body)
            if response.status_code != 200:
                outcome.error = f"HTTP {response.status_code}: {response.text[:300]}"
                return outcome
            _take(response.json(), outcome)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def _read_events(response: httpx.Response, outcome: Outcome) -> None:
    loop = asyncio.get_running_loop()
    last, done = loop.time(), False
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        now = loop.time()
        outcome.worst_stall_s, last = max(outcome.worst_stall_s, now - last), now
        data = line[5:].strip()
        if data == "[DONE]":
            done = True
            continue
        _take(json.loads(data), outcome)
    if not done and not outcome.error:
        outcome.error = "the stream ended without [DONE]"


def _take(payload: dict[str, Any], outcome: Outcome) -> None:
    """Adds one response or one chunk."""
    if "error" in payload:
        outcome.error = json.dumps(payload["error"])
        return
    for choice in payload["choices"]:
        i = choice["index"]
        part = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or part.get("content") or ""
        outcome.texts[i] = outcome.texts.get(i, "") + text
        outcome.ids.setdefault(i, []).extend(choice.get("token_ids") or [])
        if choice.get("finish_reason"):
            outcome.finish[i] = choice["finish_reason"]
    if payload.get("usage"):
        outcome.completion_tokens = payload["usage"]["completion_tokens"]


def differences(found: list[Outcome], expected: list[Outcome]) -> list[str]:
    """One line for each job that did not come back as in the undisturbed run."""
    lines = []
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.error:
            lines.append(f"job {i}: {a.error}")
            continue
        for what in ("texts", "finish", "ids", "completion_tokens"):
            if getattr(a, what) != getattr(b, what):
                lines.append(
                    f"job {i}: {what} differ: {getattr(a, what)!r:.200} instead of {getattr(b, what)!r:.200}"
                )
                break
    return lines
