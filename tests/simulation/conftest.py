"""``--sim-seed N`` plays one world again with its timeline; ``--sim-seeds N`` (or SHOAL_SIM_SEEDS) says how many."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sim-seed", type=int, default=None, help="play this seed alone, with its timeline")
    parser.addoption("--sim-seeds", type=int, default=None, help="how many worlds to play")
