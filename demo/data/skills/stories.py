"""Short stories and descriptions from a grammar.

Each sentence slot has many forms and each form several free words, so that a model trained on it learns to write
on rather than to recite: two stories practically never agree in a paragraph.
"""

from __future__ import annotations

from demo.data import lexicon
from demo.data.core import Case, Source, ask
from demo.data.skills.sentences import article
from demo.data.skills.story_parts import (
    ENCOUNTERS,
    ENDINGS,
    JOURNEYS,
    MIDDLES,
    OPENINGS,
    POEM_LINES,
    PROBLEMS,
    SCENES,
    SENSES,
    SOLUTIONS,
    TRAITS,
)


class _Words(dict[str, str]):
    """Fills a form: the story's fixed cast by name, everything else drawn anew at each use."""

    def __init__(self, source: Source, cast: dict[str, str]) -> None:
        super().__init__(cast)
        self._source = source
        self.used: set[str] = set()

    def __missing__(self, slot: str) -> str:
        word = self._source.choice(_SLOTS[slot.removeprefix("a_")])
        return article(word) if slot.startswith("a_") else word


_SLOTS = {
    "adjective": lexicon.ADJECTIVES,
    "thing": lexicon.THINGS,
    "place": lexicon.PLACES,
    "nature": lexicon.NATURE,
    "food": lexicon.FOODS,
    "animal": lexicon.ANIMALS,
    "colour": lexicon.COLOURS,
    "job": lexicon.JOBS,
    "abstract": lexicon.ABSTRACT,
    "weather": [
        "a cold wind",
        "a soft rain",
        "a warm breeze",
        "thick fog",
        "bright sunshine",
        "a light snow",
        "a summer storm",
        "a grey mist",
        "a clear sky",
    ],
    "time": [
        "morning",
        "evening",
        "night",
        "afternoon",
        "winter",
        "spring",
        "summer",
        "autumn",
        "day",
        "week",
    ],
    "number": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"],
}


def _cast(source: Source, hero: str | None = None) -> dict[str, str]:
    names = source.sample(lexicon.NAMES, 2)
    female = source.chance(0.5)
    animal = hero if hero in _ANIMALS else None
    kind = animal or (hero if hero else source.choice((*lexicon.ANIMALS, *lexicon.JOBS)))
    return {
        "hero": names[0], "friend": names[1], "kind": kind, "a_kind": article(kind),
        "friendkind": source.choice((*lexicon.ANIMALS, *lexicon.JOBS)),
        "he": "she" if female else "he", "He": "She" if female else "He",
        "his": "her" if female else "his", "His_": "Her" if female else "His", "him": "her" if female else "him",
        "home": source.choice(lexicon.PLACES), "goal": source.choice(lexicon.THINGS), "far": source.choice(lexicon.PLACES),
        "trait": (trait := source.choice(lexicon.ADJECTIVES)), "a_trait": article(trait),
    }  # fmt: skip


_ANIMALS = frozenset(lexicon.ANIMALS)


def _tell(source: Source, words: _Words, forms: tuple[str, ...], count: int) -> str:
    """`count` sentences from forms that this text has not used yet."""
    fresh = [form for form in forms if form not in words.used]
    chosen = source.sample(fresh, min(count, len(fresh)))
    words.used.update(chosen)
    return " ".join(_capital(form.format_map(words)) for form in chosen)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def story_text(source: Source, hero: str | None = None, long: bool | None = None) -> str:
    """A story of three to six paragraphs, about 120 to 450 tokens."""
    words = _Words(source, _cast(source, hero))
    rounds = source.randint(2, 4) if (source.chance(0.5) if long is None else long) else 1
    parts = [_tell(source, words, OPENINGS, 1) + " " + _tell(source, words, TRAITS, source.randint(1, 3))]
    parts.append(
        _tell(source, words, PROBLEMS, 1) + " " + _tell(source, words, MIDDLES, source.randint(1, 2))
    )
    for _ in range(rounds):
        parts.append(
            _tell(source, words, JOURNEYS, source.randint(1, 2))
            + " "
            + _tell(source, words, SENSES, source.randint(1, 2))
        )
        parts.append(
            _tell(source, words, ENCOUNTERS, source.randint(1, 2)) + " " + _tell(source, words, MIDDLES, 1)
        )
    parts.append(
        _tell(source, words, SOLUTIONS, source.randint(1, 2))
        + " "
        + _tell(source, words, ENDINGS, source.randint(1, 2))
    )
    return "\n\n".join(parts)


