"""How the log probabilities of a prompt are worded."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.common.messages.codec import pack
from services.common.messages.frames import PromptLogprobs
from services.gateway.openai.logprobs import echoed_logprobs, prompt_logprobs
from services.gateway.text.tokenizer import TextTokenizer, load_text_tokenizer
from tests.fakes.tiny_model import IM_START, make_tokenizer

TEXT = "The quick brown fox: Grüße, 日本, 👍🏽!"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return load_text_tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def scores(ids: list[int], tops: list[list[tuple[int, float]]]) -> PromptLogprobs:
    """Ids' log probabilities are -1, -2, ..."""
    values = [-float(i) for i in range(1, len(ids))]
    flat = [entry for row in tops for entry in row]
    return PromptLogprobs(
        1,
        pack(values, "float32"),
        pack([9] * len(values), "int32"),
        len(tops[0]) if tops else 0,
        pack([token for token, _ in flat], "int32"),
        pack([value for _, value in flat], "float32"),
    )


@pytest.mark.parametrize("hidden", [[], [IM_START]])
async def test_offsets_are_where_tokens_begin_in_the_text_that_is_shown(
    tokenizer: TextTokenizer, hidden: list[str]
) -> None:
    """A token that the tokenizer puts before the text is not shown."""
    shown = await tokenizer.encode(TEXT, add_special_tokens=False)
    ids = [tokenizer.id_of(token) for token in hidden] + shown
    columns = await echoed_logprobs(tokenizer, ids, scores(ids, []), 0, len(TEXT))
    offsets = columns["text_offset"][len(hidden) :]
    assert columns["text_offset"][: len(hidden)] == [0] * len(hidden)
    for i, offset in enumerate(offsets):
        before = b"".join(tokenizer.token_bytes(token) for token in shown[:i])
        assert offset == len(before.decode("utf-8", "ignore"))
    assert [column[0] for column in (columns["token_logprobs"], columns["top_logprobs"])] == [None, None]


async def test_of_ids_with_one_text_the_likeliest_counts(tokenizer: TextTokenizer) -> None:
    """Lone bytes of characters all read U+FFFD: who compares a token with the likeliest must not be misled."""
    first, second = (
        next(i for i in range(440) if tokenizer.token_bytes(i) == bytes([byte])) for byte in (0xE6, 0xE7)
    )
    ids = [20, second]
    columns = await echoed_logprobs(tokenizer, ids, scores(ids, [[(first, -0.5), (21, -0.75)]]), 2, 2)
    (top,) = columns["top_logprobs"][1:]
    assert top["\ufffd"] == max(top.values()) == -0.5
    assert columns["token_logprobs"][1] == -1.0


async def test_prompt_logprobs_hold_the_token_itself_and_the_likeliest_by_rank(
    tokenizer: TextTokenizer,
) -> None:
    ids = [20, 21, 22]
    rows = [[(21, -1.0), (30, -1.5)], [(31, -0.25), (32, -0.5)]]
    first, second, third = await prompt_logprobs(tokenizer, ids, scores(ids, rows), 2)
    assert first is None
    assert second is not None
    assert third is not None
    assert {key: (e["logprob"], e["rank"]) for key, e in second.items()} == {"21": (-1.0, 9), "30": (-1.5, 2)}
    assert {key: e["rank"] for key, e in third.items()} == {"22": 9, "31": 1, "32": 2}
    assert third["31"]["decoded_token"] == tokenizer.decode([31])


async def test_others_have_their_turns_while_a_long_prompt_is_worded(tokenizer: TextTokenizer) -> None:
    rng = random.Random(1)
    ids = [rng.randrange(440) for _ in range(20_000)]
    tops = [[(rng.randrange(440), -0.5), (rng.randrange(440), -0.75)] for _ in ids[1:]]
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    columns = await echoed_logprobs(tokenizer, ids, scores(ids, tops), 2, 10)
    counting.cancel()
    assert len(columns["tokens"]) == len(ids)
    assert turns >= 3 * len(ids) // 4096
