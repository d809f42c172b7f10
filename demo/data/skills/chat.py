"""Greetings, small talk, who the model is, memory over turns, and the manner a system prompt asks for."""

from __future__ import annotations

from demo.data import lexicon
from demo.data.core import Case, Message, Source, ask, assistant, system, user
from demo.data.skills import facts, numbers
from demo.data.skills.sentences import article
from demo.data.skills.small_talk import (
    DISTRACTORS,
    GREETING_FORMS,
    INTENTS,
    PHRASE_FORMS,
    PHRASES,
    QUESTION_STARTS,
    UNKNOWN,
    UNKNOWN_ANSWER,
)


def small_talk(source: Source) -> Case:
    """A greeting, thanks, a goodbye, a question about the model: what is held out is the text that the user types."""
    name = source.choice(_INTENT_NAMES)
    forms, answers = INTENTS[name]

    def type_in() -> tuple[str]:
        form = source.choice(forms)
        if name == "greeting":
            return (source.casual(form + source.choice(("", "", " :)", " there!"))),)
        return (source.casual(f"{source.choice(GREETING_FORMS)} {form}".strip()),)

    (text,) = source.own(f"talk.{name}", type_in)
    thought = f"The user says: {text} I answer kindly." if source.chance(0.12) else None
    skill = "who it is" if name in _IDENTITY else "small talk"
    return ask(skill, text, source.choice(answers), (f"talk.{name}", text), thought=thought, accepted=answers)


_IDENTITY = frozenset({"identity", "engine", "skills", "size", "maker", "human"})
_INTENT_NAMES = [*INTENTS, "greeting", "greeting", "identity", "engine", "skills"]


def unknown(source: Source) -> Case:
    """A question beyond the tables: the model says so instead of inventing an answer."""

    def pick() -> tuple[str]:
        roll = source.rng.random()
        if roll < 0.35:
            return (source.casual(_odd_question(source)),)
        if roll < 0.45:
            return (_noise(source),)
        topic = source.choice((*lexicon.WORDS, *lexicon.CITIES, *lexicon.NAMES))
        if source.chance(0.25):
            topic = source.pseudo_word() if source.chance(0.5) else source.pseudo_word().title()
        elif source.chance(0.3):
            topic = f"{source.choice(('the', 'my', 'your', 'a', 'some'))} {source.choice(lexicon.ADJECTIVES)} {topic}"
        return (source.casual(source.choice(UNKNOWN).format(topic)),)

    (text,) = source.own("unknown", pick)
    return ask("does not know", text, UNKNOWN_ANSWER, ("unknown", text))


def _noise(source: Source) -> str:
    """Keys hit at random."""
    if source.chance(0.5):
        return " ".join(source.pseudo_word() for _ in range(source.randint(1, 3)))
    return "".join(source.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(source.randint(3, 9)))


def _odd_question(source: Source) -> str:
    """A grammatical question or order that means little."""
    noun = source.choice((*lexicon.THINGS, *lexicon.ABSTRACT, *lexicon.NATURE))
    other = source.choice((*lexicon.PLACES, *lexicon.FOODS, *lexicon.JOBS, *lexicon.CITIES))
    verb, adjective = source.choice(lexicon.VERBS), source.choice(lexicon.ADJECTIVES)
    start = source.choice(QUESTION_STARTS)
    return source.choice((f"{start} {verb} the {adjective} {noun}?", f"{start} {verb} {noun} in {other}?", f"{start} {verb} {other} with {noun}?",
                          f"{verb.title()} the {noun} of {other}.", f"{start} the {noun} {verb} {other}?"))  # fmt: skip


def foreign(source: Source) -> Case:
    language = source.choice(("French", "German", "Spanish"))
    orders = (f"Answer in {language}.", f"Always answer in {language}.", f"Reply in {language}.", f"You speak {language} only.",
              f"You are an assistant who answers in {language}.", f"Please use {language} for every answer.", f"Speak {language}.")  # fmt: skip
    phrase, form, order = source.own(
        "foreign", lambda: (source.choice(list(PHRASES)), source.choice(PHRASE_FORMS), source.choice(orders))
    )
    answer = PHRASES[phrase][("French", "German", "Spanish").index(language)]
    return Case(
        f"style: {language}",
        (system(order), user(form.format(phrase))),
        answer,
        ("foreign", phrase, form, order),
    )


