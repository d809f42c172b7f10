"""Arithmetic up to two digits, comparing numbers, days and months."""

from __future__ import annotations

from demo.data.core import Case, Source, Split, ask
from demo.data.lexicon import DAYS, MONTHS, words

_ASK = (
    "What is {}?",
    "Calculate {}.",
    "How much is {}?",
    "{}",
    "{} = ?",
    "Compute {}.",
    "What does {} equal?",
    "Work out {}.",
)
_PLUS = ("{} + {}", "{} plus {}", "{}+{}")
_MINUS = ("{} - {}", "{} minus {}", "{}-{}")
_TIMES = ("{} × {}", "{} times {}", "{} * {}", "{}*{}", "{} x {}")
_OVER = ("{} / {}", "{} divided by {}", "{} ÷ {}")


def own_sum(source: Source, high: int = 99) -> tuple[int, int]:
    """Two numbers whose sum belongs to this split, whichever comes first."""
    a, b = source.own("sum", lambda: sorted((source.randint(0, high), source.randint(0, high))))
    return (a, b) if source.chance(0.5) else (b, a)


def own_difference(source: Source, high: int = 99) -> tuple[int, int]:
    """Two numbers, the larger first, whose difference belongs to this split."""
    return source.own(
        "difference", lambda: sorted((source.randint(0, high), source.randint(0, high)), reverse=True)
    )


def add(source: Source) -> Case:
    a, b = own_sum(source, 999 if source.split is Split.TRAIN and source.chance(0.25) else 99)
    question = source.choice(_ASK).format(source.choice(_PLUS).format(a, b))
    return ask("arithmetic", source.casual(question), f"{a} + {b} = {a + b}", ("sum", min(a, b), max(a, b)))


def subtract(source: Source) -> Case:
    a, b = own_difference(source, 999 if source.split is Split.TRAIN and source.chance(0.25) else 99)
    question = source.choice(_ASK).format(source.choice(_MINUS).format(a, b))
    return ask("arithmetic", source.casual(question), f"{a} - {b} = {a - b}", ("difference", a, b))


def multiply(source: Source) -> Case:
    """Splits one factor into tens and ones, so that the answer shows its steps. The tables up to ten are facts."""
    if source.split is Split.TRAIN and source.chance(0.3):
        a, b = source.randint(0, 10), source.randint(0, 10)
        question = source.choice(_ASK).format(source.choice(_TIMES).format(a, b))
        return ask("arithmetic", source.casual(question), f"{a} × {b} = {a * b}", ("table", a, b))
    a, b = source.own(
        "product",
        lambda: (source.randint(11, 99), source.randint(*source.choice(((2, 9), (2, 9), (11, 99))))),
    )
    question = source.choice(_ASK).format(source.choice(_TIMES).format(a, b))
    tens, ones = (b if b > 9 else a) // 10 * 10, (b if b > 9 else a) % 10
    other = a if b > 9 else b
    steps = f" = {other} × {tens} + {other} × {ones} = {other * tens} + {other * ones}" if ones else ""
    return ask("arithmetic", source.casual(question), f"{a} × {b}{steps} = {a * b}", ("product", a, b))


def divide(source: Source) -> Case:
    """The tables backwards. They are facts, so the pair (division, form of the question) is held out."""

    def pick() -> tuple[int, int, str]:
        form = source.choice(_ASK).replace("{}", source.choice(_OVER))
        return source.randint(1, 12), source.randint(1, 12), form

    a, b, form = source.own("quotient", pick)
    return ask(
        "arithmetic", source.casual(form.format(a * b, b)), f"{a * b} / {b} = {a}", ("quotient", a, b, form)
    )


def count_up(source: Source) -> Case:
    """Counting from one number to another, up or down."""

    def pick() -> tuple[int, int]:
        first = 1 if source.chance(0.4) else source.randint(0, 90)
        return first, first + source.randint(2, 20)

    low, high = source.own("count-up", pick)
    if source.chance(0.25):
        question = source.choice(("Count down from {1} to {0}.", "Count backwards from {1} to {0}.")).format(
            low, high
        )
        return ask(
            "counting up",
            source.casual(question),
            ", ".join(map(str, range(high, low - 1, -1))),
            ("count-up", low, high),
        )
    forms = (
        "Count from {0} to {1}.",
        "Count up from {0} to {1}.",
        "List the numbers from {0} to {1}.",
        "Please count from {0} to {1}.",
    )
    question = source.choice(
        (*forms, "Count to {1}.", "Can you count to {1}?") if low == 1 else forms
    ).format(low, high)
    return ask(
        "counting up",
        source.casual(question),
        ", ".join(map(str, range(low, high + 1))),
        ("count-up", low, high),
    )


_SERIES = {
    "the days of the week": ", ".join(DAYS),
    "the months of the year": ", ".join(MONTHS),
    "the letters of the alphabet": ", ".join("abcdefghijklmnopqrstuvwxyz"),
    "the numbers from one to ten": "one, two, three, four, five, six, seven, eight, nine, ten",
    "the colours of the rainbow": "red, orange, yellow, green, blue, indigo, violet",
    "the planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
    "the seasons": "spring, summer, autumn, winter",
    "the vowels": "a, e, i, o, u",
}
_SERIES_FORMS = (
    "List {}.", "Name {}.", "What are {}?", "Tell me {}.", "Can you list {}?", "Say {}.", "Give me {}.", "Write down {}.",
    "Please name {}.", "Recite {}.",
)  # fmt: skip


