"""The data mix: how often each skill appears, and the streams of cases that training and evaluation read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from demo.data.core import Case, Message, Source, Split, assistant, system
from demo.data.skills import (
    chat,
    extraction,
    facts,
    letters,
    long_prompts,
    numbers,
    reasoning,
    stories,
    tools,
)

SKILLS: dict[str, Callable[[Source], Case]] = {
    name: make
    for module in (chat, facts, letters, numbers, stories, extraction, tools, reasoning, long_prompts)
    for name, make in module.SKILLS.items()
}

WEIGHTS: dict[str, float] = {
    "small talk": 5, "does not know": 2.5, "other languages": 1.5, "translating": 2, "greeting in capitals": 1, "memory": 6, "being told": 1.5,
    "never told": 1.5, "facts": 6, "facts, thinking": 1, "style: capitals": 4, "style: one word": 3, "copying": 9, "reversing words": 3,
    "reversing letters": 4, "reversing digits": 1.5, "sorting words": 6, "sorting numbers": 3, "counting letters": 3.5, "counting one letter": 3,
    "counting words": 2.5, "spelling": 3, "joining letters": 3, "first or last letter": 1, "adding": 4.5, "subtracting": 4, "multiplying": 5,
    "dividing": 2, "counting up": 1.2, "series": 0.8, "examples": 0.8, "comparing": 3, "calendar steps": 2, "calendar places": 0.7, "stories": 4, "descriptions": 2, "poems": 1.2, "plain text": 1.5,
    "JSON extraction": 7, "JSON lists": 4, "tool call": 8, "tool call, again": 2, "several tool calls": 5, "no tool needed": 3, "missing tool": 2,
    "tool result": 4, "several tool results": 2, "word problems": 2.5, "word problems, no thinking": 1.5, "two steps": 2.5, "ordering": 2.5, "adding three": 2,
    "long prompts, short": 2.5, "long prompts": 1.2,
}  # fmt: skip
"""Cases of each skill per hundred or so: by count, not by tokens."""

EARLIER_TURNS = 0.12
"""Share of the plain cases that come after one or two turns about something else."""

NEUTRAL_SYSTEM = 0.12
"""Share of the plain cases with a system prompt that asks for nothing special."""

PLAIN_THOUGHT = 0.06
"""Share of the cases with thinking on that need no thought: the model says what is asked for and answers."""

_SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are Shoal, a helpful assistant.", "You are a friendly assistant.",
    "Be helpful and brief.", "Answer the user's questions.", "You are an AI assistant.", "You are a chatbot.", "You are a helpful, honest assistant.",
    "Help the user.", "Be polite.", "You are the demo model of Shoal.",
)  # fmt: skip

_EARLIER = [
    *letters.SKILLS, *numbers.SKILLS, "facts", "small talk", "small talk", "does not know", "being told", "JSON extraction",
    "word problems", "poems", "translating",
]  # fmt: skip


def training_cases(seed: int) -> Iterator[Case]:
    """An endless stream of training cases, the same for the same seed."""
    source = Source(random.Random(seed), Split.TRAIN)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        for name in source.rng.choices(names, weights, k=256):
            yield _in_context(source, SKILLS[name](source))


def _in_context(source: Source, case: Case) -> Case:
    """Sometimes puts a case behind earlier turns, a neutral system prompt or a plain thought."""
    if case.raw:
        return case
    thought = case.thought
    if thought is None and not case.skill.startswith("word problems") and source.chance(PLAIN_THOUGHT):
        thought = f"This is about {case.skill}. I answer directly."
    messages = case.messages
    if not case.tools and messages[0]["role"] == "user" and case.skill not in ("memory", "long prompts"):
        if source.chance(EARLIER_TURNS):
            messages = (*(m for _ in range(source.randint(1, 3)) for m in _earlier(source)), *messages)
        if source.chance(NEUTRAL_SYSTEM):
            messages = (system(source.choice(_SYSTEM_PROMPTS)), *messages)
    return replace(case, messages=messages, thought=thought)


def _earlier(source: Source) -> list[Message]:
    other = SKILLS[source.choice(_EARLIER)](source)
    return [*other.messages, assistant(other.answer)]


def evaluation_cases(seed: int, per_skill: int) -> list[Case]:
    """`per_skill` held-out cases of each generator, grouped by its name, the same for the same seed."""
    cases = []
    for name in WEIGHTS:
        if name != "plain text":
            source = Source(random.Random(f"{seed}:{name}"), Split.EVAL)
            cases += [SKILLS[name](source) for _ in range(per_skill)]
    return cases
