"""Tool calls and reasoning through the OpenAI SDK, streamed one character at a time and whole."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.gateway import MODEL, RunningGateway

MESSAGES: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ARGUMENTS = {"city": "Paris </tool_call>", "days": [1, 2]}
CALL = "<tool_call>\n" + json.dumps({"name": "weather", "arguments": ARGUMENTS}) + "\n</tool_call>"
TEXT = f"<think>\nI should look.\n</think>\n\nLet me see.\n{CALL}<|im_end|>"


@pytest.fixture
async def client(gateway: RunningGateway, backend: FakeBackend):
    backend.script = lambda request, choice: Script([(20 + i % 50, char) for i, char in enumerate(TEXT)])
    async with gateway.openai() as made:
        yield made


async def test_a_call_is_parsed_whole(client: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.reasoning_content == "I should look."  # type: ignore[attr-defined]
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == ARGUMENTS
    assert not backend.client_requests()[-1].stream.skip_special_tokens


async def test_a_call_is_parsed_while_it_streams(client: openai.AsyncOpenAI, backend: FakeBackend) -> None:
    backend.token_s = 0.001
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS, stream=True)
    content = reasoning = arguments = ""
    names, ids, finish = [], [], None
    num_argument_chunks = 0
    async for chunk in stream:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        reasoning += getattr(delta, "reasoning_content", None) or ""
        for call in delta.tool_calls or []:
            names += [call.function.name] if call.function.name else []
            ids += [call.id] if call.id else []
            arguments += call.function.arguments or ""
            num_argument_chunks += 1
        finish = chunk.choices[0].finish_reason or finish
    assert (content, reasoning, names, finish) == ("Let me see.", "I should look.", ["weather"], "tool_calls")
    assert json.loads(arguments) == ARGUMENTS
    assert len(ids) == 1
    assert num_argument_chunks > 5


async def test_without_tools_the_call_is_text(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == f"Let me see.\n{CALL}"
    assert answer.choices[0].finish_reason == "stop"


async def test_a_conversation_with_calls_and_results_is_rendered(gateway: RunningGateway) -> None:
    messages = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    async with gateway.http() as http:
        ids = (await http.post("/tokenize", json={"messages": messages, "tools": TOOLS})).json()["tokens"]
        text = (await http.post("/detokenize", json={"tokens": ids})).json()["prompt"]
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>' in text
    assert "<|im_start|>tool\nrain<|im_end|>" in text


async def test_keep_alives_disturb_no_client(
    client: openai.AsyncOpenAI, gateway: RunningGateway, backend: FakeBackend
) -> None:
    backend.script = lambda request, choice: Script([(5, "a"), (6, "b")])
    backend.token_s = 0.2
    gateway.app.gateway.keep_alive_s = 0.05
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "ab"