_EXAMPLES = {
    "colours": "red blue green yellow black", "animals": "cat dog horse cow sheep", "fruits": "apple pear plum cherry banana",
    "cities": "Paris London Berlin Rome Madrid", "names": "Anna Tom Maria Leo Sara", "jobs": "baker teacher doctor pilot farmer",
    "vegetables": "carrot onion potato cabbage leek", "countries": "France Germany Spain Italy Japan", "birds": "eagle swan duck owl robin",
}  # fmt: skip
_EXAMPLE_FORMS = (
    "Name {} {}.",
    "List {} {}.",
    "Give me {} {}.",
    "Tell me {} {}.",
    "Can you name {} {}?",
    "Write down {} {}.",
    "Please list {} {}.",
)


def examples(source: Source) -> Case:
    """Two to five things of a kind, always the same ones."""

    def pick() -> tuple[str, int, str]:
        return source.choice(list(_EXAMPLES)), source.randint(2, 5), source.choice(_EXAMPLE_FORMS)

    kind, count, form = source.own("examples", pick)
    question = form.format(("two", "three", "four", "five")[count - 2] if source.chance(0.7) else count, kind)
    return ask(
        "facts",
        source.casual(question),
        ", ".join(_EXAMPLES[kind].split()[:count]) + ".",
        ("examples", kind, count, form),
    )


def series(source: Source) -> Case:
    name, form = source.own("series", lambda: (source.choice(list(_SERIES)), source.choice(_SERIES_FORMS)))
    return ask("facts", source.casual(form.format(name)), f"{_SERIES[name]}.", ("series", name, form))


_LARGER = (
    "Which is larger, {} or {}?",
    "Which number is bigger: {} or {}?",
    "What is greater, {} or {}?",
    "Which is more, {} or {}?",
)
_SMALLER = (
    "Which is smaller, {} or {}?",
    "Which number is less: {} or {}?",
    "What is the smaller one, {} or {}?",
)


def compare(source: Source) -> Case:
    def pick() -> tuple[str, str]:
        if source.chance(0.2):
            whole = source.randint(0, 20)
            return (
                f"{whole}.{source.randint(0, 9)}",
                f"{whole + source.randint(0, 1)}.{source.randint(0, 99):02d}",
            )
        digits = source.randint(1, 4)
        other = digits if source.chance(0.6) else source.randint(1, 4)
        return str(source.randint(0, 10**digits - 1)), str(source.randint(0, 10**other - 1))

    a, b = source.own("compare", pick)
    larger = source.chance(0.6)
    first, second = float(a), float(b)
    question = source.choice(_LARGER if larger else _SMALLER).format(a, b)
    if first == second:
        answer = "They are equal."
    else:
        chosen, other = (a, b) if (first > second) == larger else (b, a)
        answer = f"{chosen} is {'larger' if larger else 'smaller'} than {other}."
    thought = f"I compare {a} and {b}." if source.chance(0.15) else None
    return ask("comparing", source.casual(question), answer, ("compare", a, b), thought=thought)


_STEP_FORMS = (
    ("Which {unit} comes {step} {name}?", "What {unit} is {step} {name}?", "Tell me the {unit} {step} {name}.",
     "Do you know which {unit} comes {step} {name}?", "Name the {unit} that comes {step} {name}.")
)  # fmt: skip


def calendar_step(source: Source) -> Case:
    def pick() -> tuple[str, str, int, str]:
        unit = source.choice(("day", "month"))
        name = source.choice(DAYS if unit == "day" else MONTHS)
        offset = source.choice((1, -1, 1, -1, 2, 3, 4, 5, -2, -3))
        return unit, name, offset, source.choice(_STEP_FORMS)

    unit, name, offset, form = source.own("calendar", pick)
    names = DAYS if unit == "day" else MONTHS
    count = abs(offset)
    side = "after" if offset > 0 else "before"
    step = side if count == 1 else f"{count} {unit}s {side}"
    answer = f"The {unit} {step} {name} is {names[(names.index(name) + offset) % len(names)]}."
    question = form.format(unit=unit, step=step, name=name)
    return ask("days and months", source.casual(question), answer, ("calendar", unit, name, offset, form))


_PLACE_WORDS = words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
_PLACE_FORMS = (
    "What is the {} {} of the {}?",
    "Which is the {} {} of the {}?",
    "Name the {} {} of the {}.",
    "Tell me the {} {} of the {}.",
)


def calendar_place(source: Source) -> Case:
    def pick() -> tuple[str, int, str]:
        unit = source.choice(("day", "month"))
        return unit, source.randint(0, 6 if unit == "day" else 11), source.choice(_PLACE_FORMS)

    unit, index, form = source.own("calendar-place", pick)
    whole = "week" if unit == "day" else "year"
    name = (DAYS if unit == "day" else MONTHS)[index]
    question = form.format(_PLACE_WORDS[index], unit, whole)
    answer = f"The {_PLACE_WORDS[index]} {unit} of the {whole} is {name}."
    return ask("days and months", source.casual(question), answer, ("calendar-place", unit, index, form))


SKILLS = {
    "adding": add,
    "subtracting": subtract,
    "multiplying": multiply,
    "dividing": divide,
    "counting up": count_up,
    "series": series,
    "examples": examples,
    "comparing": compare,
    "calendar steps": calendar_step,
    "calendar places": calendar_place,
}
