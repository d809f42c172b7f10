"""Facts from the tables. Every fact is trained; what is held out is the pair (fact, form of the question)."""

from __future__ import annotations

from demo.data.core import Case, Source, ask, system, user
from demo.data.tables import TABLES


def draw_fact(source: Source, space: str = "fact") -> tuple[str, str, str, str, tuple[str, ...]]:
    """Returns (question, full answer, short answer, subject, key) of one fact in one phrasing."""
    name = source.choice(_NAMES)
    table, forms, full, _ = TABLES[name]
    subjects = list(table)
    subject, form = source.own(f"{space}.{name}", lambda: (source.choice(subjects), source.choice(forms)))
    value = table[subject]
    sentence = full.format(subject, value)
    return (
        form.format(subject),
        sentence[0].upper() + sentence[1:],
        value,
        subject,
        (f"{space}.{name}", subject, form),
    )


_NAMES = [name for name, (table, *_) in TABLES.items() for _ in range(1 + len(table) // 25)]


def fact(source: Source) -> Case:
    question, answer, _, _, key = draw_fact(source)
    return ask("facts", source.casual(question), answer, key)


def fact_with_thought(source: Source) -> Case:
    question, answer, value, subject, key = draw_fact(source)
    thought = f"The question is about {subject}. I remember: {value}."
    return ask("facts", source.casual(question), answer, key, thought=thought)


CAPITALS_ORDERS = (
    "Answer in capital letters.", "Always answer in capitals.", "Reply in capital letters only.", "Write everything in capitals.",
    "You shout: use capital letters only.", "Use upper case for every answer.", "Answer in upper case.", "ALWAYS SHOUT.",
    "You are an assistant that writes in capitals.", "Reply in uppercase.",
)  # fmt: skip
ONE_WORD_ORDERS = (
    "Answer in one word.", "Reply with one word only.", "Use a single word for every answer.", "Give one-word answers.",
    "You answer with exactly one word.", "Be brief: one word.", "Only one word per answer, please.", "Answer with just the word.",
    "Keep every answer to a single word.", "One word answers only.",
)  # fmt: skip


def capitals(source: Source) -> Case:
    order = source.choice(CAPITALS_ORDERS)
    question, answer, _, _, key = draw_fact(source, "capitals")
    messages = (system(order), user(question))
    return Case("style: capitals", messages, answer.upper(), key)


def one_word(source: Source) -> Case:
    order = source.choice(ONE_WORD_ORDERS)
    question, _, value, _, key = draw_fact(source, "one-word")
    word = value[0].upper() + value[1:]
    return Case("style: one word", (system(order), user(question)), word.removeprefix("The "), key)


SKILLS = {
    "facts": fact,
    "facts, thinking": fact_with_thought,
    "style: capitals": capitals,
    "style: one word": one_word,
}
