"""Skills on words and letters: copying, reversing, sorting, counting, spelling.

Answers spell a word out letter by letter before they use its letters: the tokens of a word hide them.
"""

from __future__ import annotations

from demo.data import lexicon
from demo.data.core import Case, Source, ask
from demo.data.lexicon import words
from demo.data.skills.sentences import sentence
from demo.data.skills.stories import description_text

_EMOJI = words(
    "😀 😂 🥳 😎 🤖 👍 👋 🙏 🚀 🌊 🐟 🐳 🦊 🐱 🐶 🌍 🌞 🌙 ⭐ 🔥 🎉 🎂 🍕 🍎 ☕ 🎸 ⚽ 🏠 📚 💡 ❤️ ✅"
)
_CJK = "你好世界今天天气很水山火木金土日月人大小中国学生我们是的在有不了他这东京都こんにちはありがとうさようなら안녕하세요감사합니다"
_ACCENTS = "äöüßéèêëàâçñóíúåøæœłżźśćńřčšžýůğışαβγδελπσωжзиклмнопрстуфя"
_SYMBOLS = "!#$%&*+-/:;<=>?@[]^_{|}~"


_COMMON = sorted({word for word in lexicon.COMMON if len(word) > 2})


def _word(source: Source) -> str:
    roll = source.rng.random()
    if roll < 0.45:
        return source.choice(lexicon.WORDS)
    if roll < 0.65:
        return source.choice(_COMMON)
    return source.pseudo_word()


def _unusual(source: Source) -> str:
    """A short string of anything: digits, symbols, emoji, other scripts, mixed case."""
    kind = source.randint(0, 6)
    if kind == 0:
        return "".join(str(source.randint(0, 9)) for _ in range(source.randint(2, 10)))
    if kind == 1:
        return "".join(source.choice(_EMOJI) for _ in range(source.randint(1, 4)))
    if kind == 2:
        return "".join(source.choice(_CJK) for _ in range(source.randint(2, 6)))
    if kind == 3:
        return "".join(
            source.choice("abcdefghijklmnopqrstuvwxyz" + _ACCENTS) for _ in range(source.randint(3, 8))
        )
    if kind == 4:
        return "".join(
            source.choice("ABCDEFGHJKLMNPQRSTUVWXYZ0123456789-_") for _ in range(source.randint(3, 9))
        )
    if kind == 5:
        return "".join(chr(source.randint(*source.choice(_RANGES))) for _ in range(source.randint(1, 4)))
    return source.pseudo_word() + source.choice(_SYMBOLS) + source.pseudo_word()


_RANGES = (
    (0x1F300, 0x1F5FF),
    (0x1F600, 0x1F64F),
    (0x1F680, 0x1F6C5),
    (0x4E00, 0x9FA5),
    (0x3041, 0x3096),
    (0x400, 0x45F),
)
_COPY = ("Repeat after me: {}", "Say exactly: {}", "Copy this: {}", "Repeat this text: {}", "Echo: {}", "Please repeat: {}",
         "Write exactly this: {}", "Say this back to me: {}", "Repeat the following: {}", "Copy: {}")  # fmt: skip


_PROSE = (lexicon.COMMON, lexicon.COMMON, lexicon.WORDS, lexicon.NAMES, lexicon.CITIES, lexicon.HEROES)


def copy(source: Source) -> Case:
    def text() -> tuple[str]:
        kind = source.randint(0, 5)
        if kind == 0:
            return (sentence(source),)
        if kind == 4:
            return (source.choice(description_text(source).replace("\n\n", " ").split(". ")),)
        if kind == 5:
            return (" ".join(source.choice(source.choice(_PROSE)) for _ in range(source.randint(3, 14))),)
        if kind == 1:
            return (_unusual(source),)
        words = [
            _word(source) if source.chance(0.85) else _unusual(source) for _ in range(source.randint(1, 12))
        ]
        return (" ".join(words),)

    (value,) = source.own("copy", text)
    return ask("copying", source.choice(_COPY).format(value), value, ("copy", value))


def _words(source: Source, low: int, high: int) -> list[str]:
    return source.sample(lexicon.WORDS, source.randint(low, high))


def reverse_words(source: Source) -> Case:
    form = source.choice(("Reverse the order of these words: {}", "Write these words in reverse order: {}", "Reverse this list: {}",
                          "Put these words in the opposite order: {}", "Say these words backwards: {}"))  # fmt: skip
    words = source.own("reverse-words", lambda: _words(source, 2, 7))
    return ask(
        "reversing", form.format(", ".join(words)), ", ".join(reversed(words)), ("reverse-words", *words)
    )


def reverse_letters(source: Source) -> Case:
    form = source.choice(("Reverse the word {}.", "Spell {} backwards.", "What is {} backwards?", "Write {} backwards.",
                          "How do you spell {} backwards?", "Say the letters of {} in reverse."))  # fmt: skip
    (word,) = source.own("reverse-letters", lambda: (_word(source),))
    answer = f"{'-'.join(word)} backwards is {'-'.join(reversed(word))}."
    return ask("reversing", source.casual(form.format(word)), answer, ("reverse-letters", word))


def reverse_number(source: Source) -> Case:
    (number,) = source.own(
        "reverse-digits", lambda: ("".join(str(source.randint(0, 9)) for _ in range(source.randint(2, 8))),)
    )
    form = source.choice(
        ("Reverse the digits of {}.", "Write {} backwards.", "Reverse {}.", "What is {} backwards?")
    )
    return ask("reversing", form.format(number), number[::-1], ("reverse-digits", number))


