"""What a generated case is, and how values are split between training and evaluation."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from demo.data.lexicon import words

Message = dict[str, Any]

HELD_OUT_OF_256 = 32
"""One value in eight belongs to the evaluation."""


def is_held_out(space: str, *value: object) -> bool:
    """Whether this value of this value space is the evaluation's. A hash decides, so no list can drift."""
    key = "\x1f".join((space, *map(str, value))).encode()
    return hashlib.blake2b(key, digest_size=1).digest()[0] < HELD_OUT_OF_256


class Split(Enum):
    """Training and evaluation own disjoint parts of every value space."""

    TRAIN = "train"
    EVAL = "eval"

    def owns(self, space: str, *value: object) -> bool:
        return is_held_out(space, *value) == (self is Split.EVAL)


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt and the answer that the model should give.

    `messages` end with the turn to be answered; `answer` is the text the model emits, tool-call markup included,
    reasoning excluded. `thought` is the text inside the think block, None where thinking is off. `key` is the value
    that decides the split. `accepted` are further answers that count as right.
    """

    skill: str
    messages: tuple[Message, ...]
    answer: str
    key: tuple[str, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thought: str | None = None
    accepted: tuple[str, ...] = field(default=())
    raw: bool = False
    """True for plain text without chat markup: the prompt is empty and `answer` is the document."""


class Source:
    """A random stream bound to one split: every choice of a case goes through it."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self.choice = rng.choice
        self.randint = rng.randint
        self.sample = rng.sample

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def own(self, space: str, make: Callable[[], Sequence[object]]) -> tuple[Any, ...]:
        """Draws from `make` until the value belongs to this split."""
        while True:
            value = tuple(make())
            if self.split.owns(space, *value):
                return value

    def pseudo_word(self, syllables: int = 0) -> str:
        """A pronounceable word that no dictionary holds, 1 to 3 syllables unless told."""
        count = syllables or self.randint(1, 3)
        parts = [self.choice(_ONSETS) + self.choice(_VOWELS) for _ in range(count)]
        return "".join(parts) + self.choice(_CODAS)

    def casual(self, text: str) -> str:
        """Sometimes drops the capital or the closing mark, as people typing into a chat do."""
        roll = self.rng.random()
        if roll < 0.08:
            return text[0].lower() + text[1:]
        if roll < 0.16 and text[-1] in ".?!":
            return text[:-1]
        if roll < 0.22 and text[-1] in ".?!":
            return text[0].lower() + text[1:-1]
        return text


_ONSETS = words("""
b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr kr pl pr sh sk sl sn sp st str th tr
""")
_VOWELS = words("a e i o u a e i o u ai ea ee oo ou")
_CODAS = ["", "", "", *words("b ck d g k l m n p r s t x nd ng nk rd rk rn rt sh st th")]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def ask(
    skill: str,
    question: str,
    answer: str,
    key: Sequence[object],
    *,
    thought: str | None = None,
    accepted: Sequence[str] = (),
) -> Case:
    """A case of one user turn."""
    return Case(
        skill, (user(question),), answer, tuple(map(str, key)), thought=thought, accepted=tuple(accepted)
    )


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
