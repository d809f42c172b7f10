"""What a client gets that sends something wrong: OpenAI's error form, the field, the limit; and nothing is started."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "Hi"}]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# path, fields over a good body, status, code, param, a word of the message
CASES: list[tuple[str, dict[str, Any], int, str, str | None, str]] = [
    (CHAT, {"messages": None}, 400, "invalid_value", "messages", "list"),
    (CHAT, {"messages": []}, 400, "invalid_value", "messages", "empty"),
    (CHAT, {"messages": [{"content": "x"}]}, 400, "invalid_value", "messages", "role"),
    (
        CHAT,
        {"messages": [{"role": "wizard", "content": "x"}]},
        400,
        "chat_template_error",
        "messages",
        "wizard",
    ),
    (CHAT, {"model": "other"}, 404, "model_not_found", "model", "other"),
    (CHAT, {"stream": "yes"}, 400, "invalid_value", "stream", "boolean"),
    (CHAT, {"n": 0}, 400, "invalid_value", "n", "at least 1"),
    (CHAT, {"n": 10**30}, 400, "invalid_value", "n", "n"),
    (CHAT, {"n": True}, 400, "invalid_value", "n", "integer"),
    (CHAT, {"temperature": -0.1}, 400, "invalid_value", "temperature", "at least 0"),
    (CHAT, {"temperature": 1e300}, 400, "invalid_value", "temperature", "at most 100"),
    (CHAT, {"temperature": "hot"}, 400, "invalid_value", "temperature", "number"),
    (CHAT, {"top_p": 1.5}, 400, "invalid_value", "top_p", "at most 1"),
    (CHAT, {"top_k": -2}, 400, "invalid_value", "top_k", "at least -1"),
    (CHAT, {"min_p": 2}, 400, "invalid_value", "min_p", "at most 1"),
    (CHAT, {"presence_penalty": 3}, 400, "invalid_value", "presence_penalty", "at most 2"),
    (CHAT, {"repetition_penalty": 0}, 400, "invalid_value", "repetition_penalty", "over 0"),
    (CHAT, {"max_tokens": 0}, 400, "invalid_value", "max_tokens", "at least 1"),
    (CHAT, {"max_completion_tokens": -5}, 400, "invalid_value", "max_completion_tokens", "at least 1"),
    (CHAT, {"max_tokens": 5000}, 400, "context_length_exceeded", "max_tokens", "2048"),
    (CHAT, {"min_tokens": 9, "max_tokens": 8}, 400, "invalid_value", "min_tokens", "max_tokens"),
    (CHAT, {"seed": 2**63}, 400, "invalid_value", "seed", "seed"),
    (CHAT, {"stop": ["x"] * 10_000}, 400, "invalid_value", "stop", "16"),
    (CHAT, {"stop": [""]}, 400, "invalid_value", "stop", "characters"),
    (CHAT, {"stop": 7}, 400, "invalid_value", "stop", "a string or a list of strings"),
    (CHAT, {"stop_token_ids": [10**6]}, 400, "invalid_value", "stop_token_ids", "vocabulary"),
    (CHAT, {"logit_bias": {"9999": 1}}, 400, "invalid_value", "logit_bias", "9999"),
    (CHAT, {"logit_bias": {"five": 1}}, 400, "invalid_value", "logit_bias", "five"),
    (CHAT, {"logit_bias": {"5": 101}}, 400, "invalid_value", "logit_bias", "at most 100"),
    (CHAT, {"allowed_token_ids": []}, 400, "invalid_value", "allowed_token_ids", "empty"),
    (CHAT, {"bad_words": [" "]}, 400, "invalid_value", "bad_words", "characters"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "top_logprobs", "at most 20"),
    (CHAT, {"top_logprobs": 2}, 400, "invalid_value", "top_logprobs", "logprobs"),
    (CHAT, {"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options", "stream"),
    (CHAT, {"timeout": 0}, 400, "invalid_value", "timeout", "over 0 and at most 604800"),
    (CHAT, {"timeout": -1.5}, 400, "invalid_value", "timeout", "over 0"),
    (CHAT, {"timeout": "5"}, 400, "invalid_value", "timeout", "number"),
    (CHAT, {"timeout": True}, 400, "invalid_value", "timeout", "number"),
    (COMPLETIONS, {"timeout": 1e300}, 400, "invalid_value", "timeout", "at most 604800"),
    (CHAT, {"stream": True, "stream_retention": -1}, 400, "invalid_value", "stream_retention", "at least 0"),
    (
        CHAT,
        {"stream": True, "stream_retention": 301},
        400,
        "invalid_value",
        "stream_retention",
        "at most 300",
    ),
    (CHAT, {"stream": True, "stream_retention": "1m"}, 400, "invalid_value", "stream_retention", "number"),
    (COMPLETIONS, {"stream_retention": 5}, 400, "invalid_value", "stream_retention", "stream=true"),
    (CHAT, {"priority": 2**40}, 400, "invalid_value", "priority", "priority"),
    (
        CHAT,
        {"response_format": {"type": "json_schema"}},
        400,
        "unsupported_parameter",
        "response_format",
        "response",
    ),
    (CHAT, {"tool_choice": "required"}, 400, "unsupported_parameter", "tool_choice", "tool_choice"),
    (CHAT, {"audio": {"voice": "x"}}, 400, "unsupported_parameter", "audio", "audio"),
    (CHAT, {"chat_template_kwargs": {"x": deep(100)}}, 400, "invalid_request", None, "64"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "unsupported_parameter",
        "messages",
        "image_url",
    ),
    (CHAT, {"continue_final_message": True}, 400, "invalid_value", "continue_final_message", "both"),
    (COMPLETIONS, {"prompt": ""}, 400, "invalid_value", "prompt", "empty"),
    (COMPLETIONS, {"prompt": []}, 400, "invalid_value", "prompt", "empty"),
    (COMPLETIONS, {"prompt": [[]]}, 400, "invalid_value", "prompt", "empty"),
    (COMPLETIONS, {"prompt": 5}, 400, "invalid_value", "prompt", "a string"),
    (COMPLETIONS, {"prompt": [1, "a"]}, 400, "invalid_value", "prompt", "a string"),
    (COMPLETIONS, {"prompt": [512]}, 400, "invalid_value", "prompt", "vocabulary"),
    (COMPLETIONS, {"prompt": [-1]}, 400, "invalid_value", "prompt", "vocabulary"),
    (COMPLETIONS, {"prompt": [10**40]}, 400, "invalid_value", "prompt", "prompt"),
    (COMPLETIONS, {"prompt": [7] * 2048}, 400, "context_length_exceeded", "prompt", "2048"),
    (COMPLETIONS, {"prompt": "\ud800"}, 400, "invalid_request", None, "JSON"),
    (COMPLETIONS, {"logprobs": 21}, 400, "invalid_value", "logprobs", "at most 20"),
    (COMPLETIONS, {"max_tokens": 0}, 400, "invalid_value", "max_tokens", "at least 1"),
    (COMPLETIONS, {"echo": True, "logprobs": 21}, 400, "invalid_value", "logprobs", "at most 20"),
    (COMPLETIONS, {"echo": True, "max_tokens": -1}, 400, "invalid_value", "max_tokens", "at least 0"),
    (
        COMPLETIONS,
        {"echo": True, "logprobs": 20, "n": 16, "prompt": [[7] * 2000] * 2},
        400,
        "invalid_value",
        "logprobs",
        "524288",
    ),
    (COMPLETIONS, {"prompt_logprobs": -1}, 400, "invalid_value", "prompt_logprobs", "at least 0"),
    (COMPLETIONS, {"prompt_logprobs": 1, "stream": True}, 400, "invalid_value", "prompt_logprobs", "stream"),
    (CHAT, {"prompt_logprobs": 21}, 400, "invalid_value", "prompt_logprobs", "at most 20"),
    (CHAT, {"prompt_logprobs": 1, "max_tokens": 0}, 400, "invalid_value", "max_tokens", "at least 1"),
    (COMPLETIONS, {"n": 3, "best_of": 2}, 400, "invalid_value", "best_of", "at least 3"),
    (COMPLETIONS, {"best_of": 2, "stream": True}, 400, "invalid_value", "best_of", "stream"),
    (COMPLETIONS, {"suffix": "end"}, 400, "unsupported_parameter", "suffix", "suffix"),
    ("/tokenize", {"messages": USER, "prompt": "x"}, 400, "invalid_value", "prompt", "either"),
    ("/detokenize", {"tokens": [5000]}, 400, "invalid_value", "tokens", "vocabulary"),
    ("/detokenize", {}, 400, "invalid_value", "tokens", "required"),
]
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "messages": USER},
    COMPLETIONS: {"model": MODEL, "prompt": "Hi"},
}


async def test_each_wrong_value_is_named_with_its_limit_and_nothing_is_started(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    async with gateway.http() as http:
        for path, fields, status, code, param, word in CASES:
            body = json.dumps(GOOD.get(path, {}) | fields)
            answer = await http.post(path, content=body)
            where = f"{path} {fields!r:.80}: {answer.text:.200}"
            assert answer.status_code == status, where
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == (code, param), where
            assert word in error["message"], where
            assert set(error) == {"message", "type", "param", "code"}
    assert backend.client_requests() == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"n": NaN}', b"\xff\xfe", b"[" * 100_000, b"null"]
)
async def test_what_is_no_json_object_is_refused(gateway: RunningGateway, body: bytes) -> None:
    async with gateway.http() as http:
        answer = await http.post(CHAT, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


async def test_a_body_over_the_limit_is_refused_before_it_was_read(gateway: RunningGateway) -> None:
    async def endless():
        for _ in range(100):
            yield b" " * 1024 * 1024

    async with gateway.http() as http:
        declared = await http.post(CHAT, content=b" " * 8 * 1024 * 1024)
        chunked = await http.post(CHAT, content=endless())
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


async def test_unknown_paths_and_methods_have_json_errors_too(gateway: RunningGateway) -> None:
    async with gateway.http() as http:
        missing = await http.get("/v1/nothing")
        wrong = await http.get(CHAT)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_harmless_fields_of_others_are_accepted(gateway: RunningGateway) -> None:
    fields = {
        "metadata": {"a": "b"},
        "store": True,
        "user": "u",
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "something_new": 1,
        "top_k": -1,
        "tool_choice": "auto",
    }
    async with gateway.http() as http:
        answer = await http.post(CHAT, json=GOOD[CHAT] | fields)
    assert answer.status_code == 200
