"""Answers of a running OpenAI-style server, by `/v1/chat/completions` at temperature 0."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from demo.answers import Reply, parse
from demo.data.core import Case
from demo.evaluate import MAX_ANSWER_TOKENS, STORY_SKILL, STORY_TOKENS


def replies(cases: list[Case], args: argparse.Namespace) -> list[Reply]:
    """One reply per case, in order; `args.clients` requests run at a time."""
    headers = {"Authorization": f"Bearer {args.api_key}"}
    with (
        httpx.Client(base_url=args.base_url.rstrip("/") + "/", headers=headers, timeout=300) as client,
        ThreadPoolExecutor(args.clients) as pool,
    ):
        model = args.model or client.get("models").raise_for_status().json()["data"][0]["id"]
        return list(pool.map(lambda case: _ask(client, model, case, args.seed), cases))


def _ask(client: httpx.Client, model: str, case: Case, seed: int) -> Reply:
    response = client.post("chat/completions", json=request_body(model, case, seed))
    if response.is_error:
        raise RuntimeError(
            f"the server answered {response.status_code} to a case of {case.skill!r}: {response.text[:500]}"
        )
    return reply_of(response.json()["choices"][0]["message"])


def request_body(model: str, case: Case, seed: int) -> dict[str, Any]:
    """The request that asks for the same completion as the evaluation through transformers."""
    story = case.skill == STORY_SKILL
    body: dict[str, Any] = {
        "model": model,
        "messages": list(case.messages),
        "temperature": 0.8 if story else 0,
        "max_tokens": STORY_TOKENS if story else MAX_ANSWER_TOKENS,
        "seed": seed,
        "chat_template_kwargs": {"enable_thinking": case.thought is not None},
    }
    if case.tools:
        body["tools"] = list(case.tools)
    return body


def reply_of(message: dict[str, Any]) -> Reply:
    """A chat message of the server as a `Reply`; markup that the server left in the text is parsed here."""
    raw = parse(message.get("content") or "")
    calls = tuple(
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    )
    thought = message.get("reasoning_content") or message.get("reasoning")
    return Reply(raw.content, thought.strip() if thought is not None else raw.thought, calls or raw.calls)
