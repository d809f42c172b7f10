"""Log probabilities in the two forms that OpenAI has for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from services.common.messages.frames import RowLogprobs
from services.gateway.text.tokenizer import TextTokenizer

_LEAST = -9999.0  # stands for minus infinity, which JSON has not


def _value(logprob: float) -> float:
    return max(logprob, _LEAST)


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


def completion_logprobs(
    tokenizer: TextTokenizer, ids: Sequence[int], logprobs: RowLogprobs | None, offset: int
) -> tuple[dict[str, Any], int]:
    """``choices[].logprobs`` of a completion whose text begins at character ``offset``; and the offset after it."""
    tokens: list[str] = []
    values: list[float] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for i, token_id in enumerate(ids):
        token = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        offset += len(token)
        if logprobs is None or i >= len(logprobs.values):
            continue
        value = _value(logprobs.values[i])
        tokens.append(token)
        values.append(value)
        offsets.append(offset - len(token))
        top = {
            tokenizer.token_bytes(top_id).decode("utf-8", "replace"): _value(top_value)
            for top_id, top_value in _tops(logprobs, i)
        }
        tops.append({**top, token: value} if top else None)
    body = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
    return body, offset
