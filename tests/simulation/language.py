"""The language that simulated models speak: ids, their bytes, and what a stream of them must read like.

Some ids are lone bytes of longer characters, so texts have incomplete and broken characters everywhere. The
expected text is worked out from the whole, and shares no code with the detokenizer.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.messages.frames import LENGTH, STOP
from services.detokenizer.decoding import TableDecoding

PIECES: tuple[bytes, ...] = (
    *(bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz .,\n"),
    *(b" " + word for word in (b"the", b"and", b"of", b"to", b"in", b"it", b"is", b"a")),
    *("é ß 世 界 😀".encode().split()),
    *(bytes([b]) for b in (0xF0, 0x9F, 0x98, 0x80, 0xE4, 0xB8, 0x96, 0xC3, 0xA9, 0xFF)),
)
VOCAB_SIZE = len(PIECES)
STOP_STRINGS = (".", "a", "the", "is", "世界", "😀", "\n", "e i", "\ufffd\ufffd")


def decoding() -> TableDecoding:
    texts: list[str | None] = []
    for piece in PIECES:
        try:
            texts.append(piece.decode())
        except UnicodeDecodeError:
            texts.append(None)
    return TableDecoding(list(PIECES), texts, frozenset(), strips_space=False, per_byte=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a client must have read of one choice at its end."""

    ids: tuple[int, ...]
    text: str
    finish: int
    stop_reason: int | str | None


def expected_output(
    ids: Sequence[int], *, stop_ids: Sequence[int], stop: Sequence[str], include_stop: bool, min_tokens: int
) -> Expected:
    """The output of a model that draws ``ids``: cut by its stop strings, or ended by its last id.

    ``ids`` ends with a stop id, or at max_tokens. Stop strings that are complete before ``min_tokens`` are text.
    """
    ends_by_id = bool(ids) and ids[-1] in stop_ids
    shown = ids if include_stop or not ends_by_id else ids[:-1]
    passed = 0  # characters of earlier ids: what ends there was allowed to pass
    whole = b""
    for count, token in enumerate(shown if stop else (), start=1):
        whole += PIECES[token]
        text, _ = codecs.utf_8_decode(whole, "replace", False)
        places = [(text.find(s, max(0, passed + 1 - len(s))), len(s), s) for s in stop]
        found = [place for place in places if place[0] >= 0]
        if found and count >= min_tokens:
            at, size, string = min(found)
            return Expected(tuple(ids[:count]), text[: at + size if include_stop else at], STOP, string)
        passed = len(text)
    text = b"".join(PIECES[i] for i in shown).decode(errors="replace")
    finish, reason = (STOP, ids[-1]) if ends_by_id else (LENGTH, None)
    return Expected(tuple(ids), text, finish, reason)
