"""``shoal options``: every setting of every service; docs/options.md is its ``--markdown`` form."""

from __future__ import annotations

from services.cli.arguments import Arguments
from services.common.options import Option, help_text
from services.common.options.tables import ALL_OPTIONS, NOT_YET

HEAD = """# Options

Made by `./shoal options --markdown`; a test keeps it current. Each option can be given as a flag
(`--max_queue 64`), in the environment (`SHOAL_MAX_QUEUE=64`) or in a TOML file named by `--config`; flags win over
the environment, the environment over the file. Dashes and underscores are the same. `./shoal config` shows what is
in effect. Secrets are best given by the environment: other users of a machine can read flags.

| option | default | for | meaning | also known as |
|---|---|---|---|---|
"""


def markdown() -> str:
    rows = "".join(_row(option) for option in sorted(ALL_OPTIONS, key=lambda o: o.name))
    later = "".join(f"| `--{name}` | {advice} |\n" for name, advice in sorted(NOT_YET.items()))
    return (
        HEAD
        + rows
        + "\n## Known from elsewhere, not here yet\n\nThese are refused by name, never swallowed.\n\n"
        "| option | instead |\n|---|---|\n" + later
    )


def _row(option: Option) -> str:
    default = option.to_text(option.default) if option.default not in ("", []) else ""
    if option.kind is bool:
        default = "on" if option.default else "off"
    meaning = option.help + (f" One of {', '.join(option.choices)}." if option.choices else "")
    also = ", ".join(f"`--{alias}`" for alias in option.aliases)
    services = ", ".join(option.services) if len(option.services) < 5 else "all"
    return f"| `--{option.name}` | {f'`{default}`' if default else ''} | {services} | {meaning} | {also} |\n"


def main(argv: list[str]) -> int:
    arguments = Arguments(prog="./shoal options", description="Every setting of every service.")
    arguments.add_argument("--markdown", action="store_true", help="as docs/options.md")
    flags = arguments.parse(argv)
    print(markdown() if flags.markdown else help_text("up"), end="" if flags.markdown else "\n")
    return 0
