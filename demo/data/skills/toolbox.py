"""Tools that the model learns to call: for each, how it is declared, asked for, called and answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo.data import lexicon
from demo.data.core import Source

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """One declared tool with one use of it.

    `parameters` are JSON Schema properties in order; `question` asks for `arguments`; `result` is what the tool
    returns and `reply` what the model says then.
    """

    name: str
    description: str
    parameters: dict[str, dict[str, Any]]
    required: tuple[str, ...]
    question: str
    arguments: Arguments
    result: Any
    reply: str

    def declaration(self) -> dict[str, Any]:
        """The OpenAI form."""
        schema: dict[str, Any] = {"type": "object", "properties": self.parameters}
        if self.required:
            schema["required"] = list(self.required)
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": schema},
        }


def _text(source: Source, *descriptions: str) -> dict[str, Any]:
    return (
        {"type": "string", "description": source.choice(descriptions)}
        if source.chance(0.6)
        else {"type": "string"}
    )


def _place(source: Source) -> str:
    return source.choice(lexicon.CITIES) if source.chance(0.85) else source.pseudo_word(2).title()


def weather(source: Source) -> Tool:
    key, city = source.choice(("city", "city", "location", "location", "place")), _place(source)
    degrees, sky = (
        source.randint(-9, 38),
        source.choice(["sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy"]),
    )
    parameters = {
        key: _text(
            source,
            "The city",
            "Name of the city",
            "The city to look up",
            "The city and state, e.g. San Francisco, CA",
        )
    }
    arguments: Arguments = {key: city}
    question = source.choice((
        "What is the weather in {}?", "What's the weather like in {}?", "How is the weather in {} today?", "Is it raining in {}?", "Tell me the weather in {}.",
        "Weather in {}?", "Will I need an umbrella in {}?", "How warm is it in {}?", "What is the weather like in {} right now?", "Get the weather for {}.",
    )).format(city)  # fmt: skip
    if source.chance(0.3):
        unit = source.choice(("celsius", "fahrenheit"))
        parameters["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        if source.chance(0.6):
            arguments["unit"] = unit
            question = question[:-1] + f" in {unit}" + question[-1]
    result = (
        {key: city, "temperature": degrees, "condition": sky}
        if source.chance(0.6)
        else {"temperature": degrees, "condition": sky}
    )
    name = source.choice(("get_weather", "get_weather", "get_current_weather", "weather", "weather_lookup"))
    return Tool(name, source.choice(("Get the weather of a city.", "Get the current weather", "Current weather for a place", "Returns the weather in a given city")),
                parameters, (key,), question, arguments, result, f"It is {degrees} degrees and {sky} in {city}.")  # fmt: skip


def clock(source: Source) -> Tool:
    key, city = source.choice(("city", "location", "timezone")), _place(source)
    now = f"{source.randint(0, 23):02d}:{source.randint(0, 59):02d}"
    question = source.choice(
        (
            "What time is it in {}?",
            "Tell me the time in {}.",
            "What's the time in {}?",
            "Which time do they have in {}?",
            "Time in {}?",
        )
    ).format(city)
    return Tool(source.choice(("get_time", "get_current_time", "clock")), source.choice(("Get the current time in a city.", "The local time of a place")),
                {key: _text(source, "The city", "Where")}, (key,), question, {key: city}, {"time": now}, f"It is {now} in {city}.")  # fmt: skip


def calculator(source: Source) -> Tool:
    a, b = source.randint(11, 9999), source.randint(11, 9999)
    sign, word = source.choice((("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")))
    value = {"+": a + b, "-": a - b, "*": a * b, "/": round(a / b, 2)}[sign]
    expression = f"{a} {sign} {b}"
    question = source.choice(
        ("What is {}?", "Calculate {}.", "How much is {}?", "Compute {} for me.")
    ).format(source.choice((expression, f"{a} {word} {b}")))
    key = source.choice(("expression", "expression", "formula"))
    return Tool(source.choice(("calculator", "calculate", "evaluate")), source.choice(("Evaluate an arithmetic expression.", "Does calculations")),
                {key: _text(source, "The expression", "What to calculate")}, (key,), question, {key: expression}, {"result": value}, f"The result is {value}.")  # fmt: skip


def add_numbers(source: Source) -> Tool:
    a, b = source.randint(1, 999), source.randint(1, 999)
    name, verb, value = source.choice(
        (
            ("add", source.choice(("Add {} and {}.", "What is {} plus {}?", "What is {} + {}?")), a + b),
            ("multiply", source.choice(("Multiply {} by {}.", "What is {} times {}?")), a * b),
            ("subtract", "Use subtract with {} and {}.", a - b),
        )
    )
    one, two = source.choice((("a", "b"), ("x", "y"), ("first", "second")))
    number = {"type": source.choice(("integer", "number"))}
    return Tool(
        name,
        f"{name.title()} two numbers.",
        {one: number, two: number},
        (one, two),
        verb.format(a, b),
        {one: a, two: b},
        {"result": value},
        f"The result is {value}.",
    )


def search(source: Source) -> Tool:
    query = " ".join(source.sample(lexicon.WORDS, source.randint(1, 3)))
    key = source.choice(("query", "query", "q", "text"))
    title = f"All about {query}"
    question = source.choice(
        (
            "Search for {}.",
            "Search the web for {}.",
            "Look up {} on the web.",
            "Find pages about {}.",
            "Can you search for {}?",
        )
    ).format(query)
    parameters = {key: _text(source, "What to search for", "The search terms")}
    arguments: Arguments = {key: query}
    if source.chance(0.2):
        parameters["limit"] = {"type": "integer"}
        if source.chance(0.6):
            number = source.randint(2, 20)
            arguments["limit"] = number
            question = question[:-1] + f" and show {number} results" + question[-1]
    return Tool(source.choice(("search", "web_search", "search_web")), "Search the web.", parameters, (key,), question, arguments,
                {"results": [title]}, f"I found this: {title}.")  # fmt: skip


def message(source: Source) -> Tool:
    name = source.choice(lexicon.NAMES) if source.chance(0.8) else source.pseudo_word(2).title()
    text = source.choice(("I will be late", "See you at noon", "The {} is ready", "Please bring the {}", "Happy birthday", "I found the {}", "Call me back", "The {} is broken",
                          "Dinner is at eight", "Do not forget the {}")).format(source.choice((*lexicon.THINGS, *lexicon.FOODS)))  # fmt: skip
    to, body = source.choice((("to", "text"), ("recipient", "message"), ("to", "body"), ("name", "text")))
    question = source.choice(
        (
            "Send a message to {}: {}",
            "Tell {} this: {}",
            "Write to {}: {}",
            "Text {}: {}",
            "Send {} the message: {}",
        )
    ).format(name, text)
    return Tool(source.choice(("send_message", "send_email", "send_text")), source.choice(("Send a message to a person.", "Sends a text")),
                {to: _text(source, "Who gets it"), body: _text(source, "What to say")}, (to, body), question, {to: name, body: text},
                {"status": "sent"}, f"I have sent the message to {name}.")  # fmt: skip


def timer(source: Source) -> Tool:
    minutes = source.randint(1, 90)
    key = source.choice(("minutes", "minutes", "duration_minutes"))
    question = source.choice(
        (
            "Set a timer for {} minutes.",
            "Wake me in {} minutes.",
            "Start a timer of {} minutes.",
            "Timer: {} minutes, please.",
        )
    ).format(minutes)
    return Tool(source.choice(("set_timer", "start_timer")), source.choice(("Start a timer.", "Set a timer in minutes")), {key: {"type": "integer"}}, (key,), question,
                {key: minutes}, {"status": "ok"}, f"The timer is set to {minutes} minutes.")  # fmt: skip


def currency(source: Source) -> Tool:
    amount = source.randint(2, 999)
    names = {
        "dollars": "USD",
        "euros": "EUR",
        "yen": "JPY",
        "pounds": "GBP",
        "francs": "CHF",
        "rupees": "INR",
    }
    start, end = source.sample(sorted(names), 2)
    value = round(amount * source.randint(50, 300) / 100, 2)
    one, two = source.choice((("from", "to"), ("source", "target"), ("from_currency", "to_currency")))
    question = source.choice(
        (
            "Convert {a} {s} to {e}.",
            "How many {e} are {a} {s}?",
            "Change {a} {s} into {e}.",
            "What are {a} {s} in {e}?",
        )
    ).format(a=amount, s=start, e=end)
    return Tool(source.choice(("convert_currency", "exchange", "currency_convert")), "Convert money between currencies.",
                {"amount": {"type": "number"}, one: _text(source, "Currency code"), two: _text(source, "Currency code")}, ("amount", one, two), question,
                {"amount": amount, one: names[start], two: names[end]}, {"value": value, "currency": names[end]}, f"{amount} {start} are {value} {end}.")  # fmt: skip


def event(source: Source) -> Tool:
    title, day = (
        f"{source.choice(lexicon.PLACES)} {source.choice(('visit', 'meeting', 'party', 'tour'))}",
        source.choice(lexicon.DAYS),
    )
    at = f"{source.randint(7, 21):02d}:{source.choice(('00', '30'))}"
    key = source.choice(("title", "name", "event"))
    question = source.choice(
        (
            "Add a {} on {} at {} to my calendar.",
            "Plan a {} on {} at {}.",
            "Create an event: {}, {}, {}.",
            "Put a {} on {} at {} into the calendar.",
        )
    ).format(title, day, at)
    return Tool(source.choice(("create_event", "add_event", "calendar_add")), source.choice(("Add an event to the calendar.", "Creates a calendar entry")),
                {key: _text(source, "What it is"), "day": _text(source, "The day"), "time": _text(source, "When it starts")}, (key, "day", "time"), question,
                {key: title, "day": day, "time": at}, {"status": "created"}, f"The {title} is in your calendar for {day} at {at}.")  # fmt: skip


def music(source: Source) -> Tool:
    song = source.pseudo_word(2).title() + source.choice(("", f" {source.choice(lexicon.NATURE).title()}"))
    key = source.choice(("song", "title", "track"))
    question = source.choice(
        ("Play {}.", "Play the song {}.", "I want to hear {}.", "Put on {}, please.")
    ).format(song)
    return Tool(source.choice(("play_music", "play_song")), "Play a song.", {key: _text(source, "Name of the song")}, (key,), question, {key: song},
                {"status": "playing"}, f"Now playing {song}.")  # fmt: skip


def stock(source: Source) -> Tool:
    symbol = "".join(source.choice("ABCDEFGHIKLMNOPRSTVWXZ") for _ in range(source.randint(3, 4)))
    price = round(source.randint(100, 90000) / 100, 2)
    key = source.choice(("symbol", "ticker"))
    question = source.choice(
        (
            "What is the stock price of {}?",
            "How much is {} stock?",
            "Price of {} shares?",
            "Look up the stock {}.",
        )
    ).format(symbol)
    return Tool(source.choice(("get_stock_price", "stock_price")), "Get the price of a stock.", {key: _text(source, "Ticker symbol")}, (key,), question,
                {key: symbol}, {"price": price}, f"{symbol} is at {price} dollars.")  # fmt: skip


def lights(source: Source) -> Tool:
    room, state = (
        source.choice(
            ["kitchen", "bedroom", "bathroom", "hall", "garden", "office", "garage", "cellar", "attic"]
        ),
        source.choice(("on", "off")),
    )
    question = source.choice(
        ("Turn {1} the light in the {0}.", "Switch the {0} light {1}.", "Light {1} in the {0}, please.")
    ).format(room, state)
    return Tool(source.choice(("set_light", "switch_light", "light")), "Switch a light.", {"room": _text(source, "Which room"), "state": {"type": "string", "enum": ["on", "off"]}},
                ("room", "state"), question, {"room": room, "state": state}, {"status": "ok"}, f"The light in the {room} is {state}.")  # fmt: skip


def invented(source: Source) -> Tool:
    """A tool of no list, asked for by its name, so that declarations are read and not only recognised."""
    verb, noun = (
        source.choice(lexicon.VERBS),
        source.choice((*lexicon.THINGS, *lexicon.PLACES, *lexicon.ANIMALS)),
    )
    keys = source.sample((*lexicon.ABSTRACT, "id", "name", "count", "label"), source.randint(1, 3))
    parameters: dict[str, dict[str, Any]] = {}
    arguments: Arguments = {}
    for key in keys:
        if source.chance(0.4):
            parameters[key], arguments[key] = {"type": "integer"}, source.randint(0, 999)
        else:
            parameters[key] = _text(source, f"The {key}")
            arguments[key] = source.choice(
                (source.choice(lexicon.WORDS), source.choice(lexicon.NAMES), source.pseudo_word())
            )
    said = ", ".join(f"{key} {value}" for key, value in arguments.items())
    question = source.choice(
        ("{v} the {n} with {s}.", "Please {v} the {n}: {s}.", "Use {v}_{n} with {s}.", "Call {v}_{n}: {s}.")
    ).format(v=verb, n=noun, s=said)
    return Tool(f"{verb}_{noun}", source.choice((f"{verb.title()} the {noun}.", f"Can {verb} a {noun}")), parameters, tuple(keys), question[0].upper() + question[1:],
                arguments, {"status": source.choice(("ok", "done"))}, "Done.")  # fmt: skip


MAKERS: tuple[Callable[[Source], Tool], ...] = (
    weather, weather, weather, clock, calculator, add_numbers, search, message, timer, currency, event, music, stock, lights, invented, invented,
)  # fmt: skip
