"""Flags of the commands other than `up`: argparse, with our one-line errors."""

from __future__ import annotations

import argparse
from typing import NoReturn

from services.common.options import OptionError


class Arguments(argparse.ArgumentParser):
    """Dashes and underscores are the same in long options, as in the option tables."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        return self.parse_args([_dashes(word) for word in argv])

    def add_run_choice(self) -> None:
        self.add_argument("--run", default="", metavar="NAME", help="which `up`, where several run")


def _dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, has_value, value = word.partition("=")
    return name.replace("_", "-") + has_value + value
