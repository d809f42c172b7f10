"""Tool calling in the Hermes form: whether to call, with which arguments, several calls at once, and what to say then."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from demo.data import lexicon
from demo.data.core import Case, Message, Source, listing, system, user
from demo.data.skills import chat, facts
from demo.data.skills.toolbox import MAKERS, Tool


def call_markup(name: str, arguments: dict[str, Any]) -> str:
    """One call as the model writes it."""
    return (
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
    )


def call_message(calls: list[Tool], identifiers: list[str]) -> Message:
    """The assistant turn that made these calls, in the OpenAI form."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": identifier, "type": "function", "function": {"name": tool.name, "arguments": json.dumps(tool.arguments, ensure_ascii=False)}}
            for tool, identifier in zip(calls, identifiers, strict=True)
        ],
    }  # fmt: skip


def _result_message(tool: Tool, identifier: str) -> Message:
    return {
        "role": "tool",
        "tool_call_id": identifier,
        "content": json.dumps(tool.result, ensure_ascii=False),
    }


def _own_tool(source: Source, space: str = "call", *, not_named: frozenset[str] = frozenset()) -> Tool:
    """A tool whose question belongs to this split."""
    while True:
        tool = source.choice(MAKERS)(source)
        if tool.name not in not_named and source.split.owns(space, tool.question):
            return tool


def _declare(source: Source, wanted: list[Tool], extra: int | None = None) -> tuple[dict[str, Any], ...]:
    """The declarations of the wanted tools among up to three others, in random order."""
    declared: dict[str, dict[str, Any]] = {tool.name: tool.declaration() for tool in wanted}
    for _ in range(source.randint(0, 3) if extra is None else extra):
        other = source.choice(MAKERS)(source)
        if not _related(other.name, declared):
            declared[other.name] = other.declaration()
    order = source.sample(list(declared), len(declared))
    return tuple(declared[name] for name in order)


_RELATED = (
    ("event", "calendar"), ("weather",), ("timer",), ("time", "clock"), ("calc", "evaluate", "add", "multiply", "subtract"), ("search",), ("send",),
    ("convert", "exchange"), ("play",), ("stock",), ("light",),
)  # fmt: skip
"""Parts of names that tell the tools of one kind; the first match decides."""


def _family(name: str) -> str:
    return next((group[0] for group in _RELATED if any(part in name for part in group)), name)


def _related(name: str, declared: dict[str, Any]) -> bool:
    """Whether a declared tool could do the same, which would leave the choice open."""
    return _family(name) in {_family(other) for other in declared}


def _preamble(source: Source) -> tuple[Message, ...]:
    if source.chance(0.75):
        return ()
    return (
        system(
            source.choice(
                (
                    "You are a helpful assistant.",
                    "You are Shoal, a helpful assistant.",
                    "Use the tools when they help.",
                    "Be brief.",
                )
            )
        ),
    )


def _think(source: Source, text: str) -> str | None:
    return text if source.chance(0.15) else None


def call(source: Source) -> Case:
    tool = _own_tool(source)
    messages = (
        *_preamble(source),
        user(source.casual(tool.question) if source.chance(0.3) else tool.question),
    )
    thought = _think(source, f"The tool {tool.name} can do this.")
    return Case(
        "tool call",
        messages,
        call_markup(tool.name, tool.arguments),
        ("call", tool.question),
        _declare(source, [tool]),
        thought,
    )


def several_calls(source: Source) -> Case:
    """Two or three calls in one turn: of one tool with different arguments, or of different tools."""
    first = _own_tool(source)
    calls = [first]
    count = 2 if source.chance(0.75) else 3
    if source.chance(0.5):
        question = first.question
        while len(calls) < count:
            other = source.choice(MAKERS)(source)
            if other.name not in {t.name for t in calls} and not _related(
                other.name, {t.name: t for t in calls}
            ):
                calls.append(other)
                question += (
                    source.choice((" And ", " Then ", " Also: "))
                    + other.question[0].lower()
                    + other.question[1:]
                )
        text, declared = question, calls
    else:
        calls = [_single_argument_tool(source)]
        ((key, value),) = calls[0].arguments.items()
        values = [value]
        while len(values) < count:
            more = _another_value(source, calls[0])
            if more not in values:
                values.append(more)
        calls += [replace(calls[0], arguments={key: more}) for more in values[1:]]
        text, declared = calls[0].question.replace(value, listing(values), 1), calls[:1]
    answer = "\n".join(call_markup(t.name, t.arguments) for t in calls)
    thought = _think(source, f"I need {len(calls)} calls.")
    return Case(
        "several tool calls",
        (*_preamble(source), user(text)),
        answer,
        ("call", calls[0].question),
        _declare(source, declared, source.randint(0, 2)),
        thought,
    )