def description_text(source: Source, place: str | None = None) -> str:
    """One to three paragraphs about a place, about 60 to 250 tokens."""
    words = _Words(source, {**_cast(source), "home": place or source.choice(lexicon.PLACES)})
    paragraphs = source.randint(1, 3)
    parts = [
        _tell(source, words, SCENES, source.randint(2, 4))
        + " "
        + _tell(source, words, SENSES, source.randint(1, 3))
        for _ in range(paragraphs)
    ]
    return "\n\n".join(parts)


_STORY_ASK = ("Tell me a story about {}.", "Write a short story about {}.", "Write a story about {}.", "Can you tell a story about {}?",
              "I would like a story about {}.", "Make up a story about {}.", "Please tell me a tale about {}.")  # fmt: skip
_ANY_STORY = ("Tell me a story.", "Write a story.", "Tell me a short story.", "Write me a story, please.", "I want to hear a story.",
              "Once upon a time", "Make up a story for me.", "Tell me something nice.", "Please tell a story.", "Tell a tale.")  # fmt: skip
_LONG_ASK = (
    "Tell me a long story about {}.",
    "Write a long story about {}.",
    "Please write a long tale about {}.",
)
_DESCRIBE = ("Describe {}.", "Describe {} to me.", "Write a description of {}.", "What does {} look like?", "Can you describe {}?",
             "Paint me a picture of {} in words.")  # fmt: skip


def _hero(source: Source) -> str:
    if source.chance(0.1):
        return source.pseudo_word(2)
    return source.choice(source.choice((lexicon.ANIMALS, lexicon.JOBS, lexicon.HEROES)))


def story(source: Source) -> Case:
    roll = source.rng.random()
    if roll < 0.25:
        form = source.choice(_ANY_STORY)
        return ask("stories", source.casual(form), story_text(source), ("story", "any"))
    (hero,) = source.own("story", lambda: (_hero(source),))
    long = source.chance(0.4)
    subject = f"{source.choice(('a', 'the', 'a little', 'a brave'))} {hero}"
    if subject.startswith("a ") and hero[0] in "aeiou":
        subject = f"an {hero}"
    question = source.choice(_LONG_ASK if long else _STORY_ASK).format(subject)
    return ask(
        "stories", source.casual(question), story_text(source, hero, True if long else None), ("story", hero)
    )


def description(source: Source) -> Case:
    (place,) = source.own("description", lambda: (source.choice(lexicon.PLACES),))
    subject = f"{source.choice(('the', 'a', 'an old'))} {place}"
    if subject.startswith("a ") and place[0] in "aeiou":
        subject = f"an {place}"
    return ask(
        "stories",
        source.casual(source.choice(_DESCRIBE).format(subject)),
        description_text(source, place),
        ("description", place),
    )


def poem(source: Source) -> Case:
    """Four to eight lines without rhyme."""
    (topic,) = source.own(
        "poem",
        lambda: (source.choice((*lexicon.NATURE, *lexicon.ANIMALS, *lexicon.THINGS, *lexicon.ABSTRACT)),),
    )
    words = _Words(source, {"topic": topic})
    lines = [
        _capital(form.format_map(words)) for form in source.sample(POEM_LINES, source.choice((4, 4, 6, 8)))
    ]
    question = source.choice(_POEM_ASK).format(f"{source.choice(('the ', '', 'a '))}{topic}")
    return ask("stories", source.casual(question), "\n".join(lines).rstrip(",") + ".", ("poem", topic))


_POEM_ASK = ("Write a poem about {}.", "Tell me a poem about {}.", "Can you write a poem about {}?", "A poem about {}, please.",
             "Make a short poem about {}.", "Write a haiku about {}.", "Write some lines about {}.")  # fmt: skip


def plain_text(source: Source) -> Case:
    """A document without chat markup, so that `/v1/completions` of an opening line goes on in English."""
    text = story_text(source) if source.chance(0.7) else description_text(source)
    return Case("plain text", (), text, ("plain",), raw=True)


SKILLS = {"stories": story, "descriptions": description, "poems": poem, "plain text": plain_text}
