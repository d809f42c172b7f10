"""Splits a model's text into reasoning, content and tool calls, however the text is cut into pieces.

``<think> ... </think>`` is reasoning; ``<tool_call> {...} </tool_call>`` is a call (Hermes, Qwen). Tags are looked
for outside of a call's JSON only. What may yet become a tag is held back until it is decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.gateway.parsers.tool_call import ToolCallReader

THINK, END_THINK, CALL, END_CALL = "<think>", "</think>", "<tool_call>", "</tool_call>"
MARKUP = (THINK, END_THINK, CALL, END_CALL)


@dataclass(slots=True)
class CallDelta:
    """News of one tool call: its name comes once, with the first delta."""

    index: int
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Parsed:
    content: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls)


class MarkupParser:
    """One choice's text. ``removed``: texts of special tokens that are dropped wherever they stand.

    White space next to a tag is layout and is dropped; all other text is given out as it came.
    """

    def __init__(
        self, *, thinking: bool, tools: bool, removed: Iterable[str] = (), starts_thinking: bool = False
    ) -> None:
        tags = [*((THINK, END_THINK) if thinking else ()), *((CALL,) if tools else ()), *removed]
        self._tags = tuple(sorted(tags, key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self._tags)) or r"(?!)")
        self._held = ""  # the beginning of a tag, perhaps
        self._space = ""  # layout, if a tag follows
        self._is_thinking = starts_thinking
        self._follows_tag = starts_thinking  # nothing but space has come since
        self._call: ToolCallReader | None = None
        self._call_text = ""  # of a call whose name is not known yet: it may turn out to be none
        self.num_calls = 0

    def push(self, text: str, *, final: bool = False) -> Parsed:
        """What is certain after more text; everything, when it is the last."""
        parsed = Parsed()
        rest, self._held = self._held + text, ""
        while rest:
            if self._call is None:
                rest = self._read_text(rest, parsed, final=final)
            elif self._call.is_complete:
                rest = self._read_end_tag(rest)
            else:
                rest = self._read_call(self._call, rest, parsed)
        if final:
            self._finish(parsed)
        return parsed

    def _read_text(self, text: str, parsed: Parsed, *, final: bool) -> str:
        """Takes text up to and with the next tag; returns what is left."""
        match = self._pattern.search(text)
        if match is None:
            keep = 0 if final else self._partial_tag(text)
            self._held = text[len(text) - keep :]
            self._give(text[: len(text) - keep], parsed)
            return ""
        self._give(text[: match.start()], parsed)
        tag = match.group()
        if tag == CALL:
            self._call, self._call_text = ToolCallReader(), CALL
        elif tag in (THINK, END_THINK):
            self._is_thinking = tag == THINK
            self._space, self._follows_tag = "", True
        return text[match.end() :]

    def _partial_tag(self, text: str) -> int:
        """Length of the longest end of the text with which some tag begins."""
        longest = max(map(len, self._tags), default=0)
        for size in range(min(longest - 1, len(text)), 0, -1):
            end = text[-size:]
            if any(tag.startswith(end) for tag in self._tags):
                return size
        return 0

    def _give(self, text: str, parsed: Parsed) -> None:
        text = self._space + text
        if self._follows_tag:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if not kept:
            return
        self._follows_tag = False
        if self._is_thinking:
            parsed.reasoning += kept
        else:
            parsed.content += kept

    def _read_call(self, call: ToolCallReader, text: str, parsed: Parsed) -> str:
        used = call.push(text)
        if self._call_text:
            self._call_text += text[:used]
        if call.is_broken:
            self._give_up(parsed)
            return text[used:]
        arguments = call.take_arguments()
        if call.name and self._call_text:
            parsed.calls.append(CallDelta(self.num_calls, call.name, arguments))
            self.num_calls += 1
            self._call_text = ""
            self._space, self._follows_tag = "", True
        elif arguments:
            self._add_arguments(arguments, parsed)
        return text[used:]

    def _add_arguments(self, text: str, parsed: Parsed) -> None:
        index = self.num_calls - 1
        if not parsed.calls or parsed.calls[-1].index != index:
            parsed.calls.append(CallDelta(index))
        parsed.calls[-1].arguments += text

    def _read_end_tag(self, text: str) -> str:
        """Behind a call's object only the end tag is expected; some models forget it."""
        stripped = text.lstrip()
        if stripped != END_CALL and END_CALL.startswith(stripped):
            self._held = text
            return ""
        self._call = None
        return stripped.removeprefix(END_CALL)

    def _give_up(self, parsed: Parsed) -> None:
        """It was no call: its text is content like any other. One that was begun to be reported just ends."""
        text, self._call, self._call_text = self._call_text, None, ""
        self._give(text, parsed)

    def _finish(self, parsed: Parsed) -> None:
        if self._call is not None and not self._call.is_complete:
            self._give_up(parsed)
        if not self._is_thinking:
            parsed.content += self._space
        self._call, self._space, self._held = None, "", ""