def _single_argument_tool(source: Source) -> Tool:
    """A tool that takes a city, a song or a stock and nothing else."""
    while True:
        tool = _own_tool(source)
        one_text = len(tool.arguments) == 1 and all(
            isinstance(value, str) for value in tool.arguments.values()
        )
        if one_text and _family(tool.name) in ("weather", "time", "play", "stock"):
            return tool


def _another_value(source: Source, tool: Tool) -> str:
    """A further value of the kind that the tool's one argument takes."""
    family = _family(tool.name)
    if family == "play":
        return source.pseudo_word(2).title()
    if family == "stock":
        return "".join(source.choice("ABCDEFGHIKLMNOPRSTVWXZ") for _ in range(source.randint(3, 4)))
    return source.choice(lexicon.CITIES)


def no_call(source: Source) -> Case:
    """Tools are declared, but the question needs none of them."""
    inner = source.choice((chat.small_talk, facts.fact, chat.small_talk, chat.told_now))(source)
    tools = _declare(source, [], source.randint(1, 4)) or _declare(source, [_own_tool(source)])
    return Case(
        "no tool needed",
        (*_preamble(source), *inner.messages),
        inner.answer,
        inner.key,
        tools,
        None,
        inner.accepted,
    )


_OUTSIDE = ("weather", "timer", "time", "search", "send", "convert", "event", "play", "stock", "light")
NO_TOOL = "I have no tool for that."


def missing_tool(source: Source) -> Case:
    """The question needs a tool that was not declared."""
    wanted = _own_tool(source)
    if source.chance(0.3):  # no tools at all, for what nobody could mistake for a sum
        while _family(wanted.name) not in _OUTSIDE:
            wanted = _own_tool(source)
        return Case("no tool needed", (user(wanted.question),), NO_TOOL, ("call", wanted.question))
    tools: tuple[dict[str, Any], ...] = ()
    while not tools:
        declared = _declare(source, [], source.randint(1, 3))
        tools = tuple(t for t in declared if _family(t["function"]["name"]) != _family(wanted.name))
    return Case(
        "no tool needed",
        (*_preamble(source), user(wanted.question)),
        NO_TOOL,
        ("call", wanted.question),
        tools,
    )


def answer_result(source: Source) -> Case:
    tool = _own_tool(source)
    identifier = f"call_{source.randint(0, 9999)}"
    messages = (
        *_preamble(source),
        user(tool.question),
        call_message([tool], [identifier]),
        _result_message(tool, identifier),
    )
    return Case(
        "tool result",
        messages,
        tool.reply,
        ("call", tool.question),
        _declare(source, [tool]),
        _think(source, "The tool has answered."),
    )


def answer_several_results(source: Source) -> Case:
    first = _own_tool(source)
    second = _own_tool(source, not_named=frozenset({first.name}))
    text = first.question + " And " + second.question[0].lower() + second.question[1:]
    identifiers = ["call_1", "call_2"]
    messages = (*_preamble(source), user(text), call_message([first, second], identifiers),
                _result_message(first, "call_1"), _result_message(second, "call_2"))  # fmt: skip
    return Case(
        "tool result",
        messages,
        f"{first.reply} {second.reply}",
        ("call", first.question),
        _declare(source, [first, second]),
    )


def follow_up(source: Source) -> Case:
    """A second question after a call, its result and its answer: another call."""
    first, second = _own_tool(source), _own_tool(source)
    while second.name != first.name and _related(second.name, {first.name: first}):
        second = _own_tool(source)
    messages = (*_preamble(source), user(first.question), call_message([first], ["call_1"]), _result_message(first, "call_1"),
                {"role": "assistant", "content": first.reply}, user(second.question))  # fmt: skip
    declared = [first, second] if second.name != first.name else [second]
    return Case(
        "tool call",
        messages,
        call_markup(second.name, second.arguments),
        ("call", second.question),
        _declare(source, declared, 1),
    )


SKILLS = {
    "tool call": call,
    "tool call, again": follow_up,
    "several tool calls": several_calls,
    "no tool needed": no_call,
    "missing tool": missing_tool,
    "tool result": answer_result,
    "several tool results": answer_several_results,
}
