"""Single English sentences: filler for long prompts, material for copying and counting."""

from __future__ import annotations

from demo.data import lexicon
from demo.data.core import Source
from demo.data.lexicon import words

_TIMES = (
    "In the morning", "At noon", "In the evening", "At night", "On Monday", "On Sunday", "In spring", "In winter", "After the rain",
    "Before sunrise", "Last week", "Every day", "Once a year", "Long ago", "Yesterday", "Early in the day", "Late in the day",
)  # fmt: skip
_MANNERS = words("""
quietly slowly quickly happily carefully gently proudly softly calmly eagerly patiently bravely
""")
_VERB_PAST = words("""
walked ran waited slept sang danced played worked rested looked listened talked smiled stood sat laughed
jumped cooked wrote read
""")
_VERB_OBJECT = words("""
found carried painted repaired cleaned bought sold lost hid moved opened closed watched drew washed lifted
borrowed fixed
""")


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def being(source: Source) -> str:
    """Someone who acts: a person by job, an animal or a name."""
    kind = source.randint(0, 2)
    if kind == 0:
        return source.choice(lexicon.NAMES)
    noun = source.choice(lexicon.JOBS if kind == 1 else lexicon.ANIMALS)
    return f"the {source.choice(lexicon.ADJECTIVES)} {noun}" if source.chance(0.5) else f"the {noun}"


def _clause(source: Source) -> str:
    who = being(source)
    kind = source.randint(0, 3)
    place = f"{source.choice(('in', 'near', 'behind', 'outside'))} the {source.choice(lexicon.PLACES)}"
    if kind == 0:
        return f"{who} {source.choice(_VERB_PAST)} {place}"
    if kind == 1:
        return f"{who} {source.choice(_VERB_OBJECT)} the {source.choice(lexicon.ADJECTIVES)} {source.choice(lexicon.THINGS)}"
    if kind == 2:
        return f"{who} {source.choice(_VERB_PAST)} {source.choice(_MANNERS)} {place}"
    return f"{who} {source.choice(_VERB_OBJECT)} {article(source.choice(lexicon.THINGS))} {place}"


def sentence(source: Source, plain: bool = False) -> str:
    """One sentence with its full stop; `plain` keeps to short ones without commas."""
    text = _clause(source)
    if not plain:
        kind = source.randint(0, 5)
        if kind == 0:
            text = f"{source.choice(_TIMES)}, {text}"
        elif kind == 1:
            text = f"{text}, and {_clause(source)}"
        elif kind == 2:
            text = f"{text} while {_clause(source)}"
        elif kind == 3:
            noun = source.choice((*lexicon.THINGS, *lexicon.ANIMALS))
            text = (
                f"the {noun} {source.choice(('was', 'seemed', 'looked'))} {source.choice(lexicon.ADJECTIVES)}"
            )
    return f"{text[0].upper()}{text[1:]}."
