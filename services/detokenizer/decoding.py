"""Token ids to text, one id at a time, never half a character.

Two tables cover nearly all models: byte-level BPE (GPT-2, Llama 3, Qwen) and sentencepiece with byte fallback
(Llama 2, Mistral, Gemma). For these a token's bytes depend on nothing but its id, so decoding is a list look-up
and a few held bytes. Any other tokenizer decodes a short window of ids before and after each new one.

The text of a stream is a function of its ids alone, so any detokenizer gives the same characters at the same
offsets, however the ids were grouped in frames.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from services.common.model_files import FastTokenizer, SlowTokenizer, Tokenizer

REPLACEMENT = "\ufffd"
_METASPACE = "\u2581"
_FALLBACK_STEPS = ["Replace", "ByteFallback", "Fuse"]


class IncrementalDecoder(Protocol):
    """The decoding state of one stream."""

    def push(self, token_id: int) -> str:
        """The text that is certain now: whole characters. Ids that the tokenizer does not know have none."""

    def flush(self) -> str:
        """What was held back, at the end of the stream: U+FFFD for a character that was never completed."""


class Decoding(Protocol):
    """What one tokenizer needs for decoding; shared by all streams."""

    def start(self, prompt_tail: Sequence[int], skip_special_tokens: bool) -> IncrementalDecoder:
        """A stream whose prompt ended with ``prompt_tail``."""


def decoding_of(tokenizer: FastTokenizer | SlowTokenizer) -> Decoding:
    """The fastest decoding that is right for this tokenizer."""
    steps = _decoder_steps(tokenizer.backend) if isinstance(tokenizer, FastTokenizer) else []
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return TableDecoding(*_tables(tokenizer.backend, _byte_level), strips_space=False, per_byte=False)
    if _is_byte_fallback(steps):
        tables = _tables(tokenizer.backend, _byte_fallback)
        return TableDecoding(*tables, strips_space=len(steps) == 4, per_byte=True)
    return WindowDecoding(tokenizer)


class TableDecoding:
    """For tokenizers where an id has its own bytes.

    ``pieces[id]`` are its bytes, ``texts[id]`` the same as text where they are whole characters (else None),
    ``special`` the ids that skip_special_tokens drops. ``strips_space``: a first space of the whole sequence is
    not text. ``per_byte``: broken characters become one U+FFFD for each byte (sentencepiece) instead of one for
    each maximal part (Unicode's recommendation, which byte-level tokenizers follow).
    """

    def __init__(
        self,
        pieces: list[bytes],
        texts: list[str | None],
        special: frozenset[int],
        *,
        strips_space: bool,
        per_byte: bool,
    ) -> None:
        self._pieces, self._texts = pieces, texts
        self._texts_skipping = [None if i in special else text for i, text in enumerate(texts)]
        self._pieces_skipping = [b"" if i in special else piece for i, piece in enumerate(pieces)]
        self._strips_space, self._per_byte = strips_space, per_byte

    def start(self, prompt_tail: Sequence[int], skip_special_tokens: bool) -> TableDecoder:
        pieces = self._pieces_skipping if skip_special_tokens else self._pieces
        texts = self._texts_skipping if skip_special_tokens else self._texts
        strips = self._strips_space and not any(
            pieces[i] for i in prompt_tail if 0 <= i < len(pieces)
        )  # a sequence begins where nothing visible precedes
        return TableDecoder(pieces, texts, strips, self._per_byte)


class TableDecoder:
    __slots__ = ("_is_plain", "_pending", "_per_byte", "_pieces", "_strips", "_texts")

    def __init__(self, pieces: list[bytes], texts: list[str | None], strips: bool, per_byte: bool) -> None:
        self._pieces, self._texts, self._strips, self._per_byte = pieces, texts, strips, per_byte
        self._pending = b""  # the beginning of a character
        self._is_plain = not strips  # nothing pending, nothing to strip: the table has the answer

    def push(self, token_id: int) -> str:
        if not 0 <= token_id < len(self._texts):
            return ""
        text = self._texts[token_id]
        if text is not None and self._is_plain:
            return text
        return self._push_bytes(self._pieces[token_id])

    def _push_bytes(self, piece: bytes) -> str:
        text, self._pending = decode_prefix(self._pending + piece, self._per_byte)
        return self._strip(text)

    def flush(self) -> str:
        text = REPLACEMENT * (len(self._pending) if self._per_byte else bool(self._pending))
        self._pending = b""
        return self._strip(text)

    def _strip(self, text: str) -> str:
        if self._strips and text:
            self._strips = False
            text = text.removeprefix(" ")
        self._is_plain = not self._strips and not self._pending
        return text


def decode_prefix(data: bytes, per_byte: bool) -> tuple[str, bytes]:
    """UTF-8 up to the last whole character, and the rest: at most 3 bytes that may still become one.

    Broken parts become U+FFFD: one for each maximal part, as ``bytes.decode(errors="replace")`` has it, or with
    ``per_byte`` one for each byte of it.
    """
    if not per_byte:
        text, used = codecs.utf_8_decode(data, "replace", False)
        return text, data[used:]
    parts: list[str] = []
    while True:
        try:
            text, used = codecs.utf_8_decode(data, "strict", False)
            return "".join([*parts, text]), data[used:]
        except UnicodeDecodeError as error:
            parts += [data[: error.start].decode(), REPLACEMENT * (error.end - error.start)]
            data = data[error.end :]


class WindowDecoding:
    """For any tokenizer: decodes a few ids before the new ones with and without them; the rest is new text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def start(self, prompt_tail: Sequence[int], skip_special_tokens: bool) -> WindowDecoder:
        def decode(ids: Sequence[int]) -> str:
            return self._tokenizer.decode(ids, skip_special_tokens)

        return WindowDecoder(decode, prompt_tail)


# Ids whose text ends in U+FFFD and may still become a character. A character has at most 4 bytes, so after
# this many the tokenizer means what it says.
MAX_HELD_IDS = 8
# Ids before the new ones that give context, where they have no text themselves (special tokens).
MAX_CONTEXT_IDS = 64


class WindowDecoder:
    __slots__ = ("_context", "_decode", "_ids")

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(context)
        self._context = len(self._ids)  # ids whose text was emitted

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        before, text = self._decode(self._ids[: self._context]), self._decode(self._ids)
        if text.endswith(REPLACEMENT) and len(self._ids) - self._context < MAX_HELD_IDS:
            return ""
        return self._take(before, text)

    def flush(self) -> str:
        if self._context == len(self._ids):
            return ""
        return self._take(self._decode(self._ids[: self._context]), self._decode(self._ids))

    def _take(self, before: str, text: str) -> str:
        new = text[len(before) :]
        if new or len(self._ids) > MAX_CONTEXT_IDS:
            self._ids = self._ids[self._context :]
        self._context = len(self._ids)
        return new


def _decoder_steps(backend: Any) -> list[dict[str, Any]]:
    """The tokenizer's decoder as its file describes it, with sequences laid flat."""
    decoder = backend.decoder
    if decoder is None:
        return []
    state = json.loads(decoder.__getstate__())
    return state["decoders"] if state["type"] == "Sequence" else [state]


def _is_byte_fallback(steps: list[dict[str, Any]]) -> bool:
    """Metaspace to space, bytes joined, and perhaps one leading space stripped."""
    if [step["type"] for step in steps] not in (_FALLBACK_STEPS, [*_FALLBACK_STEPS, "Strip"]):
        return False
    replaced = (steps[0]["pattern"], steps[0]["content"]) == ({"String": _METASPACE}, " ")
    strip = steps[3] if len(steps) == 4 else {"content": " ", "start": 1, "stop": 0}
    return replaced and (strip["content"], strip["start"], strip["stop"]) == (" ", 1, 0)


def _tables(
    backend: Any, to_bytes: Callable[[str], bytes]
) -> tuple[list[bytes], list[str | None], frozenset[int]]:
    vocabulary = backend.get_vocab(with_added_tokens=True)
    special_words = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    pieces: list[bytes] = []
    texts: list[str | None] = []
    special: set[int] = set()
    for token_id in range(max(vocabulary.values(), default=-1) + 1):
        word = backend.id_to_token(token_id)
        piece = b"" if word is None else to_bytes(word)
        if word in special_words:
            special.add(token_id)
        pieces.append(piece)
        try:
            # An empty piece must not end a character that is pending: it goes the slow way.
            texts.append(piece.decode() if piece else None)
        except UnicodeDecodeError:
            texts.append(None)
    return pieces, texts, frozenset(special)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's names of the 256 bytes: printable Latin-1 characters stand for themselves, others follow U+00FF."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _byte_level(word: str) -> bytes:
    try:
        return bytes([_BYTES[c] for c in word])
    except KeyError:
        return word.encode()  # an added token that was never in the byte alphabet


def _byte_fallback(word: str) -> bytes:
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        try:
            return bytes([int(word[3:5], 16)])
        except ValueError:
            pass
    return word.replace(_METASPACE, " ").encode()
