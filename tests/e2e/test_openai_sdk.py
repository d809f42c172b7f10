"""OpenAI's own client library drives the whole system, unchanged."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

PROMPT = [{"role": "user", "content": "Hello! Who are you?"}]


def test_the_model_is_listed_and_found(client: OpenAI):
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").id == "m"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_chat_comes_back_whole_with_its_usage(client: OpenAI):
    answer = client.chat.completions.create(model="m", messages=PROMPT, temperature=0, max_tokens=12)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 1 <= answer.usage.completion_tokens <= 12


def test_a_streamed_chat_is_the_whole_one_in_pieces(client: OpenAI):
    options = {"model": "m", "messages": PROMPT, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**options)
    pieces, usage, finish = [], None, None
    for chunk in client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(pieces) == whole.choices[0].message.content
    assert finish == whole.choices[0].finish_reason
    assert usage is not None
    assert whole.usage
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert sum(1 for piece in pieces if piece) > 1


async def test_the_asynchronous_client_streams_chats_and_completions(async_client: AsyncOpenAI):
    options = {"model": "m", "temperature": 0, "max_tokens": 10, "extra_body": {"ignore_eos": True}}
    chat = ""
    async for chunk in await async_client.chat.completions.create(messages=PROMPT, stream=True, **options):
        for choice in chunk.choices:
            chat += choice.delta.content or ""
    whole = await async_client.chat.completions.create(messages=PROMPT, **options)
    assert chat == whole.choices[0].message.content

    text = ""
    async for event in await async_client.completions.create(prompt="Once upon a", stream=True, **options):
        for piece in event.choices:
            text += piece.text
    plain = await async_client.completions.create(prompt="Once upon a", **options)
    assert text == plain.choices[0].text
    assert plain.usage
    assert plain.usage.completion_tokens == 10


def test_prompts_may_be_texts_and_ids_one_or_many(client: OpenAI):
    options = {"model": "m", "temperature": 0, "max_tokens": 4, "extra_body": {"ignore_eos": True}}
    one = client.completions.create(prompt="The sea", **options).choices[0].text
    two = client.completions.create(prompt=["The sea", "A fox"], **options)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[0].text == one
    ids = [20, 21, 22]
    by_ids = client.completions.create(prompt=ids, **options).choices[0].text
    both = client.completions.create(prompt=[ids, [30, 31]], **options)
    assert both.choices[0].text == by_ids


def test_several_choices_share_a_prompt_and_differ(client: OpenAI):
    answer = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Tell me a story about the sea."}],
        n=4,
        temperature=2.0,
        max_tokens=16,
        seed=5,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage
    assert answer.usage.completion_tokens == 64


def test_a_seed_repeats_an_answer_on_another_gateway(client: OpenAI, stack):
    options = {"model": "m", "messages": PROMPT, "temperature": 1.0, "seed": 11, "max_tokens": 24}
    first = client.chat.completions.create(**options).choices[0].message.content
    with OpenAI(base_url=stack.base_urls[1] + "/v1", api_key="-", max_retries=0) as other:
        assert other.chat.completions.create(**options).choices[0].message.content == first


def test_a_stop_string_ends_the_text_before_it(client: OpenAI):
    options = {"model": "m", "messages": PROMPT, "temperature": 0, "max_tokens": 30}
    whole = client.chat.completions.create(**options).choices[0].message.content or ""
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    assert middle.strip(), whole
    for stream in (False, True):
        if stream:
            chunks = list(client.chat.completions.create(**options, stop=[middle], stream=True))
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            finish = [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1]
        else:
            (choice,) = client.chat.completions.create(**options, stop=[middle]).choices
            text, finish = choice.message.content or "", choice.finish_reason
        assert text == whole[: whole.index(middle)]
        assert finish == "stop"


def test_logprobs_are_those_of_the_tokens_that_came(client: OpenAI):
    answer = client.chat.completions.create(
        model="m", messages=PROMPT, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert answer.usage
    assert len(logprobs.content) == answer.usage.completion_tokens
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)  # greedy takes the likeliest


def test_cached_prompt_tokens_are_counted(client: OpenAI):
    text = "A long enough story to fill some blocks of the cache. " * 12
    options = {"model": "m", "prompt": text, "temperature": 0, "max_tokens": 2}
    client.completions.create(**options)
    for _ in range(20):  # the routers learn of the cached blocks a moment later
        usage = client.completions.create(**options).usage
        assert usage
        assert usage.prompt_tokens_details
        if cached := usage.prompt_tokens_details.cached_tokens or 0:
            break
    assert 0 < cached < usage.prompt_tokens
