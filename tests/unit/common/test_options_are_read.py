"""No option is swallowed: each that is accepted is read somewhere."""

import re
from pathlib import Path

import pytest

from services.common.options.tables import ALL_OPTIONS

SERVICES = Path(__file__).resolve().parents[3] / "services"
# Read by parse() itself.
BY_THE_PARSER = {"config"}


@pytest.fixture(scope="module")
def source() -> str:
    files = (path for path in SERVICES.rglob("*.py") if "options" not in path.parts)
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("name", [o.name for o in ALL_OPTIONS if o.name not in BY_THE_PARSER])
def test_an_accepted_option_is_read(name: str, source: str):
    assert re.search(rf"settings\.{name}\b", source), f"--{name} is accepted and does nothing"
