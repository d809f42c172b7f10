"""What an OpenAI SDK gets from the gateway."""

from __future__ import annotations

import openai
import pytest

from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway

from .conftest import TEXT


@pytest.fixture
async def client(gateway: RunningGateway):
    async with gateway.openai() as made:
        yield made


MESSAGES = [{"role": "user", "content": "Say something"}]


async def test_chat_answers_whole(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_chat_streams_role_then_text_then_end(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 7


async def test_completion_answers_whole_and_streamed_alike(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model=MODEL, prompt="Once", max_tokens=16)
    stream = await client.completions.create(model=MODEL, prompt="Once", max_tokens=16, stream=True)
    assert whole.choices[0].text == "".join([c.choices[0].text async for c in stream]) == TEXT


async def test_every_prompt_of_a_list_is_answered_in_order(
    client: openai.AsyncOpenAI, backend: FakeBackend
) -> None:
    answer = await client.completions.create(model=MODEL, prompt=[[5, 6], [7]], n=2, max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.finish_reason == "length" for choice in answer.choices)
    assert [request.prompt_ids for request in backend.client_requests()] == [[5, 6], [7]]
    assert [len(request.choices) for request in backend.client_requests()] == [2, 2]
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 12


async def test_completion_logprobs_have_their_tokens_and_offsets(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="x", max_tokens=2, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs == pytest.approx([-0.10, -0.11])
    assert logprobs.text_offset == [0, len(logprobs.tokens[0])]
    assert len(logprobs.top_logprobs) == 2


async def test_chat_logprobs_have_bytes_and_alternatives(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=2, logprobs=True, top_logprobs=2
    )
    first = answer.choices[0].logprobs.content[0]
    assert first.logprob == pytest.approx(-0.10)
    assert bytes(first.bytes).decode() == first.token
    assert len(first.top_logprobs) == 2


async def test_models_are_listed_and_unknown_ones_are_not_found(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="other", messages=MESSAGES)
    assert caught.value.body["code"] == "model_not_found"
