"""The OpenAI client has prompts scored by the whole system, as evaluation harnesses do; transformers agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from transformers import AutoModelForCausalLM

TEXT = "Once upon a time there was a fox in Köln. 日本 😀 " * 6
OPTIONS = {"model": "m", "temperature": 0, "echo": True, "logprobs": 1}


@pytest.fixture(scope="module")
def reference(model_dir: Path):
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)

    def logprobs(ids: list[int]) -> list[float]:
        """Of each id but the first."""
        with torch.inference_mode():
            every = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return [every[i, token].item() for i, token in enumerate(ids[1:])]

    return logprobs


def test_log_likelihoods_are_scored_as_a_harness_asks_for_them(client: OpenAI, reference):
    """As lm-evaluation-harness: prompts as ids, one token more, of which the score is left out."""
    prompts = [[20 + 3 * i for i in range(length)] for length in (2, 33, 150)]
    for _ in range(2):  # the second time, the prompts' blocks are cached
        answer = client.completions.create(prompt=prompts, max_tokens=1, **OPTIONS)
        assert answer.usage
        assert answer.usage.completion_tokens <= len(prompts)
        for prompt, choice in zip(prompts, answer.choices, strict=True):
            scores = choice.logprobs
            assert scores
            assert scores.token_logprobs
            assert scores.top_logprobs
            assert scores.token_logprobs[0] is None
            found = scores.token_logprobs[1 : len(prompt)]
            assert found == pytest.approx(reference(prompt), abs=1e-4)
            for value, top in zip(found, scores.top_logprobs[1:], strict=False):
                assert max(top.values()) >= value


def test_a_text_alone_is_scored_with_max_tokens_0(client: OpenAI):
    (choice,) = client.completions.create(prompt=TEXT, max_tokens=0, **OPTIONS).choices
    assert (choice.text, choice.finish_reason) == (TEXT, "length")
    assert choice.logprobs
    assert choice.logprobs.text_offset
    assert choice.logprobs.tokens
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        assert "\ufffd" in token or TEXT[offset:].startswith(token)
    assert all(value < 0 for value in (choice.logprobs.token_logprobs or [])[1:])


async def test_a_streamed_score_is_the_whole_one_in_pieces(async_client: AsyncOpenAI):
    options = OPTIONS | {"prompt": TEXT, "max_tokens": 8, "n": 2}
    whole = await async_client.completions.create(**options)
    texts, values, starts = ["", ""], [[], []], [[], []]
    async for event in await async_client.completions.create(**options, stream=True):
        for piece in event.choices:
            texts[piece.index] += piece.text
            values[piece.index] += piece.logprobs.token_logprobs
            starts[piece.index].append(piece.text.startswith(TEXT))
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert values[choice.index] == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)
        assert starts[choice.index] == [True] + [False] * (len(starts[choice.index]) - 1)


def test_prompt_logprobs_of_a_chat_are_given_by_id(client: OpenAI):
    answer = client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "Hello! Who are you?"}],
        max_tokens=2,
        extra_body={"prompt_logprobs": 2, "return_token_ids": True},
    )
    entries, ids = answer.model_extra["prompt_logprobs"], answer.model_extra["prompt_token_ids"]
    assert entries[0] is None
    for token, entry in zip(ids[1:], entries[1:], strict=True):
        by_rank = sorted(entry.values(), key=lambda ranked: ranked["rank"])
        assert [ranked["rank"] for ranked in by_rank[:2]] == [1, 2]
        assert len(by_rank) == 2 + (entry[str(token)]["rank"] > 2)
        values = [ranked["logprob"] for ranked in by_rank]
        assert values == sorted(values, reverse=True)
