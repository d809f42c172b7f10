"""``./shoal test --soak 30m [--seed N]``: kills at random for as long as asked."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.fakes.stack import Stack
from tests.faults.conftest import Undisturbed
from tests.faults.load import Load
from tests.faults.soak import Soak

SECONDS = float(os.environ.get("SHOAL_SOAK_SECONDS", "0"))


@pytest.mark.soak
@pytest.mark.skipif(not SECONDS, reason="runs by ./shoal test --soak")
def test_random_kills_lose_no_request(faulty_stack: Stack, undisturbed: Undisturbed) -> None:
    load = Load(faulty_stack.base_urls, undisturbed.jobs, undisturbed.outcomes, may_repeat=True)
    soak = Soak(faulty_stack, load, int(os.environ.get("SHOAL_SOAK_SEED", "0")), SECONDS)
    try:
        asyncio.run(soak.run())
    finally:
        print(soak.report())  # also when the system did not get whole again
        print(*load.failures, sep="\n")
    assert load.failures == []
