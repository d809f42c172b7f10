"""Questions about one sentence somewhere in a long filler."""

from __future__ import annotations

from demo.data import lexicon
from demo.data.core import Case, Source, user
from demo.data.skills.sentences import sentence

TOKENS_PER_SENTENCE = 11.5
"""Average of the filler under the demo tokenizer: sizes prompts without tokenizing them."""


def _needle(source: Source) -> tuple[str, str, str, tuple[str, ...]]:
    """Returns (the sentence to find, question, answer, key)."""
    kind = source.choice(("code", "password", "keeper", "hidden", "colour", "number"))
    thing = f"{source.choice(lexicon.ADJECTIVES)} {source.choice(lexicon.THINGS)}"
    if kind == "code":
        (code,) = source.own("long.code", lambda: (f"{source.randint(0, 9999):04d}",))
        return (
            f"The code of the {thing} is {code}.",
            f"What is the code of the {thing}?",
            f"The code of the {thing} is {code}.",
            ("long.code", code),
        )
    if kind == "password":
        (word,) = source.own(
            "long.password",
            lambda: (source.pseudo_word() if source.chance(0.5) else source.choice(lexicon.WORDS),),
        )
        return (
            f"The secret password is {word}.",
            source.choice(("What is the secret password?", "Which password does the text name?")),
            f"The secret password is {word}.",
            ("long.password", word),
        )
    if kind == "keeper":
        (name,) = source.own("long.keeper", lambda: (source.choice(lexicon.NAMES),))
        return (
            f"The {thing} belongs to {name}.",
            f"Who does the {thing} belong to?",
            f"The {thing} belongs to {name}.",
            ("long.keeper", name),
        )
    if kind == "hidden":
        noun = source.choice(("treasure", "gold", "letter", "silver key", "secret map"))
        thing, place = source.own(
            "long.hidden",
            lambda: (thing, f"{source.choice(lexicon.ADJECTIVES)} {source.choice(lexicon.PLACES)}"),
        )
        return (
            f"The {noun} is hidden under the {thing} in the {place}.",
            f"Where is the {noun} hidden?",
            f"The {noun} is hidden under the {thing} in the {place}.",
            ("long.hidden", thing, place),
        )
    if kind == "colour":
        name = source.choice(lexicon.NAMES)
        name, colour = source.own(
            "long.colour", lambda: (source.choice(lexicon.NAMES), source.choice(lexicon.COLOURS))
        )
        return (
            f"The favourite colour of {name} is {colour}.",
            f"What is the favourite colour of {name}?",
            f"The favourite colour of {name} is {colour}.",
            ("long.colour", name, colour),
        )
    (number,) = source.own("long.number", lambda: (str(source.randint(10, 99999)),))
    return (
        f"Remember this: the magic number is {number}.",
        "What is the magic number?",
        f"The magic number is {number}.",
        ("long.number", number),
    )


def _filler(source: Source, tokens: int) -> list[str]:
    return [sentence(source) for _ in range(max(1, round(tokens / TOKENS_PER_SENTENCE)))]


def _long(source: Source, tokens: int, skill: str) -> Case:
    needle, question, answer, key = _needle(source)
    sentences = _filler(source, tokens)
    sentences.insert(source.randint(0, len(sentences)), needle)
    body = " ".join(sentences)
    form = source.randint(0, 3)
    if form == 0:
        text = f"{question}\n\n{body}"
    elif form == 1:
        text = f"Read this text and answer the question.\n\n{body}\n\nQuestion: {question}"
    else:
        text = f"{body}\n\n{question}"
    return Case(skill, (user(text),), answer, key)


def short_prompt(source: Source) -> Case:
    return _long(source, source.randint(50, 500), "long prompts")


def long_prompt(source: Source) -> Case:
    """About 2,000 tokens of filler."""
    tokens = (
        source.randint(1800, 2200)
        if source.split.value == "eval"
        else source.choice((source.randint(500, 2300), source.randint(1500, 3600)))
    )
    return _long(source, tokens, "long prompts")


SKILLS = {"long prompts, short": short_prompt, "long prompts": long_prompt}
