"""Answers of /v1/chat/completions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import orjson

from services.common.messages.frames import RUNNING, STOP
from services.gateway.life.stream import Delta
from services.gateway.openai.logprobs import chat_logprobs, prompt_logprobs
from services.gateway.openai.render import FINISH_REASONS, Call, Positions, Usage, event, stop_reason
from services.gateway.parsers.markup import CallDelta, MarkupParser, Parsed
from services.gateway.text.tokenizer import TextTokenizer

_CHUNK = "chat.completion.chunk"


class ChatRenderer:
    """``echo``: text that goes before each choice's own. ``new_parser``: for models that reason or call tools."""

    def __init__(
        self,
        call: Call,
        tokenizer: TextTokenizer,
        *,
        echo: str = "",
        new_parser: Callable[[], MarkupParser] | None = None,
    ) -> None:
        self._call, self._tokenizer, self._echo = call, tokenizer, echo
        self._usage = Usage(call.prompt_tokens, call.num_choices)
        self._positions = Positions(call.total_choices)
        self._parsers = [new_parser() for _ in range(call.total_choices)] if new_parser else []
        self._prompt_logprobs: list[dict[str, Any] | None] | None = None
        # The usual chunk is put together from these without building a dict.
        self._head = orjson.dumps(call.head(_CHUNK))[:-1] + b',"choices":[{"index":'
        self._tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._is_plain = not (call.wants_logprobs or call.return_token_ids or call.continuous_usage)

    async def prepare(self, deltas: list[Delta]) -> None:
        if (scores := deltas[0].prompt_logprobs) is not None:
            ids = self._call.prompt_ids[0]
            self._prompt_logprobs = await prompt_logprobs(self._tokenizer, ids, scores, scores.num_top)

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
            parsed = self._parse(delta)
            if not self._is_plain or delta.finish != RUNNING or parsed.reasoning or parsed.calls:
                choice = {
                    "index": delta.choice,
                    "delta": self._news(delta.choice, parsed),
                    **self._rest(delta),
                }
                parts.append(event(self._positions, self._chunk(choice)))
            elif parsed.content or not self._parsers:
                parts += (self._positions.line(), b"data: ", self._head, b"%d" % delta.choice)
                parts += (b',"delta":{"content":', orjson.dumps(parsed.content), self._tail)
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
            parsed = self._parse(delta)
            message: dict[str, Any] = {
                "role": "assistant",
                "content": self._echo + parsed.content,
                "refusal": None,
            }
            if parsed.reasoning:
                message["reasoning_content"] = parsed.reasoning
            if parsed.calls:
                message["tool_calls"] = [self._tool_call(delta.choice, call) for call in parsed.calls]
                message["content"] = message["content"] or None
            choices.append({"index": delta.choice, "message": message, **self._rest(delta)})
        body = {**self._call.head("chat.completion"), "choices": choices, "usage": self._usage.body()}
        if self._call.return_token_ids:
            body["prompt_token_ids"] = self._call.prompt_ids[0]
        if self._prompt_logprobs is not None:
            body["prompt_logprobs"] = self._prompt_logprobs
        return body

    def _parse(self, delta: Delta) -> Parsed:
        if not self._parsers:
            return Parsed(delta.text)
        return self._parsers[delta.choice].push(delta.text, final=delta.finish != RUNNING)

    def _news(self, choice: int, parsed: Parsed) -> dict[str, Any]:
        """``delta`` of a chunk."""
        news: dict[str, Any] = {}
        if parsed.reasoning:
            news["reasoning_content"] = parsed.reasoning
        if parsed.content:
            news["content"] = parsed.content
        if parsed.calls:
            news["tool_calls"] = [
                {"index": call.index, **self._tool_call(choice, call)} for call in parsed.calls
            ]
        return news

    def _tool_call(self, choice: int, call: CallDelta) -> dict[str, Any]:
        """A whole call, or, without its name, more of its arguments."""
        if not call.name:
            return {"function": {"arguments": call.arguments}}
        digest = hashlib.blake2b(f"{self._call.id}/{choice}/{call.index}".encode(), digest_size=12)
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": f"call_{digest.hexdigest()}", "type": "function", "function": function}

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
        rest: dict[str, Any] = {"logprobs": logprobs, "finish_reason": self._finish_reason(delta)}
        if delta.finish != RUNNING:
            rest["stop_reason"] = stop_reason(delta, self._call.stop_token_ids)
        if self._call.return_token_ids:
            rest["token_ids"] = delta.ids
        return rest

    def _finish_reason(self, delta: Delta) -> str | None:
        if delta.finish == STOP and self._parsers and self._parsers[delta.choice].num_calls:
            return "tool_calls"
        return FINISH_REASONS[delta.finish]
