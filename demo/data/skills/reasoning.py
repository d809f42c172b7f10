"""Short reasoning in the think block, then the answer."""

from __future__ import annotations

import itertools
from dataclasses import replace

from demo.data import lexicon
from demo.data.core import Case, Source, ask
from demo.data.skills.numbers import own_difference, own_sum


def buy_and_give(source: Source) -> Case:
    name, thing = source.choice(lexicon.NAMES), source.choice((*lexicon.FOODS, *lexicon.THINGS)) + "s"
    if source.chance(0.5):
        a, b = own_sum(source, 60)
        text = source.choice(("{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?", "{n} buys {a} {t} and then {b} {t}. How many {t} is that?",
                              "There are {a} {t} in a bag. {n} adds {b}. How many {t} are there?"))  # fmt: skip
        steps, total, key = f"{a} + {b} = {a + b}", a + b, ("sum", min(a, b), max(a, b))
    else:
        a, b = own_difference(source, 60)
        text = source.choice(("{n} has {a} {t} and gives away {b}. How many {t} are left?", "There are {a} {t}. {n} takes {b}. How many {t} remain?",
                              "{n} had {a} {t} and lost {b}. How many {t} does {n} have now?"))  # fmt: skip
        steps, total, key = f"{a} - {b} = {a - b}", a - b, ("difference", a, b)
    return ask(
        "reasoning",
        source.casual(text.format(n=name, a=a, b=b, t=thing)),
        f"{total} {thing}.",
        key,
        thought=f"I calculate {steps}.",
    )


def two_steps(source: Source) -> Case:
    name, thing = source.choice(lexicon.NAMES), source.choice((*lexicon.FOODS, *lexicon.THINGS)) + "s"
    a, b = own_sum(source, 40)
    c = source.randint(0, a + b)
    text = source.choice(("{n} has {a} {t}, gets {b} more and loses {c}. How many {t} are left?", "{n} finds {a} {t} and {b} {t}, then sells {c}. How many {t} remain?",
                          "Start with {a} {t}, add {b}, take away {c}. How many {t} are there?"))  # fmt: skip
    thought = f"First {a} + {b} = {a + b}. Then {a + b} - {c} = {a + b - c}."
    return ask(
        "reasoning",
        source.casual(text.format(n=name, a=a, b=b, c=c, t=thing)),
        f"{a + b - c} {thing}.",
        ("sum", min(a, b), max(a, b)),
        thought=thought,
    )


_RELATIONS = (("taller", "tallest", "shorter", "shortest"), ("older", "oldest", "younger", "youngest"), ("faster", "fastest", "slower", "slowest"),
              ("heavier", "heaviest", "lighter", "lightest"), ("stronger", "strongest", "weaker", "weakest"))  # fmt: skip


def ordering(source: Source) -> Case:
    """Three or four names in a chain of comparisons."""
    more, most, less, least = source.choice(_RELATIONS)
    names = source.own(
        "ordering", lambda: source.sample(lexicon.NAMES, source.randint(3, 4))
    )  # greatest first
    said = []
    for above, below in itertools.pairwise(names):
        said.append(
            f"{above} is {more} than {below}." if source.chance(0.6) else f"{below} is {less} than {above}."
        )
    source.rng.shuffle(said)
    top = source.chance(0.5)
    thought = f"From {most} to {least}: {', '.join(names)}."
    question = " ".join(said) + f" Who is the {most if top else least}?"
    return ask(
        "reasoning",
        question,
        f"{names[0] if top else names[-1]} is the {most if top else least}.",
        ("ordering", *names),
        thought=thought,
    )


def add_three(source: Source) -> Case:
    a, b = own_sum(source, 50)
    c = source.randint(0, 50)
    question = source.choice(
        ("What is {} + {} + {}?", "Add {}, {} and {}.", "Calculate {} + {} + {}.")
    ).format(a, b, c)
    return ask("reasoning", source.casual(question), f"{a} + {b} + {c} = {a + b + c}", ("sum", min(a, b), max(a, b)),
               thought=f"{a} + {b} = {a + b}, and {a + b} + {c} = {a + b + c}.")  # fmt: skip


def straight(source: Source) -> Case:
    """A word problem of one step with thinking off: the answer at once."""
    return replace(buy_and_give(source), skill="word problems, no thinking", thought=None)


SKILLS = {
    "word problems, no thinking": straight,
    "word problems": buy_and_give,
    "two steps": two_steps,
    "ordering": ordering,
    "adding three": add_three,
}
