"""Settings from flags, environment and a TOML file; flags win over environment, environment over the file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.common.options.base import Option, OptionError
from services.common.options.tables import ALL_OPTIONS, NOT_YET


class Settings:
    """The effective values, as attributes: ``settings.tp``. Knows where each came from."""

    def __init__(self, options: Sequence[Option], values: dict[str, Any], sources: dict[str, str]) -> None:
        self._options = {o.name: o for o in options}
        self._values, self._sources = values, sources

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no option {name!r} for this service") from None

    def is_set(self, name: str) -> bool:
        """Whether somebody chose the value."""
        return self._sources.get(name, "default") != "default"

    def describe(self) -> dict[str, str]:
        """Effective configuration for people: every value with its source, secrets hidden."""
        shown: dict[str, str] = {}
        for name, option in sorted(self._options.items()):
            value = "***" if option.secret and self._values[name] else option.to_text(self._values[name])
            shown[name] = f"{value}  ({self._sources[name]})"
        return shown


def options_of(service: str) -> list[Option]:
    """The options that one service reads; ``up`` reads all."""
    return [o for o in ALL_OPTIONS if service == "up" or service in o.services]


def _spelling(word: str) -> str:
    return word.lstrip("-").replace("-", "_").lower()


def parse(
    service: str, argv: Sequence[str], env: Mapping[str, str], *, options: Iterable[Option] | None = None
) -> Settings:
    """Reads one service's settings. Raises OptionError in one line for whatever is wrong."""
    table = list(options) if options is not None else options_of(service)
    flags = _read_flags(table, argv)
    file_path = flags.get("config") or env.get("SHOAL_CONFIG") or ""
    from_file = _read_file(table, file_path)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in table:
        raw, source = option.default, "default"
        if option.name in from_file:
            raw, source = from_file[option.name], f"file {file_path}"
        if option.env in env:
            raw, source = env[option.env], f"environment {option.env}"
        if option.name in flags:
            raw, source = flags[option.name], "flag"
        where = f"--{option.name}" if source in ("flag", "default") else f"{option.name} from {source}"
        values[option.name] = raw if source == "default" else option.convert(raw, where)
        sources[option.name] = source
    return Settings(table, values, sources)


def environment(settings: Settings) -> dict[str, str]:
    """The chosen settings as environment variables, for the services that `up` starts."""
    return {
        option.env: option.to_text(settings._values[name])
        for name, option in settings._options.items()
        if settings.is_set(name) and name != "config"
    }


def _index(table: Iterable[Option]) -> dict[str, Option]:
    index: dict[str, Option] = {}
    for option in table:
        for name in (option.name, *option.aliases):
            index[_spelling(name)] = option
    return index


def _read_flags(table: Sequence[Option], argv: Sequence[str]) -> dict[str, Any]:
    index = _index(table)
    found: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise OptionError(f"unexpected argument {word!r}: options start with --")
        name, has_value, value = word.partition("=")
        option = index.get(_spelling(name))
        if option is None:
            raise OptionError(unknown(name, table))
        if option.kind is bool:
            found[option.name] = value if has_value else _flag_word(words)
        elif option.kind is list:
            items = value.split(",") if has_value else []
            while not has_value and words and not words[0].startswith("--"):
                items += words.pop(0).split(",")
            found[option.name] = [*found.get(option.name, []), *items]
        elif has_value:
            found[option.name] = value
        elif words and (not words[0].startswith("--")):
            found[option.name] = words.pop(0)
        else:
            raise OptionError(f"--{option.name} needs a value")
    return found


def _flag_word(words: list[str]) -> Any:
    if words and words[0].lower() in ("true", "false", "on", "off", "yes", "no", "0", "1"):
        return words.pop(0)
    return True


def unknown(flag: str, table: Iterable[Option]) -> str:
    """Why a flag is refused, with a pointer to the closest one."""
    name = _spelling(flag)
    if name in NOT_YET:
        return f"{flag} is not there yet: {NOT_YET[name]}"
    close = difflib.get_close_matches(name, list(_index(table)), n=1, cutoff=0.6)
    hint = f"; the closest is --{_index(table)[close[0]].name}" if close else "; see --help"
    return f"unknown option {flag}{hint}"


def _read_file(table: Sequence[Option], path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"--config {path}: {error}") from None
    index, everyone = _index(table), _index(ALL_OPTIONS)
    found: dict[str, Any] = {}
    for name, value in content.items():
        if _spelling(name) in index:
            found[index[_spelling(name)].name] = value
        elif _spelling(name) not in everyone:
            raise OptionError(f"{path}: {unknown(name, ALL_OPTIONS)}")
    return found


def help_text(service: str) -> str:
    lines = []
    for option in sorted(options_of(service), key=lambda o: o.name):
        extra = f" [{'|'.join(option.choices)}]" if option.choices else ""
        also = f" (also --{', --'.join(option.aliases)})" if option.aliases else ""
        shown = option.to_text(option.default) if option.default not in (None, "", []) else "none"
        lines.append(f"  --{option.name}{extra}\n      {option.help} Default: {shown}.{also}")
    return "\n".join(lines)
