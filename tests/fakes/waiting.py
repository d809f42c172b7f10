"""Waiting for what will become true, in tests with real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], what: str = "", timeout_s: float = 30.0) -> None:
    """Returns when ``condition()`` is true; fails the test after ``timeout_s``.

    That is patience and no bound: a machine that is busy with other work may take long for anything.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited {timeout_s} s for {what or condition}"
        await asyncio.sleep(0.005)