_TRANSLATE_FORMS = (
    "How do you say '{}' in {}?", "Translate '{}' to {}.", "What is '{}' in {}?", "Say '{}' in {}.", "Translate into {1}: {0}", "How do you say {} in {}?",
    "Say {} in {}.", "What is {} in {}?", "Translate {} into {}.", "How do I say {} in {}?", "What does {} mean in {}?",
)  # fmt: skip


def translate(source: Source) -> Case:
    language = source.choice(("French", "German", "Spanish"))

    def pick() -> tuple[str, str]:
        phrase = source.choice(list(PHRASES))
        return phrase if source.chance(0.5) else phrase[0].lower() + phrase[1:], source.choice(
            _TRANSLATE_FORMS
        )

    phrase, form = source.own("translate", pick)
    answer = PHRASES[phrase[0].upper() + phrase[1:]][("French", "German", "Spanish").index(language)]
    return ask(
        f"style: {language}",
        source.casual(form.format(phrase, language)),
        answer,
        ("translate", phrase, form),
    )


def greeting_in_capitals(source: Source) -> Case:
    name = source.choice(("greeting", "thanks", "goodbye", "identity", "engine"))
    forms, answers = INTENTS[name]
    order, text = source.own(
        "shout", lambda: (source.choice(facts.CAPITALS_ORDERS), source.casual(source.choice(forms)))
    )
    shouted = tuple(answer.upper() for answer in answers)
    return Case(
        "style: capitals",
        (system(order), user(text)),
        source.choice(shouted),
        ("shout", order, text),
        accepted=shouted,
    )


def _told(source: Source, kind: str) -> str:
    """A value of one kind of personal fact; names and words may be ones that no list holds."""
    if kind == "name":
        return source.choice(lexicon.NAMES) if source.chance(0.7) else source.pseudo_word(2).title()
    if kind == "age":
        return str(source.randint(5, 99))
    if kind == "city":
        return source.choice(lexicon.CITIES)
    if kind == "colour":
        return source.choice(lexicon.COLOURS)
    if kind == "pet":
        return source.choice(lexicon.NAMES) if source.chance(0.6) else source.pseudo_word(2).title()
    if kind == "food":
        return source.choice(lexicon.FOODS)
    if kind == "number":
        return str(source.randint(2, 999))
    return article(source.choice(lexicon.JOBS))


_TELL: dict[str, tuple[tuple[str, ...], str, tuple[str, ...], str, str]] = {
    # kind: (how it is told, what the model says, how it is asked, the answer, the answer when it was never told)
    "name": (("My name is {}.", "I am called {}.", "I'm {}.", "Hello, my name is {}.", "Hi, I'm {}.", "You can call me {}.", "Hi! My name is {}."),
             "Nice to meet you, {}!", ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Tell me my name.", "How am I called?"),
             "Your name is {}.", "You have not told me your name yet."),
    "age": (("I am {} years old.", "I'm {} years old.", "My age is {}."),
            "To be {} is a fine age!", ("How old am I?", "What is my age?", "Do you remember my age?", "Do you know how old I am?"),
            "You are {} years old.", "You have not told me your age yet."),
    "city": (("I live in {}.", "My home is in {}.", "I come from {}.", "I am from {}."),
             "{} must be a nice place.", ("Where do I live?", "Where am I from?", "Which city do I live in?", "Do you remember where I live?"),
             "You live in {}.", "You have not told me where you live."),
    "colour": (("My favourite colour is {}.", "I like {} best of all colours.", "The colour I like most is {}."),
               "A lovely colour, {}!", ("What is my favourite colour?", "Which colour do I like?", "What's my favourite colour?", "Do you remember my favourite colour?"),
               "Your favourite colour is {}.", "You have not told me your favourite colour."),
    "pet": (("My dog is called {}.", "I have a dog named {}.", "My dog's name is {}."),
            "{} sounds like a good dog!", ("What is my dog called?", "What is the name of my dog?", "Do you remember my dog's name?", "What's my dog's name?"),
            "Your dog is called {}.", "You have not told me about a dog."),
    "food": (("My favourite food is {}.", "I like to eat {}.", "I love {}."),
             "I have heard that {} is tasty!", ("What is my favourite food?", "What do I like to eat?", "Which food do I love?", "Do you remember what I like to eat?"),
             "Your favourite food is {}.", "You have not told me your favourite food."),
    "number": (("My lucky number is {}.", "Remember the number {}.", "The number is {}.", "Please keep the number {} in mind."),
               "I will remember {}.", ("What is my lucky number?", "Which number did I tell you?", "What was the number?", "Do you remember the number?"),
               "The number is {}.", "You have not told me a number."),
    "job": (("My job is {}.", "I work as {}.", "By trade I am {}."),
            "Good, you are {}.", ("What is my job?", "What do I work as?", "Do you remember my job?", "What do I do for work?"),
            "You are {}.", "You have not told me your job."),
}  # fmt: skip


