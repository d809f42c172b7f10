"""One tool call in the Hermes form, ``{"name": "f", "arguments": {...}}``, read character by character.

The arguments are passed on as they come, word for word, so that a client sees them grow and none is ever lost
to a parser that waits for valid JSON.
"""

from __future__ import annotations

import json
from enum import Enum


class _At(Enum):
    START = "before the opening brace"
    KEY = "before a key, a comma or the closing brace"
    COLON = "between a key and its value"
    VALUE = "in a value"
    END = "after the closing brace"
    BROKEN = "not the JSON that was expected"


class ToolCallReader:
    """Fed with ``push``. ``name`` is set once it is complete; ``take_arguments`` gives what came of them since.

    After the object is closed, ``is_complete`` is true and whatever follows is not read. Text that is no such
    object sets ``is_broken``.
    """

    def __init__(self) -> None:
        self.name = ""
        self._at = _At.START
        self._key = ""
        self._token: list[str] = []  # of the key or value that is being read
        self._depth = 0  # of brackets within a value
        self._in_string = self._is_escaped = False
        self._arguments: list[str] = []  # not yet taken
        self._has_arguments = False
        self._holds_string = False  # the arguments are JSON within a JSON string

    @property
    def is_complete(self) -> bool:
        return self._at is _At.END

    @property
    def is_broken(self) -> bool:
        return self._at is _At.BROKEN

    def push(self, text: str) -> int:
        """Reads; returns how many characters belong to the object."""
        for i, char in enumerate(text):
            if self._at in (_At.END, _At.BROKEN):
                return i
            self._step(char)
        return len(text)

    def take_arguments(self) -> str:
        """New text of the arguments; only once the name is known."""
        if not self.name:
            return ""
        if self.is_complete and not self._has_arguments:
            self._has_arguments = True
            return "{}"
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def _step(self, char: str) -> None:
        if self._at is _At.VALUE:
            self._read_value(char)
        elif self._in_string:
            self._read_string(char)
            if not self._in_string:
                self._key = str(_loads("".join(self._token)))
                self._at = _At.COLON
        elif char.isspace():
            return
        elif self._at is _At.START:
            self._at = _At.KEY if char == "{" else _At.BROKEN
        elif self._at is _At.KEY:
            self._begin_key(char)
        elif char == ":":
            self._at, self._token, self._depth = _At.VALUE, [], 0
            self._holds_string = False
        else:
            self._at = _At.BROKEN

    def _begin_key(self, char: str) -> None:
        if char == '"':
            self._token = [char]
            self._in_string = True
        elif char == "}":
            self._at = _At.END if self.name else _At.BROKEN
        elif char != ",":
            self._at = _At.BROKEN

    def _read_string(self, char: str) -> None:
        self._token.append(char)
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._in_string = False

    def _read_value(self, char: str) -> None:
        if self._in_string:
            self._read_string(char)
            self._pass_on(char)
            if not self._in_string and not self._depth:
                self._end_value()
        elif not self._token and char.isspace():
            return
        elif not self._depth and self._token and (char in ",}" or char.isspace()):
            self._end_value()  # a number, true, false or null
            self._step(char)
        else:
            if not self._token:
                self._holds_string = char == '"'
            self._token.append(char)
            self._in_string = char == '"'
            self._depth += (char in "{[") - (char in "}]")
            self._pass_on(char)
            if not self._depth and char in "}]":
                self._end_value()

    def _pass_on(self, char: str) -> None:
        if self._key in ("arguments", "parameters") and not self._holds_string:
            self._has_arguments = True
            self._arguments.append(char)

    def _end_value(self) -> None:
        self._at = _At.KEY
        if self._key == "name":
            value = _loads("".join(self._token))
            if not isinstance(value, str) or not value:
                self._at = _At.BROKEN
            elif not self.name:
                self.name = value
        elif self._key in ("arguments", "parameters") and self._holds_string:
            self._has_arguments = True
            self._arguments.append(str(_loads("".join(self._token))))


def _loads(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return text
