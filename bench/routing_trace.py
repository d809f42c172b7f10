"""Traces for bench/routing_replay.py: synthetic multi-turn chats, and JSON lines."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MOONCAKE_BLOCK = 512  # tokens that one of its hash_ids stands for


@dataclass(slots=True)
class Turn:
    """One request. Its session's next turn starts ``think_s`` after this one's last token."""

    prompt_ids: list[int]
    num_output: int
    tenant: str = ""
    at_s: float = 0.0  # of a session's first turn
    think_s: float = 0.0


Session = list[Turn]


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Synthetic chats: sessions share a few system prompts, each turn resends the whole history."""

    num_sessions: int = 240
    sessions_per_s: float = 4.0
    num_system_prompts: int = 12
    system_tokens: tuple[int, int] = (200, 3000)
    user_tokens: tuple[int, int] = (20, 600)
    output_tokens: tuple[int, int] = (30, 400)
    turns: tuple[int, int] = (1, 8)
    think_s: tuple[float, float] = (2.0, 20.0)


@dataclass(slots=True)
class _Ids:
    """Token ids that nobody used before, where new text begins."""

    rng: random.Random
    vocabulary: int = 128_000
    made: int = field(default=0)

    def draw(self, low_high: tuple[int, int]) -> list[int]:
        count = self.rng.randint(*low_high)
        self.made += count
        return [self.rng.randrange(self.vocabulary) for _ in range(count)]


def chat_trace(shape: ChatShape, seed: int) -> list[Session]:
    rng = random.Random(seed)
    ids = _Ids(rng)
    systems = [ids.draw(shape.system_tokens) for _ in range(shape.num_system_prompts)]
    popularity = [1 / (rank + 1) for rank in range(len(systems))]  # Zipf
    sessions: list[Session] = []
    at_s = 0.0
    for _ in range(shape.num_sessions):
        at_s += rng.expovariate(shape.sessions_per_s)
        history = list(rng.choices(systems, popularity)[0])
        session: Session = []
        for _ in range(rng.randint(*shape.turns)):
            history = history + ids.draw(shape.user_tokens)
            answer = ids.draw(shape.output_tokens)
            session.append(Turn(history, len(answer), at_s=at_s, think_s=rng.uniform(*shape.think_s)))
            history = history + answer
        sessions.append(session)
    return sessions


def read_trace(path: Path) -> list[Session]:
    """One JSON object a line, each a session of one turn.

    ``{"at_s": 1.5, "prompt_ids": [...], "output_tokens": 50, "tenant": "a"}``, or the form of the published
    Mooncake traces: ``{"timestamp": ms, "input_length": n, "output_length": m, "hash_ids": [...]}``, where equal
    hash ids stand for equal runs of 512 tokens. Raises ValueError naming the line.
    """
    sessions: list[Session] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            sessions.append([_turn(json.loads(line))])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: {error!r}") from None
    return sessions


def _turn(record: dict) -> Turn:
    if "hash_ids" not in record:
        return Turn(
            list(record["prompt_ids"]),
            int(record["output_tokens"]),
            str(record.get("tenant", "")),
            float(record["at_s"]),
        )
    ids = _expand(record["hash_ids"])[: int(record["input_length"])]
    return Turn(ids, int(record["output_length"]), "", float(record["timestamp"]) / 1000)


def _expand(hash_ids: Iterable[int]) -> list[int]:
    return [int(name) % 2**30 for name in hash_ids for _ in range(MOONCAKE_BLOCK)]