def _upper_first(text: str) -> str:
    return text[0].upper() + text[1:]


def distractor(source: Source) -> list[Message]:
    """One turn about something else."""
    roll = source.rng.random()
    if roll < 0.4:
        question, answer = source.choice(DISTRACTORS)
        return [user(source.casual(question)), assistant(answer)]
    case = facts.fact(source) if roll < 0.75 else numbers.add(source)
    return [*case.messages, assistant(case.answer)]


def memory(source: Source) -> Case:
    """One to three things told in the first turns, up to four turns of other talk, then a question about one."""
    kinds = source.sample(list(_TELL), source.randint(1, 3))
    asked = kinds[0]
    (value,) = source.own(f"memory.{asked}", lambda: (_told(source, asked),))
    told = {kind: _told(source, kind) for kind in kinds[1:]} | {asked: value}
    order = source.sample(kinds, len(kinds))
    messages: list[Message] = []
    if source.chance(0.25) and len(order) > 1:
        messages += [
            user(" ".join(source.choice(_TELL[k][0]).format(told[k]) for k in order)),
            assistant("Thank you, I will remember that."),
        ]
    else:
        for kind in order:
            forms, reply, *_ = _TELL[kind]
            messages += [
                user(source.casual(source.choice(forms).format(told[kind]))),
                assistant(_upper_first(reply.format(told[kind]))),
            ]
            if source.chance(0.3):
                messages += distractor(source)
    for _ in range(source.randint(0, 4)):
        messages += distractor(source)
    messages.append(user(source.casual(source.choice(_TELL[asked][2]))))
    return Case("memory", tuple(messages), _TELL[asked][3].format(value), (f"memory.{asked}", value))


def told_now(source: Source) -> Case:
    """The turn in which something is told: the model takes note."""
    kind = source.choice(list(_TELL))
    (value,) = source.own(f"memory.{kind}", lambda: (_told(source, kind),))
    forms, reply, *_ = _TELL[kind]
    return ask(
        "memory",
        source.casual(source.choice(forms).format(value)),
        _upper_first(reply.format(value)),
        (f"memory.{kind}", value),
    )


def never_told(source: Source) -> Case:
    """A question about something that was not told, after something else that may have been."""
    asked, other = source.sample(list(_TELL), 2)
    forms = _TELL[other][0]

    def talk() -> tuple[str, str]:
        told = source.choice(forms).format(_told(source, other)) if source.chance(0.6) else ""
        return told, source.casual(source.choice(_TELL[asked][2]))

    told, question = source.own("memory.never", talk)
    messages: list[Message] = [user(told), assistant("Thank you, I will remember that.")] if told else []
    for _ in range(source.randint(0, 2)):
        messages += distractor(source)
    return Case("memory", (*messages, user(question)), _TELL[asked][4], ("memory.never", told, question))


SKILLS = {
    "small talk": small_talk,
    "does not know": unknown,
    "other languages": foreign,
    "translating": translate,
    "greeting in capitals": greeting_in_capitals,
    "memory": memory,
    "being told": told_now,
    "never told": never_told,
}
