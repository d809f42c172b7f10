"""Answers of /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from services.common.messages.frames import RUNNING
from services.gateway.life.stream import Delta
from services.gateway.openai.logprobs import completion_logprobs, echoed_logprobs, prompt_logprobs
from services.gateway.openai.render import FINISH_REASONS, Call, Positions, Usage, event, stop_reason
from services.gateway.text.tokenizer import TextTokenizer


class CompletionRenderer:
    """``echoes``: the text that goes before each prompt's choices, or none. ``best_of``: choices made per prompt.

    ``num_logprobs``: likeliest tokens shown for each token. ``prompt_logprobs``: the same in vLLM's form for the
    prompt, None for no such field.
    """

    def __init__(
        self,
        call: Call,
        tokenizer: TextTokenizer,
        *,
        echoes: Sequence[str] = (),
        best_of: int = 0,
        num_logprobs: int = 0,
        prompt_logprobs: int | None = None,
    ) -> None:
        self._call, self._tokenizer, self._echoes = call, tokenizer, echoes
        self._num_logprobs, self._prompt_logprobs = num_logprobs, prompt_logprobs
        self._made = best_of or call.num_choices
        self._usage = Usage(call.prompt_tokens, self._made)
        self._positions = Positions(call.total_choices)
        starts = [len(echo) for echo in echoes] or [0] * len(call.prompt_ids)
        self._offsets = [start for start in starts for _ in range(self._made)]
        self._begun: set[int] = set()
        self._columns: dict[int, dict[str, list[Any]]] = {}  # of each prompt's tokens, for ``logprobs``
        self._entries: dict[int, list[dict[str, Any] | None]] = {}  # of each prompt, for ``prompt_logprobs``
        # The usual chunk is put together from these without building a dict.
        self._head = orjson.dumps(call.head("text_completion"))[:-1] + b',"choices":[{"index":'
        self._tail = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]}\n\n'
        self._is_plain = not (call.wants_logprobs or call.return_token_ids or call.continuous_usage)

    async def prepare(self, deltas: list[Delta]) -> None:
        """The prompts' columns and entries; the choices of one have the same ones."""
        for delta in deltas:
            prompt, scores = delta.choice // self._made, delta.prompt_logprobs
            if scores is None or delta.choice in self._begun:
                continue
            ids = self._call.prompt_ids[prompt]
            if self._echoes and self._call.wants_logprobs and prompt not in self._columns:
                num_chars = len(self._echoes[prompt])
                self._columns[prompt] = await echoed_logprobs(
                    self._tokenizer, ids, scores, self._num_logprobs, num_chars
                )
            if self._prompt_logprobs is not None and prompt not in self._entries:
                self._entries[prompt] = await prompt_logprobs(
                    self._tokenizer, ids, scores, self._prompt_logprobs
                )

    def opening(self) -> bytes:
        return b""

    def events(self, deltas: list[Delta]) -> bytes:
        parts: list[bytes] = []
        for delta in deltas:
            self._usage.add(delta)
            self._positions.move(delta)
            is_first = self._begin(delta.choice)
            text = self._echo(delta.choice) + delta.text if is_first else delta.text
            if self._is_plain and delta.finish == RUNNING:
                parts += (self._positions.line(), b"data: ", self._head, b"%d" % delta.choice)
                parts += (b',"text":', orjson.dumps(text), self._tail)
            else:
                parts.append(event(self._positions, self._chunk(delta, text, is_first)))
        return b"".join(parts)

    def closing(self) -> bytes:
        if not self._call.include_usage:
            return b""
        chunk = {**self._call.head("text_completion"), "choices": [], "usage": self._usage.body()}
        return event(self._positions, chunk)

    def body(self, deltas: list[Delta]) -> dict[str, Any]:
        for delta in deltas:
            self._usage.add(delta)
        choices = []
        for prompt in range(len(self._call.prompt_ids)):
            made = [d for d in deltas if d.choice // self._made == prompt]
            if self._made > self._call.num_choices:
                made = sorted(made, key=_mean_logprob, reverse=True)[: self._call.num_choices]
            for i, delta in enumerate(made):
                choice = self._choice(delta, self._echo(delta.choice) + delta.text, is_first=True)
                choices.append({**choice, "index": prompt * self._call.num_choices + i})
        return {**self._call.head("text_completion"), "choices": choices, "usage": self._usage.body()}

    def _begin(self, choice: int) -> bool:
        """Whether this is a choice's first event."""
        if not self._echoes or choice in self._begun:
            return False
        self._begun.add(choice)
        return True

    def _echo(self, choice: int) -> str:
        """The prompt's text before a choice's own, where it is shown."""
        return self._echoes[choice // self._made] if self._echoes else ""

    def _chunk(self, delta: Delta, text: str, is_first: bool) -> dict[str, Any]:
        choice = self._choice(delta, text, is_first=is_first)
        chunk = {**self._call.head("text_completion"), "choices": [choice]}
        if self._call.continuous_usage:
            chunk["usage"] = self._usage.body()
        return chunk

    def _choice(self, delta: Delta, text: str, *, is_first: bool) -> dict[str, Any]:
        logprobs = None
        prompt = delta.choice // self._made
        if self._call.wants_logprobs:
            logprobs, self._offsets[delta.choice] = completion_logprobs(
                self._tokenizer, delta.ids, delta.logprobs, self._offsets[delta.choice]
            )
            if is_first and prompt in self._columns:
                before = self._columns[prompt]
                logprobs = {name: before[name] + column for name, column in logprobs.items()}
        choice: dict[str, Any] = {
            "index": delta.choice,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": FINISH_REASONS[delta.finish],
            "stop_reason": stop_reason(delta, self._call.stop_token_ids),
        }
        if self._call.return_token_ids:
            is_start = delta.num_ids == len(delta.ids)
            choice["token_ids"] = delta.ids
            choice["prompt_token_ids"] = self._call.prompt_ids[prompt] if is_start else None
        if prompt in self._entries:
            choice["prompt_logprobs"] = self._entries[prompt]
        return choice


def _mean_logprob(delta: Delta) -> float:
    values = delta.logprobs.values if delta.logprobs else []
    return sum(values) / len(values) if values else float("-inf")
