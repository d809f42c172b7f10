"""Log probabilities in the two forms that OpenAI has for them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from services.common.messages.codec import unpack
from services.common.messages.frames import PromptLogprobs, RowLogprobs
from services.gateway.text.tokenizer import TextTokenizer

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


def echoed_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], scores: PromptLogprobs, num_top: int, num_chars: int
) -> dict[str, list[Any]]:
    """The columns of a completion's ``logprobs`` for a prompt whose text, of ``num_chars``, is shown before it."""
    found = _Scores(scores, num_top)
    tokens = [_text(tokenizer, token_id) for token_id in ids]
    values = [_value(value) for value in found.values]
    tops = [
        _by_token(tokenizer, token, value, found.tops(i))
        for i, (token, value) in enumerate(zip(tokens[1:], values, strict=True))
    ]
    offsets = _prompt_offsets([tokenizer.token_bytes(token_id) for token_id in ids], num_chars)
    return {
        "tokens": tokens,
        "token_logprobs": [None, *values],
        "top_logprobs": [None, *tops],
        "text_offset": offsets,
    }


def _prompt_offsets(pieces: Iterable[bytes], num_chars: int) -> list[int]:
    """Where each token begins in the shown text.

    The tokens may begin with what is not shown: a token for the beginning of a sequence, or sentencepiece's space.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, at = [], 0
    for piece in pieces:
        offsets.append(at)
        at += len(decoder.decode(piece))
    hidden = at + len(decoder.decode(b"", final=True)) - num_chars
    return [min(max(offset - hidden, 0), num_chars) for offset in offsets]


def prompt_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], scores: PromptLogprobs, num_top: int
) -> list[dict[str, Any] | None]:
    """vLLM's ``prompt_logprobs``: for each prompt token, itself and the likeliest by their ids."""
    found = _Scores(scores, num_top)
    entries: list[dict[str, Any] | None] = [None]
    for i, token_id in enumerate(ids[1:]):
        entry = {str(token_id): _ranked(tokenizer, token_id, found.values[i], found.ranks[i])}
        for rank, (top_id, value) in enumerate(found.tops(i), start=1):
            entry.setdefault(str(top_id), _ranked(tokenizer, top_id, value, rank))
        entries.append(entry)
    return entries


def _ranked(tokenizer: TextTokenizer, token_id: int, logprob: float, rank: int) -> dict[str, Any]:
    return {"logprob": _value(logprob), "rank": rank, "decoded_token": _text(tokenizer, token_id)}
