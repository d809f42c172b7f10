"""A system with two of each service, and what the workload returns while nobody disturbs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import TWO_OF_EACH, Stack
from tests.faults.workload import Job, Outcome, jobs, run_all


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The workload, and what it returns."""

    jobs: list[Job]
    outcomes: list[Outcome]


@pytest.fixture(scope="session")
def faulty_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    flags = (*TWO_OF_EACH, "--model_name", "m", "--stream_retention", "60")
    with Stack(tmp_path_factory.mktemp("faults"), DEMO_MODEL, *flags) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(faulty_stack: Stack) -> Undisturbed:
    todo = jobs("m")
    outcomes = asyncio.run(run_all(faulty_stack.base_urls, todo))
    assert [o.error for o in outcomes if o.error] == []
    return Undisturbed(todo, outcomes)
