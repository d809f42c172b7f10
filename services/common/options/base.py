"""What an option is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.common.errors import ConfigError


class OptionError(ConfigError):
    """A setting that is unknown or has a wrong value. The message is one line for the terminal."""

    code = "bad_option"


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. ``kind`` bool is a flag; a list kind takes several words or a comma-separated list.

    Its environment variable is ``SHOAL_`` and the name in capitals. ``aliases`` are the spellings that users of
    other systems know; dashes and underscores are the same everywhere.
    """

    name: str
    kind: type  # str, int, float, bool, or list (of str)
    default: Any
    help: str
    services: tuple[str, ...]  # who reads it; "up" for the command line only
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False  # never shown

    @property
    def env(self) -> str:
        return "SHOAL_" + self.name.upper()

    def convert(self, raw: Any, source: str) -> Any:
        """The value of this kind from text (or a file's value). Raises OptionError naming ``source``."""
        try:
            value = self._typed(raw)
        except (TypeError, ValueError, OverflowError):
            raise OptionError(f"{source}: expected {self.kind.__name__}, found {raw!r}") from None
        for item in value if self.kind is list else [value]:
            if self.choices and item not in self.choices:
                raise OptionError(f"{source}: {item!r} is not one of {', '.join(self.choices)}")
        if isinstance(value, (int, float)) and value is not True and value is not False:
            if self.minimum is not None and not value >= self.minimum:
                raise OptionError(f"{source}: {value} is under the minimum of {self.minimum:g}")
            if self.maximum is not None and not value <= self.maximum:
                raise OptionError(f"{source}: {value} is over the maximum of {self.maximum:g}")
        return value

    def _typed(self, raw: Any) -> Any:
        if self.kind is bool:
            if isinstance(raw, bool):
                return raw
            word = str(raw).strip().lower()
            if word in ("1", "true", "yes", "on"):
                return True
            if word in ("0", "false", "no", "off", ""):
                return False
            raise ValueError(raw)
        if self.kind is list:
            items = raw if isinstance(raw, list) else str(raw).split(",")
            return [str(item).strip() for item in items if str(item).strip()]
        if self.kind is str:
            return str(raw)
        if isinstance(raw, bool):
            raise TypeError(raw)
        if self.kind is int and isinstance(raw, float) and raw != int(raw):
            raise ValueError(raw)
        return self.kind(raw)

    def to_text(self, value: Any) -> str:
        """The value as an environment variable holds it."""
        if self.kind is list:
            return ",".join(value)
        if self.kind is bool:
            return "1" if value else "0"
        return str(value)
