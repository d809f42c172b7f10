from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.parsers.markup import MarkupParser


def parse(
    text: str, cuts: list[int] | None = None, **options: object
) -> tuple[str, str, list[tuple[str, str]]]:
    """(reasoning, content, calls) of a text that comes in pieces."""
    parser = MarkupParser(**({"thinking": True, "tools": True} | options))  # type: ignore[arg-type]
    bounds = [0, *sorted({cut for cut in cuts or [] if 0 < cut < len(text)}), len(text)]
    reasoning = content = ""
    calls: list[list[str]] = []
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        parsed = parser.push(text[start:end], final=i == len(bounds) - 2)
        reasoning += parsed.reasoning
        content += parsed.content
        for call in parsed.calls:
            if call.name:
                assert call.index == len(calls)
                calls.append([call.name, ""])
            assert call.index == len(calls) - 1
            calls[call.index][1] += call.arguments
    return reasoning, content, [(name, arguments) for name, arguments in calls]


CASES = {
    "plain": ("Hello,  world.\n", ("", "Hello,  world.\n", [])),
    "leading space is text": ("  indented", ("", "  indented", [])),
    "reasoning then answer": (
        "<think>\nLet me see.\n\n</think>\n\nForty-two.",
        ("Let me see.", "Forty-two.", []),
    ),
    "empty reasoning": ("<think>\n\n</think>\n\nHi", ("", "Hi", [])),
    "unended reasoning": ("<think>never done", ("never done", "", [])),
    "one call": (
        '<tool_call>\n{"name": "f", "arguments": {"city": "Paris"}}\n</tool_call>',
        ("", "", [("f", '{"city": "Paris"}')]),
    ),
    "text, two calls": (
        'I look.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {"a": [1, {"b": "}"}]}}\n</tool_call>',
        ("", "I look.", [("f", "{}"), ("g", '{"a": [1, {"b": "}"}]}')]),
    ),
    "arguments before the name": (
        '<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>',
        ("", "", [("f", '{"x": 1}')]),
    ),
    "no arguments": ('<tool_call>{"name": "f"}</tool_call>', ("", "", [("f", "{}")])),
    "arguments as a string": (
        '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>',
        ("", "", [("f", '{"x": 1}')]),
    ),
    "other keys": (
        '<tool_call>{"id": 3, "name": "f", "strict": true, "arguments": {"x": null}}</tool_call>',
        ("", "", [("f", '{"x": null}')]),
    ),
    "the end tag within a string": (
        '<tool_call>{"name": "f", "arguments": {"html": "</tool_call> \\" <think>"}}</tool_call>',
        ("", "", [("f", '{"html": "</tool_call> \\" <think>"}')]),
    ),
    "forgotten end tag": ('<tool_call>{"name": "f", "arguments": {}}', ("", "", [("f", "{}")])),
    "text after a call": (
        '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n\nDone. ',
        ("", "Done. ", [("f", "{}")]),
    ),
    "cut in the middle": ('<tool_call>{"name": "f", "arguments": {"a": "b', ("", "", [("f", '{"a": "b')])),
    "no JSON": ("<tool_call>call f please</tool_call>", ("", "<tool_call>call f please</tool_call>", [])),
    "no name": (
        '<tool_call>{"arguments": {}}</tool_call>',
        ("", '<tool_call>{"arguments": {}}</tool_call>', []),
    ),
    "cut before the name": ('<tool_call>{"na', ("", '<tool_call>{"na', [])),
    "almost tags": ("a < b, <thin ice>, <tool_cal", ("", "a < b, <thin ice>, <tool_cal", [])),
    "reasoning, then a call": (
        '<think>use f</think>\n<tool_call>{"name": "f", "arguments": {"é": "日"}}</tool_call>',
        ("use f", "", [("f", '{"é": "日"}')]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_form_is_split_alike_whole_and_character_by_character(name: str) -> None:
    text, expected = CASES[name]
    assert parse(text) == expected
    assert parse(text, list(range(len(text)))) == expected


@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(1, 150), max_size=12))
def test_no_way_of_cutting_a_text_changes_what_is_found(name: str, cuts: list[int]) -> None:
    text, expected = CASES[name]
    assert parse(text, cuts) == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(), values, max_size=4), st.lists(st.integers(1, 200), max_size=12), st.booleans()
)
def test_no_argument_is_ever_lost(arguments: dict[str, object], cuts: list[int], ascii_only: bool) -> None:
    call = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii_only)
    _, content, calls = parse(f"<tool_call>\n{call}\n</tool_call>", cuts)
    assert content == ""
    assert [(name, json.loads(text)) for name, text in calls] == [("f", arguments)]


@given(st.text(alphabet='<>/thinkol_ca{}": \n', max_size=60), st.lists(st.integers(1, 60), max_size=12))
def test_whatever_a_model_writes_is_split_alike_however_it_is_cut(text: str, cuts: list[int]) -> None:
    assert parse(text, cuts) == parse(text)


def test_special_tokens_are_removed_and_markup_is_left_where_it_is_not_asked_for() -> None:
    text = "<think>a</think><|end|>b<|e"
    options = {"thinking": False, "tools": False, "removed": ["<|end|>"]}
    for cuts in ([], list(range(len(text)))):
        assert parse(text, cuts, **options) == ("", "<think>a</think>b<|e", [])


def test_a_prompt_that_opened_the_reasoning_is_continued() -> None:
    assert parse("so it is</think>yes", starts_thinking=True) == ("so it is", "yes", [])
