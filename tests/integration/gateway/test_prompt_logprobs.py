"""echo with logprobs, and prompt_logprobs: a prompt's own tokens are scored, once, whatever is lost or dies.

The fake backend's log probability of an id is -id/100, and the likeliest ids in its place are it and those after it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.backend import FakeBackend, words
from tests.fakes.gateway import MODEL, RunningGateway
from tests.fakes.waiting import until

from .conftest import TEXT
from .sse import events

COMPLETIONS = "/v1/completions"
PROMPT = "Once upon a time in Köln, 日本: 😀"
BODY: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "echo": True, "logprobs": 2, "max_tokens": 100}


async def post(gateway: RunningGateway, body: dict[str, Any], path: str = COMPLETIONS) -> dict[str, Any]:
    async with gateway.http() as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ids_of(gateway: RunningGateway, text: str) -> list[int]:
    async with gateway.http() as http:
        return (await http.post("/tokenize", json={"prompt": text})).json()["tokens"]


def assert_scored(logprobs: dict[str, Any], ids: list[int], num_generated: int) -> None:
    """The columns are those of the prompt ``ids``, and then of generated tokens."""
    count = len(ids) + num_generated
    assert [len(column) for column in logprobs.values()] == [count] * 4
    values, tops = logprobs["token_logprobs"], logprobs["top_logprobs"]
    assert (values[0], tops[0]) == (None, None)
    assert values[1 : len(ids)] == pytest.approx([-i / 100 for i in ids[1:]])
    assert values[len(ids) :] == pytest.approx([-i / 100 for i in range(10, 10 + num_generated)])
    for value, top in zip(values[1:], tops[1:], strict=True):
        assert max(top.values()) == value
        assert len(top) <= 2


async def test_echo_with_logprobs_scores_the_prompt_before_what_is_generated(gateway: RunningGateway) -> None:
    (choice,) = (await post(gateway, BODY))["choices"]
    ids = await ids_of(gateway, PROMPT)
    assert choice["text"] == PROMPT + TEXT
    assert_scored(choice["logprobs"], ids, 7)
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    for token, offset in zip(tokens, offsets[: len(ids)], strict=False):
        assert "\ufffd" in token or choice["text"][offset:].startswith(token)
    assert offsets[len(ids)] == len(PROMPT)


@pytest.mark.parametrize("logprobs", [0, 2])
async def test_with_max_tokens_0_only_the_prompt_is_scored(gateway: RunningGateway, logprobs: int) -> None:
    answer = await post(gateway, BODY | {"max_tokens": 0, "logprobs": logprobs})
    (choice,) = answer["choices"]
    ids = await ids_of(gateway, PROMPT)
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx([-i / 100 for i in ids[1:]])
    assert bool(choice["logprobs"]["top_logprobs"][1]) == bool(logprobs)
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["prompt_tokens"] == len(ids)


async def test_a_prompt_of_one_token_has_no_log_probability(gateway: RunningGateway) -> None:
    (choice,) = (await post(gateway, BODY | {"prompt": [77], "max_tokens": 0}))["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None]
    assert choice["logprobs"]["text_offset"] == [0]


async def test_a_stream_brings_the_prompt_in_each_choice_s_first_chunk(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    ids = await ids_of(gateway, PROMPT)
    body = BODY | {"n": 2, "stream": True}
    async with gateway.http() as http, http.stream("POST", COMPLETIONS, json=body) as answer:
        found = [event.data async for event in events(answer)]
    assert found.pop() == "[DONE]"
    whole = (await post(gateway, BODY | {"n": 2}))["choices"]
    for index in (0, 1):
        chunks = [c for event in found for c in event["choices"] if c["index"] == index]
        assert chunks[0]["text"].startswith(PROMPT)
        assert chunks[0]["logprobs"]["token_logprobs"][0] is None
        assert all(len(chunk["logprobs"]["tokens"]) <= 7 for chunk in chunks[1:])
        joined = {
            name: [item for chunk in chunks for item in chunk["logprobs"][name]]
            for name in chunks[0]["logprobs"]
        }
        assert_scored(joined, ids, 7)
        assert joined == whole[index]["logprobs"]
    asked = backend.client_requests()[-1]
    assert (asked.prompt_logprobs, len(asked.choices)) == (2, 2)


async def test_several_prompts_and_best_of_carry_their_own_scores(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    backend.script = lambda request, choice: words("so it is", first_id=100 - 10 * choice.index)
    prompts = [[65, 66, 67, 68, 69], [80, 81]]
    answer = await post(gateway, BODY | {"prompt": prompts, "n": 2, "best_of": 3})
    assert len(answer["choices"]) == 4
    for i, choice in enumerate(answer["choices"]):
        ids, values = prompts[i // 2], choice["logprobs"]["token_logprobs"]
        assert values[: len(ids)] == [None, *(pytest.approx(-t / 100) for t in ids[1:])]
        assert values[len(ids)] == pytest.approx(-(80 + 10 * (i % 2)) / 100)


async def test_best_of_with_logprobs_and_without_echo_scores_no_prompt(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    answer = await post(gateway, BODY | {"echo": False, "n": 2, "best_of": 4})
    assert [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]] == [7, 7]
    assert backend.client_requests()[-1].prompt_logprobs == -1


async def test_prompt_logprobs_come_by_id_with_their_ranks(gateway: RunningGateway) -> None:
    body = {"model": MODEL, "prompt": [65, 66, 67], "prompt_logprobs": 1, "max_tokens": 0}
    (choice,) = (await post(gateway, body))["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None
    assert [list(entry) for entry in rest] == [["66"], ["67"]]
    assert rest[0]["66"] == {
        "logprob": pytest.approx(-0.66),
        "rank": 1,
        "decoded_token": (await detokenized(gateway, 66)),
    }
    assert (choice["text"], choice["logprobs"]) == ("", None)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "prompt_logprobs": 0}
    answer = await post(gateway, chat, "/v1/chat/completions")
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert all(len(entry) == 1 for entry in answer["prompt_logprobs"][1:])


async def detokenized(gateway: RunningGateway, token_id: int) -> str:
    async with gateway.http() as http:
        return (await http.post("/detokenize", json={"tokens": [token_id]})).json()["prompt"]


@pytest.mark.parametrize("lost", [-1, -4, 0], ids=["first part", "second part", "first id"])
async def test_what_is_lost_of_the_scores_is_sent_again(
    gateway: RunningGateway, backend: FakeBackend, lost: int
) -> None:
    undisturbed = (await post(gateway, BODY | {"n": 2}))["choices"]
    gone: list[int] = []

    def loses(stream: str, index: int) -> bool:
        is_it = index == lost and stream.endswith(":0") and not gone
        gone.extend([index] if is_it else [])
        return is_it

    backend.loses = loses
    assert (await post(gateway, BODY | {"n": 2}))["choices"] == undisturbed
    assert gone == [lost]
    assert backend.replayed


@pytest.mark.parametrize("after", [-4, 3], ids=["amid the scores", "amid the ids"])
async def test_a_bounced_request_is_scored_once(
    gateway: RunningGateway, backend: FakeBackend, after: int
) -> None:
    undisturbed = (await post(gateway, BODY))["choices"]
    backend.submitted.clear()
    bounced: list[int] = []

    def loses(stream: str, index: int) -> bool:
        """Lets nothing through from one place on, until the worker gave the request back."""
        if not bounced and index == after:
            bounced.append(index)
        return bool(bounced) and len(backend.client_requests()) == 1

    backend.loses, backend.token_s = loses, 0.01
    async with gateway.http() as http:
        asking = asyncio.create_task(http.post(COMPLETIONS, json=BODY))
        await until(lambda: bool(bounced), "the disturbance")
        await backend.bounce()
        answer = await asking
    assert answer.json()["choices"] == undisturbed
    first, second = backend.client_requests()
    assert first.prompt_logprobs == 2
    assert second.prompt_logprobs == (2 if after < 0 else -1)
