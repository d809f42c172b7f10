"""What is wrong is refused in OpenAI's form, naming field and limit, and costs nothing."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.e2e.metrics import total
from tests.fakes.stack import Stack

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
TEXT = {"model": "m", "prompt": "hi", "max_tokens": 1}


def chat(**changed: Any) -> tuple[str, str]:
    return "/v1/chat/completions", json.dumps(CHAT | changed)


def text(**changed: Any) -> tuple[str, str]:
    return "/v1/completions", json.dumps(TEXT | changed)


BAD: dict[str, tuple[tuple[str, str], int, str]] = {
    "not json": (("/v1/chat/completions", "{"), 400, "JSON"),
    "not an object": (("/v1/completions", "[1]"), 400, "object"),
    "nan": (("/v1/completions", '{"model": "m", "prompt": "x", "temperature": NaN}'), 400, "JSON"),
    "nothing": (("/v1/chat/completions", "{}"), 400, "messages"),
    "unknown model": (chat(model="other"), 404, "other"),
    "no messages": (chat(messages=[]), 400, "messages"),
    "wrong type": (chat(temperature="hot"), 400, "temperature"),
    "negative temperature": (chat(temperature=-1), 400, "temperature"),
    "huge temperature": (chat(temperature=1e30), 400, "temperature"),
    "top_p over one": (chat(top_p=1.5), 400, "top_p"),
    "no tokens": (text(max_tokens=0), 400, "max_tokens"),
    "negative tokens": (text(max_tokens=-5), 400, "max_tokens"),
    "tokens over the context": (text(max_tokens=10**7), 400, "maximum context length"),
    "prompt over the context": (text(prompt=[1] * 100_000), 400, "maximum context length"),
    "empty prompt": (text(prompt=""), 400, "prompt"),
    "empty ids": (text(prompt=[]), 400, "prompt"),
    "negative id": (text(prompt=[-1]), 400, "vocabulary"),
    "id out of the vocabulary": (text(prompt=[10**9]), 400, "vocabulary"),
    "too many choices": (chat(n=100_000), 400, "n must be"),
    "no choices": (chat(n=0), 400, "n must be"),
    "10,000 stop strings": (chat(stop=["x"] * 10_000), 400, "stop"),
    "empty stop string": (chat(stop=[""]), 400, "stop"),
    "bias out of range": (chat(logit_bias={"1": 1000}), 400, "logit_bias"),
    "bias of no token": (chat(logit_bias={"x": 1}), 400, "logit_bias"),
    "too many logprobs": (chat(logprobs=True, top_logprobs=1000), 400, "top_logprobs"),
    "seed of a type": (chat(seed="x"), 400, "seed"),
    "nested without end": (("/v1/chat/completions", '{"a":' * 5000 + "1" + "}" * 5000), 400, ""),
    "8 MB": (text(prompt="x" * (8 * 1024 * 1024)), 413, "limit"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_named(case: str, http: httpx.AsyncClient):
    (path, body), status, names = BAD[case]
    response = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text[:500]
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert names in error["message"], error


async def test_bad_input_costs_no_step(stack: Stack, http: httpx.AsyncClient):
    before = total(stack, "shoal_worker_prompt_tokens_total")
    for (path, body), *_ in BAD.values():
        await http.post(path, content=body, headers={"Content-Type": "application/json"})
    # Canaries may run meanwhile: one token of prompt each, and rarely.
    assert total(stack, "shoal_worker_prompt_tokens_total") - before <= 8


async def test_paths_and_methods_that_are_not_there(http: httpx.AsyncClient):
    assert (await http.get("/v1/nothing")).status_code == 404
    wrong = await http.get("/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"]