def sort_words(source: Source) -> Case:
    form = source.choice(("Sort these words alphabetically: {}", "Put these words in alphabetical order: {}", "Sort alphabetically: {}",
                          "Arrange these words from A to Z: {}", "Sort: {}", "Order these words by the alphabet: {}"))  # fmt: skip
    words = source.own("sort-words", lambda: _words(source, 3, 6))
    return ask("sorting", form.format(", ".join(words)), ", ".join(sorted(words)), ("sort-words", *words))


def sort_numbers(source: Source) -> Case:
    limit = source.choice((20, 100, 100, 1000))
    numbers = source.own("sort-numbers", lambda: source.sample(range(limit), source.randint(3, 6)))
    down = source.chance(0.3)
    forms = _SORT_DOWN if down else _SORT_UP
    listed = ", ".join(map(str, numbers))
    answer = ", ".join(map(str, sorted(numbers, reverse=down)))
    return ask("sorting", source.choice(forms).format(listed), answer, ("sort-numbers", *numbers))


_SORT_UP = ("Sort these numbers: {}", "Sort from smallest to largest: {}", "Put these numbers in order: {}",
            "Order these numbers from low to high: {}", "Sort in ascending order: {}")  # fmt: skip
_SORT_DOWN = (
    "Sort from largest to smallest: {}",
    "Order these numbers from high to low: {}",
    "Sort in descending order: {}",
)


def count_letters(source: Source) -> Case:
    form = source.choice(("How many letters are in {}?", "How many letters does {} have?", "Count the letters in {}.",
                          "How long is the word {}?", "How many letters are there in the word {}?"))  # fmt: skip
    (word,) = source.own("count-letters", lambda: (_word(source),))
    thought = (
        f"I spell {word}: {' '.join(f'{i} {c}' for i, c in enumerate(word, 1))}."
        if source.chance(0.3)
        else None
    )
    answer = f"{'-'.join(word)}: {len(word)} letters."
    return ask(
        "counting letters", source.casual(form.format(word)), answer, ("count-letters", word), thought=thought
    )


def count_letter(source: Source) -> Case:
    form = source.choice(("How many times does the letter {c} appear in {w}?", "How many {c}s are in {w}?", "Count the letter {c} in {w}.",
                          "How often does {c} occur in {w}?", "How many {c}'s are there in the word {w}?"))  # fmt: skip

    def pick() -> tuple[str, str]:
        word = _word(source)
        return word, source.choice(word if source.chance(0.85) else "abcdefghijklmnoprstuwy")

    word, letter = source.own("count-letter", pick)
    number = word.count(letter)
    answer = f"{'-'.join(word)}: {letter} appears {number} time{'' if number == 1 else 's'}."
    thought = (
        f"The letters of {word} are {'-'.join(word)}. {letter} is there {number} times."
        if source.chance(0.3)
        else None
    )
    return ask(
        "counting letters",
        source.casual(form.format(c=letter, w=word)),
        answer,
        ("count-letter", word, letter),
        thought=thought,
    )


def count_words(source: Source) -> Case:
    form = source.choice(("How many words are in this sentence: {}", "Count the words: {}", "How many words does this have: {}",
                          "Count the words in this text: {}", "How many words are there: {}"))  # fmt: skip

    def pick() -> tuple[str]:
        if source.chance(0.4):
            return (sentence(source, plain=True),)
        return (" ".join(_words(source, 1, 10)),)

    (text,) = source.own("count-words", pick)
    words = text.rstrip(".").split()
    listed = ", ".join(f"{i} {w}" for i, w in enumerate(words, 1))
    answer = f"{listed}: {len(words)} word{'' if len(words) == 1 else 's'}."
    return ask("counting words", form.format(text), answer, ("count-words", text))


def spell(source: Source) -> Case:
    form = source.choice(("Spell {}.", "How do you spell {}?", "Spell the word {}.", "Can you spell {}?", "Spell out {} for me.",
                          "Please spell {}.", "What are the letters of {}?"))  # fmt: skip
    (word,) = source.own("spell", lambda: (_word(source),))
    return ask("spelling", source.casual(form.format(word)), "-".join(word), ("spell", word))


def unspell(source: Source) -> Case:
    form = source.choice(
        (
            "Which word is {}?",
            "What word do these letters make: {}",
            "Join these letters: {}",
            "Put together: {}",
        )
    )
    (word,) = source.own("unspell", lambda: (_word(source),))
    return ask("spelling", form.format("-".join(word)), f"The word is {word}.", ("unspell", word))


def first_letter(source: Source) -> Case:
    which = source.choice(("first", "last"))
    (word,) = source.own(f"{which}-letter", lambda: (_word(source),))
    form = source.choice(
        ("What is the {} letter of {}?", "Which letter comes {} in {}?", "Tell me the {} letter of {}.")
    )
    answer = f"{'-'.join(word)}: {word[0] if which == 'first' else word[-1]}."
    return ask("spelling", source.casual(form.format(which, word)), answer, (f"{which}-letter", word))


SKILLS = {
    "copying": copy,
    "reversing words": reverse_words,
    "reversing letters": reverse_letters,
    "reversing digits": reverse_number,
    "sorting words": sort_words,
    "sorting numbers": sort_numbers,
    "counting letters": count_letters,
    "counting one letter": count_letter,
    "counting words": count_words,
    "spelling": spell,
    "joining letters": unspell,
    "first or last letter": first_letter,
}
