"""From a case to the text and the token ids that the model sees: the chat template, applied as servers apply it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from demo.data.core import Case

TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")
MODEL_DIR = Path(__file__).with_name("model")


class Renderer:
    """Applies the chat template in a plain jinja2 sandbox."""

    def __init__(self, template: str | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template = environment.from_string(template or TEMPLATE_PATH.read_text())

    def prompt(
        self, messages: Iterable[dict[str, Any]], tools: Iterable[dict[str, Any]] = (), thinking: bool = False
    ) -> str:
        """The prompt up to where the model goes on."""
        return self._template.render(
            messages=list(messages), tools=list(tools), add_generation_prompt=True, enable_thinking=thinking
        )

    def render(self, case: Case) -> tuple[str, str]:
        """(prompt, completion) of a case, the end token included."""
        if case.raw:
            return "", case.answer + "<|endoftext|>"
        prompt = self.prompt(case.messages, case.tools, case.thought is not None)
        thought = "" if case.thought is None else f"<think>\n{case.thought}\n</think>\n\n"
        return prompt, f"{thought}{case.answer}<|im_end|>"


class Encoder:
    """Turns cases into token ids and a mask of the ids that the loss counts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer()
        self._end = tokenizer.token_to_id("<|im_end|>")
        self._think = tokenizer.token_to_id("<think>")
        self._header = tokenizer.encode("<|im_start|>assistant\n").ids

    def encode(self, cases: list[Case]) -> Iterator[tuple[list[int], list[bool]]]:
        """Yields (ids, is_target) per case; is_target[i] says that ids[i] is to be predicted."""
        texts = [text for case in cases for text in self._renderer.render(case)]
        encodings = self._tokenizer.encode_batch_fast(texts)
        for prompt, completion in zip(encodings[::2], encodings[1::2], strict=True):
            head, tail = prompt.ids, completion.ids
            yield head + tail, self._earlier_answers(head) + [True] * len(tail)

    def _earlier_answers(self, ids: list[int]) -> list[bool]:
        """Marks the answers of earlier turns, each but for its first token.

        The first one is left out because in the history an answer follows the header directly, where a prompt with
        thinking on must be followed by a think block.
        """
        mask = [False] * len(ids)
        start, first, last = self._header[0], len(self._header), len(ids) - len(self._header)
        for i in range(last):
            if ids[i] == start and ids[i : i + first] == self._header and ids[i + first] != self._think:
                j = i + first + 1
                while j < len(ids) and ids[j - 1] != self._end:
                    mask[j] = True
                    j += 1
        return mask


def pack(
    documents: Iterable[tuple[list[int], list[bool]]], rows: int, length: int, open_rows: int = 6
) -> dict[str, np.ndarray]:
    """Packs whole documents into `rows` rows of `length` tokens.

    Returns `ids` (uint16), `document` (int16: which document of its row a token belongs to, rising; padding is a
    document of its own) and `target` (bool), each [rows, length].
    """
    ids = np.zeros((rows, length), np.uint16)
    target = np.zeros((rows, length), bool)
    document = np.zeros((rows, length), np.int16)
    fill, count = [0] * rows, [0] * rows
    first = 0  # rows before it are full
    for tokens, mask in documents:
        size = len(tokens)
        if size > length:
            continue
        row = next((r for r in range(first, min(first + open_rows, rows)) if fill[r] + size <= length), None)
        if row is None:
            first += 1
            if first + open_rows > rows:
                break
            row = first + open_rows - 1
        begin, end = fill[row], fill[row] + size
        ids[row, begin:end], target[row, begin:end], document[row, begin:end] = tokens, mask, count[row]
        fill[row], count[row] = end, count[row] + 1
    for row in range(rows):
        document[row, fill[row] :] = count[row]
    return {"ids": ids, "document": document, "target": target}
