"""Clients that never stop asking, for as long as something else is done to the system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

import httpx

from tests.faults.workload import Job, Outcome, differences, new_client, run_job


@dataclass(frozen=True, slots=True)
class Answer:
    """One request of the load. Times are of the wall clock, as those of `shoal trace`."""

    sent_at: float
    done_at: float
    job: Job
    outcome: Outcome


@dataclass(slots=True)
class Load:
    """``expected`` has an outcome for each of ``jobs``; ``failures`` tells what came back otherwise."""

    base_urls: list[str]
    jobs: list[Job]
    expected: list[Outcome]
    may_repeat: bool = False
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _is_over: bool = False

    async def during(self, work: Awaitable[None], num_clients: int = 16) -> None:
        """Keeps ``num_clients`` asking until ``work`` is done, and reads their last answers to the end."""
        async with new_client() as client:
            asking = [asyncio.create_task(self._ask(client, i, num_clients)) for i in range(num_clients)]
            try:
                await work
            finally:
                self._is_over = True
                await asyncio.gather(*asking)

    async def _ask(self, client: httpx.AsyncClient, first: int, step: int) -> None:
        i = first
        while not self._is_over:
            job, expected = self.jobs[i % len(self.jobs)], self.expected[i % len(self.jobs)]
            sent_at = time.time()
            outcome = await run_job(client, self.base_urls, job, may_repeat=self.may_repeat)
            self.answers.append(Answer(sent_at, time.time(), job, outcome))
            self.failures += differences([outcome], [expected])
            i += step + 1  # in time every client sends every job

    @property
    def worst_stall_s(self) -> float:
        return max((answer.outcome.worst_stall_s for answer in self.answers), default=0.0)
