"""What the commands show in the terminal: plain lines, with colour only where a person watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_CODES = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}


class Screen:
    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self.is_terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = self.is_terminal and "NO_COLOR" not in os.environ

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._has_colour else text

    def line(self, text: str = "") -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def ok(self, text: str) -> None:
        self.line(f"{self.paint('✓', 'green')} {text}")

    def warn(self, text: str) -> None:
        self.line(f"{self.paint('!', 'yellow')} {text}")

    def bad(self, text: str) -> None:
        self.line(f"{self.paint('✗', 'red')} {text}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the left; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
