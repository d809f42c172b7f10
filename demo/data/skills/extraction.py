"""JSON: fields of a sentence into a given schema, lists of objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from demo.data import lexicon
from demo.data.core import Case, Source, ask, listing

Record = dict[str, Any]


def _person(source: Source) -> str:
    return source.choice(lexicon.NAMES) if source.chance(0.8) else source.pseudo_word(2).title()


def _about_person(source: Source) -> tuple[Record, str]:
    name, age = _person(source), source.randint(3, 99)
    city, job = source.choice(lexicon.CITIES), source.choice(lexicon.JOBS)
    text = source.choice((
        "{name} is {age} years old, lives in {city} and works as a {job}.",
        "{name}, {age}, is a {job} from {city}.",
        "The {job} {name} lives in {city} and is {age} years old.",
        "At {age}, {name} moved to {city} to work as a {job}.",
        "My friend {name} is a {job} in {city}. {name} is {age}.",
    ))  # fmt: skip
    return {"name": name, "age": age, "city": city, "job": job}, text


def _about_order(source: Source) -> tuple[Record, str]:
    text = source.choice((
        "{customer} ordered {quantity} {colour} {item}s for {price} dollars.",
        "An order of {quantity} {item}s in {colour} came from {customer}, worth {price} dollars.",
        "Please send {quantity} {colour} {item}s to {customer}. The price is {price} dollars.",
        "For {price} dollars, {customer} bought {quantity} {item}s, all of them {colour}.",
    ))  # fmt: skip
    record = {"customer": _person(source), "item": source.choice(lexicon.THINGS), "quantity": source.randint(2, 60),
              "colour": source.choice(lexicon.COLOURS), "price": source.randint(1, 999)}  # fmt: skip
    return record, text


def _about_meeting(source: Source) -> tuple[Record, str]:
    text = source.choice((
        "{person} has a meeting on {day} at {time} in the {place}.",
        "Meet {person} in the {place} on {day} at {time}.",
        "On {day}, {person} will be at the {place}. It starts at {time}.",
        "The appointment with {person} is at {time} on {day}, place: {place}.",
    ))  # fmt: skip
    record = {"person": _person(source), "day": source.choice(lexicon.DAYS), "time": f"{source.randint(0, 23):02d}:{source.choice(('00', '15', '30', '45'))}",
              "place": source.choice(lexicon.PLACES)}  # fmt: skip
    return record, text


def _about_trip(source: Source) -> tuple[Record, str]:
    start, end = source.sample(lexicon.CITIES, 2)
    text = source.choice((
        "{traveller} flies from {origin} to {destination} on {date} with {bags} bags.",
        "Flight for {traveller}: {origin} to {destination}, {date}, {bags} bags.",
        "On {date} {traveller} leaves {origin} for {destination} and takes {bags} bags.",
        "With {bags} bags, {traveller} travels to {destination} from {origin} on {date}.",
    ))  # fmt: skip
    record = {"traveller": _person(source), "origin": start, "destination": end,
              "date": f"{source.randint(1, 28)} {source.choice(lexicon.MONTHS)}", "bags": source.randint(2, 9)}  # fmt: skip
    return record, text


def _about_animal(source: Source) -> tuple[Record, str]:
    text = source.choice((
        "The {colour} {animal} called {name} weighs {weight} kilograms and likes {food}.",
        "{name} is a {colour} {animal}. It weighs {weight} kilograms and eats {food}.",
        "In the zoo lives {name}, a {animal} of {weight} kilograms. It is {colour} and loves {food}.",
    ))  # fmt: skip
    record = {"name": _person(source), "animal": source.choice(lexicon.ANIMALS), "colour": source.choice(lexicon.COLOURS),
              "weight": source.randint(1, 400), "food": source.choice(lexicon.FOODS)}  # fmt: skip
    return record, text


_DOMAINS: tuple[Callable[[Source], tuple[Record, str]], ...] = (
    _about_person,
    _about_order,
    _about_meeting,
    _about_trip,
    _about_animal,
)
_EXTRA_FIELDS = ("email", "phone", "country", "hobby", "note", "code")


def _schema(record: Record) -> str:
    types = {
        field: {"type": "integer" if isinstance(value, int) else "string"} for field, value in record.items()
    }
    return json.dumps({"type": "object", "properties": types, "required": list(record)})


def _extract_thought(record: Record) -> str:
    return "I look for " + listing(list(record)) + " in the text."


def extract(source: Source) -> Case:
    make = source.choice(_DOMAINS)

    def pick() -> tuple[str, str]:
        full, text = make(source)
        fields = source.sample(list(full), source.randint(2, len(full)))
        record = {field: full[field] for field in fields}
        if source.chance(0.08):
            record[source.choice(_EXTRA_FIELDS)] = None
        return text.format(**full), json.dumps(record, ensure_ascii=False)

    text, answer = source.own("json", pick)
    record = json.loads(answer)
    names = ", ".join(record)
    if None not in record.values() and source.chance(0.5):
        question = source.choice((
            "Extract the data from this text as JSON with the schema {schema}: {text}",
            "Answer in JSON that follows this schema: {schema}\n{text}",
            "{text}\nWrite the facts as JSON. Schema: {schema}",
            "Schema: {schema}\nText: {text}",
        )).format(schema=_schema(record), text=text)  # fmt: skip
    else:
        question = source.choice((
            "Extract {names} as JSON: {text}", "Give me {names} as JSON: {text}", "Write a JSON object with the fields {names}: {text}",
            "{text}\nReturn JSON with the keys {names}.", "Turn this into JSON ({names}): {text}", "As JSON with {names}, please: {text}",
        )).format(names=names, text=text)  # fmt: skip
    thought = _extract_thought(record) if source.chance(0.1) else None
    return ask("JSON extraction", question, answer, ("json", text, answer), thought=thought)


def _list_people(source: Source) -> tuple[list[Record], str, str]:
    names = [_person(source) for _ in range(source.randint(2, 4))]
    kind = source.choice(("age", "city", "job", "colour"))
    if kind == "age":
        rows = [{"name": name, "age": source.randint(3, 99)} for name in names]
        said = [f"{r['name']} is {r['age']}" for r in rows]
    elif kind == "city":
        rows = [{"name": name, "city": source.choice(lexicon.CITIES)} for name in names]
        said = [f"{r['name']} lives in {r['city']}" for r in rows]
    elif kind == "job":
        rows = [{"name": name, "job": source.choice(lexicon.JOBS)} for name in names]
        said = [f"{r['name']} is a {r['job']}" for r in rows]
    else:
        rows = [{"name": name, "colour": source.choice(lexicon.COLOURS)} for name in names]
        said = [f"{r['name']} likes {r['colour']}" for r in rows]
    return rows, listing(said) + ".", f"name, {kind}"


def _list_shopping(source: Source) -> tuple[list[Record], str, str]:
    items = source.sample((*lexicon.THINGS, *lexicon.FOODS), source.randint(2, 4))
    if source.chance(0.5):
        rows: list[Record] = [{"item": item, "quantity": source.randint(2, 40)} for item in items]
        return (
            rows,
            "I need " + listing([f"{r['quantity']} {r['item']}s" for r in rows]) + ".",
            "item, quantity",
        )
    rows = [{"item": item, "price": source.randint(1, 300)} for item in items]
    return rows, listing([f"the {r['item']} costs {r['price']} dollars" for r in rows]) + ".", "item, price"


def extract_list(source: Source) -> Case:
    def pick() -> tuple[str, str, str]:
        rows, text, names = source.choice((_list_people, _list_shopping))(source)
        return text[0].upper() + text[1:], json.dumps(rows, ensure_ascii=False), names

    text, answer, names = source.own("json-list", pick)
    question = source.choice((
        "Make a JSON list of objects with {names}: {text}", "Extract a JSON array with {names}: {text}", "{text}\nReturn a JSON list with the keys {names}.",
        "As a JSON list of objects ({names}): {text}", "Turn this into a JSON array of objects with {names}: {text}",
    )).format(names=names, text=text)  # fmt: skip
    return ask("JSON lists", question, answer, ("json-list", text, answer, names))


SKILLS = {"JSON extraction": extract, "JSON lists": extract_list}
