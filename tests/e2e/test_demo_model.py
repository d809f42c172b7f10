"""The model in the box through the whole system: real tool calls, JSON, memory, thinking and stop strings."""

from __future__ import annotations

import json

import pytest
from openai import OpenAI

from demo.answers import Reply, is_right
from demo.data.core import Case
from demo.data.mix import evaluation_cases
from demo.through_server import reply_of, request_body
from services.common.model_files import DEMO_MODEL

pytestmark = pytest.mark.skipif(
    not (DEMO_MODEL / "model.safetensors").is_file(), reason="no demo model in this checkout"
)

SKILLS = (
    "tool call",
    "several tool calls",
    "tool result",
    "JSON extraction",
    "JSON lists",
    "memory",
    "facts",
    "reasoning",
)


def held_out(skill: str) -> list[Case]:
    """Cases that training never saw; at 100% through transformers (demo/README.md), so each must be right here."""
    return [case for case in evaluation_cases(0, 1) if case.skill == skill][:2]


def ask(client: OpenAI, case: Case) -> Reply:
    body = request_body("m", case, seed=0)
    extra = {"chat_template_kwargs": body.pop("chat_template_kwargs")}
    return reply_of(client.chat.completions.create(**body, extra_body=extra).choices[0].message.model_dump())


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_cases_are_answered_right(client: OpenAI, skill: str):
    cases = held_out(skill)
    assert cases
    for case in cases:
        reply = ask(client, case)
        assert is_right(case, reply), (case.messages[-1], case.answer, reply)


def test_streamed_tool_calls_lose_no_argument(client: OpenAI):
    for case in held_out("several tool calls") + held_out("tool call"):
        body = request_body("m", case, seed=0)
        extra = {"chat_template_kwargs": body.pop("chat_template_kwargs")}
        calls: dict[int, list[str]] = {}
        finish = None
        for chunk in client.chat.completions.create(**body, stream=True, extra_body=extra):
            choice = chunk.choices[0]
            for call in choice.delta.tool_calls or []:
                name, arguments = calls.setdefault(call.index, ["", ""])
                calls[call.index] = [
                    name + (call.function.name or ""),
                    arguments + (call.function.arguments or ""),
                ]
            finish = choice.finish_reason or finish
        found = Reply("", None, tuple((name, json.loads(text)) for name, text in calls.values()))
        assert is_right(case, found), (case.answer, found)
        assert finish == "tool_calls"


def test_thinking_is_told_apart_from_the_answer(client: OpenAI):
    [case] = [case for case in held_out("facts") + held_out("reasoning") if case.thought is not None][:1]
    reply = ask(client, case)
    assert reply.thought
    assert "<think>" not in reply.content


def test_a_stop_string_of_the_models_own_words_ends_the_answer(client: OpenAI):
    [case] = held_out("facts")[:1]
    whole = ask(client, case).content
    word = whole.split()[-1]
    body = request_body("m", case, seed=0) | {"stop": [word]}
    extra = {"chat_template_kwargs": body.pop("chat_template_kwargs")}
    choice = client.chat.completions.create(**body, extra_body=extra).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == whole[: whole.index(word)]
