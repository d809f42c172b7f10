"""Prints what pyproject.toml requires for some of its extras: ``python deploy/requirements.py gateway cli``.

The project itself is never installed: it runs from its checkout, or from the files copied into an image.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(project_file: Path, extras: list[str]) -> list[str]:
    project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    return list(dict.fromkeys(wanted))


if __name__ == "__main__":
    print("\n".join(requirements(Path(__file__).resolve().parents[1] / "pyproject.toml", sys.argv[1:])))
