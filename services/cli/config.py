"""``shoal config``: the settings that `up` with the same flags would use, and where each comes from."""

from __future__ import annotations

import os

from services.common.options import parse


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(
            "./shoal config [options of up]\n\nShows every effective setting with its source; secrets are hidden."
        )
        return 0
    for name, shown in parse("up", argv, os.environ).describe().items():
        print(f"{name} = {shown}")
    return 0
