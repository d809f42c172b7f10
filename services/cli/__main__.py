"""``shoal COMMAND``: finds the command's module and runs it. Exit codes: 0 well, 1 not well, 2 wrong use."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from services.common.errors import ShoalError
from services.common.version import VERSION

# command -> (module with main(argv) -> exit code, one line of help). Modules are imported when used.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("services.cli.up", "start everything on this machine and keep it running"),
    "down": ("services.cli.down", "stop what `up` started"),
    "status": ("services.cli.status", "every service: id, pid, address, state, load"),
    "chat": ("services.cli.chat", "talk to the model in the terminal"),
    "check": ("services.cli.check", "test this machine and say what to do about each failure"),
    "trace": ("services.cli.trace", "what happened to a request, in all services"),
    "bench": ("services.cli.bench", "measure a server: shoal bench serve"),
    "config": ("services.cli.config", "the settings that `up` would use, and where each comes from"),
    "options": ("services.cli.options", "every setting of every service"),
    "test": ("services.cli.testing", "run all tests"),
}


def usage() -> str:
    commands = "\n".join(f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
    return (
        f"shoal {VERSION}: serves large language models as independent services\n\n"
        f"usage: ./shoal COMMAND [options]\n\n{commands}\n\n"
        "./shoal COMMAND --help shows a command's options."
    )


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("help", "--help", "-h"):
        print(usage())
        return 0
    if argv[0] in ("version", "--version", "-V"):
        print(VERSION)
        return 0
    if argv[0] not in COMMANDS:
        print(f"shoal: no command {argv[0]!r}; see ./shoal help", file=sys.stderr)
        return 2
    logging.getLogger().addHandler(
        logging.NullHandler()
    )  # the commands say themselves what people should know
    module = importlib.import_module(COMMANDS[argv[0]][0])
    try:
        return module.main(list(argv[1:]))
    except ShoalError as error:
        print(f"shoal {argv[0]}: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
