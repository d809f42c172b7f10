"""Log probabilities in the two forms that OpenAI has for them."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from services.common.messages.codec import unpack
from services.common.messages.frames import PromptLogprobs, RowLogprobs
from services.gateway.text.tokenizer import TextTokenizer

_SLICE = 4096  # log probabilities worded at a time: some milliseconds
_LEAST = -9999.0  # stands for minus infinity, which JSON has not


def _value(logprob: float) -> float:
    return max(logprob, _LEAST)


def _text(tokenizer: TextTokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")


def _tops(logprobs: RowLogprobs | None, i: int) -> Iterator[tuple[int, float]]:
    if logprobs is None:
        return iter(())
    start = i * logprobs.num_top
    end = start + logprobs.num_top
    return zip(logprobs.top_ids[start:end], logprobs.top_values[start:end], strict=False)


def _entry(tokenizer: TextTokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": data.decode("utf-8", "replace"), "logprob": _value(logprob), "bytes": list(data)}


def chat_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], logprobs: RowLogprobs | None
) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat completion or chunk."""
    content = []
    for i, (token_id, logprob) in enumerate(zip(ids, logprobs.values if logprobs else (), strict=False)):
        entry = _entry(tokenizer, token_id, logprob)
        entry["top_logprobs"] = [_entry(tokenizer, top, value) for top, value in _tops(logprobs, i)]
        content.append(entry)
    return {"content": content, "refusal": None}


def _by_token(
    tokenizer: TextTokenizer, token: str, logprob: float, tops: Iterable[tuple[int, float]]
) -> dict[str, float] | None:
    """The likeliest tokens and the one that is there. Of several ids with one text the likeliest counts."""
    found: dict[str, float] = {}
    for top_id, value in tops:
        found.setdefault(_text(tokenizer, top_id), _value(value))
    if found:
        found.setdefault(token, logprob)
    return found or None


def completion_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], logprobs: RowLogprobs | None, offset: int
) -> tuple[dict[str, Any], int]:
    """``choices[].logprobs`` of a completion whose text begins at character ``offset``; and the offset after it."""
    tokens: list[str] = []
    values: list[float] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for i, token_id in enumerate(ids):
        token = _text(tokenizer, token_id)
        offset += len(token)
        if logprobs is None or i >= len(logprobs.values):
            continue
        value = _value(logprobs.values[i])
        tokens.append(token)
        values.append(value)
        offsets.append(offset - len(token))
        tops.append(_by_token(tokenizer, token, value, _tops(logprobs, i)))
    body = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    return body, offset


class _Scores:
    """A prompt's log probabilities by index; ``num_top`` of the likeliest are looked at."""

    def __init__(self, scores: PromptLogprobs, num_top: int) -> None:
        self.values, self.ranks = unpack(scores.values, "float32"), unpack(scores.ranks, "int32")
        self._top_ids, self._top_values = (
            unpack(scores.top_ids, "int32"),
            unpack(scores.top_values, "float32"),
        )
        self._stride, self._num_top = scores.num_top, min(num_top, scores.num_top)

    def tops(self, i: int) -> Iterator[tuple[int, float]]:
        shown = slice(i * self._stride, i * self._stride + self._num_top)
        return zip(self._top_ids[shown], self._top_values[shown], strict=True)


async def _in_slices(count: int, num_top: int) -> AsyncIterator[int]:
    """0 .. count - 1; now and then, others on the event loop have their turn."""
    size = max(1, _SLICE // (num_top + 1))
    for i in range(count):
        if i % size == size - 1:
            await asyncio.sleep(0)
        yield i


async def echoed_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], scores: PromptLogprobs, num_top: int, num_chars: int
) -> dict[str, list[Any]]:
    """The columns of a completion's ``logprobs`` for a prompt whose text, of ``num_chars``, is shown before it."""
    found = _Scores(scores, num_top)
    tokens: list[str] = []
    values: list[float | None] = [None]
    tops: list[dict[str, float] | None] = [None]
    offsets = _PromptOffsets()
    async for i in _in_slices(len(ids), num_top):
        token = _text(tokenizer, ids[i])
        tokens.append(token)
        offsets.add(tokenizer.token_bytes(ids[i]))
        if i:
            value = _value(found.values[i - 1])
            values.append(value)
            tops.append(_by_token(tokenizer, token, value, found.tops(i - 1)))
    return {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets.within(num_chars),
    }


class _PromptOffsets:
    """Where each of a prompt's tokens begins in its text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offsets: list[int] = []
        self._num_chars = 0

    def add(self, piece: bytes) -> None:
        self._offsets.append(self._num_chars)
        self._num_chars += len(self._decoder.decode(piece))

    def within(self, num_chars: int) -> list[int]:
        """Offsets in the shown text.

        The tokens may begin with what is not shown: a token for the beginning of a sequence, or sentencepiece's space.
        """
        hidden = self._num_chars + len(self._decoder.decode(b"", final=True)) - num_chars
        return [min(max(offset - hidden, 0), num_chars) for offset in self._offsets]


async def prompt_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], scores: PromptLogprobs, num_top: int
) -> list[dict[str, Any] | None]:
    """vLLM's ``prompt_logprobs``: for each prompt token, itself and the likeliest by their ids."""
    found = _Scores(scores, num_top)
    entries: list[dict[str, Any] | None] = [None]
    async for i in _in_slices(len(ids) - 1, num_top):
        token_id = ids[i + 1]
        entry = {str(token_id): _ranked(tokenizer, token_id, found.values[i], found.ranks[i])}
        for rank, (top_id, value) in enumerate(found.tops(i), start=1):
            entry.setdefault(str(top_id), _ranked(tokenizer, top_id, value, rank))
        entries.append(entry)
    return entries


def _ranked(tokenizer: TextTokenizer, token_id: int, logprob: float, rank: int) -> dict[str, Any]:
    return {"logprob": _value(logprob), "rank": rank, "decoded_token": _text(tokenizer, token_id)}
