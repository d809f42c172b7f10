"""Answers of /v1/chat/completions."""

from __future__ import annotations

from typing import Any

import orjson

from services.common.messages.frames import RUNNING
from services.gateway.life.stream import Delta
from services.gateway.openai.logprobs import chat_logprobs
from services.gateway.openai.render import FINISH_REASONS, Call, Positions, Usage, event, stop_reason
from services.gateway.text.tokenizer import TextTokenizer

_CHUNK = "chat.completion.chunk"


class ChatRenderer:
    """``echo``: text that goes before each choice's own, or none."""

    def __init__(self, call: Call, tokenizer: TextTokenizer, *, echo: str = "") -> None:
        self._call, self._tokenizer, self._echo = call, tokenizer, echo
        self._usage = Usage(call.prompt_tokens, call.num_choices)
        self._positions = Positions(call.total_choices)
        # The usual chunk is put together from these without building a dict.
        self._head = orjson.dumps(call.head(_CHUNK))[:-1] + b',"choices":[{"index":'
        self._tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._is_plain = not (call.wants_logprobs or call.return_token_ids or call.continuous_usage)

    def opening(self) -> bytes:
        parts = []
        for choice in range(self._call.total_choices):
            delta = {"role": "assistant", "content": self._echo}
            chunk = self._chunk({"index": choice, "delta": delta, "logprobs": None, "finish_reason": None})
            if self._call.return_token_ids:
                chunk["prompt_token_ids"] = self._call.prompt_ids[0]
            parts.append(event(self._positions, chunk))
        return b"".join(parts)

    def events(self, deltas: list[Delta]) -> bytes:
        parts: list[bytes] = []
        for delta in deltas:
            self._usage.add(delta)
            self._positions.move(delta)
            text = delta.text
            if self._is_plain and delta.finish == RUNNING:
                parts += (self._positions.line(), b"data: ", self._head, b"%d" % delta.choice)
                parts += (b',"delta":{"content":', orjson.dumps(text), self._tail)
            else:
                choice = {
                    "index": delta.choice,
                    "delta": {"content": text} if text else {},
                    **self._rest(delta),
                }
                parts.append(event(self._positions, self._chunk(choice)))
        return b"".join(parts)

    def closing(self) -> bytes:
        if not self._call.include_usage:
            return b""
        chunk = {**self._call.head(_CHUNK), "choices": [], "usage": self._usage.body()}
        return event(self._positions, chunk)

    def body(self, deltas: list[Delta]) -> dict[str, Any]:
        choices = []
        for delta in deltas:
            self._usage.add(delta)
            message = {"role": "assistant", "content": self._echo + delta.text, "refusal": None}
            choices.append({"index": delta.choice, "message": message, **self._rest(delta)})
        body = {**self._call.head("chat.completion"), "choices": choices, "usage": self._usage.body()}
        if self._call.return_token_ids:
            body["prompt_token_ids"] = self._call.prompt_ids[0]
        return body

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._call.head(_CHUNK), "choices": [choice]}
        if self._call.continuous_usage:
            chunk["usage"] = self._usage.body()
        return chunk

    def _rest(self, delta: Delta) -> dict[str, Any]:
        """What a choice holds beside its message or delta."""
        logprobs = None
        if self._call.wants_logprobs:
            logprobs = chat_logprobs(self._tokenizer, delta.ids, delta.logprobs)
        rest: dict[str, Any] = {"logprobs": logprobs, "finish_reason": FINISH_REASONS[delta.finish]}
        if delta.finish != RUNNING:
            rest["stop_reason"] = stop_reason(delta, self._call.stop_token_ids)
        if self._call.return_token_ids:
            rest["token_ids"] = delta.ids
        return rest
