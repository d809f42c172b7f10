"""Clients of a simulated gateway: each reads its streams and checks every piece as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from services.common.bus import BusError
from services.common.errors import DeadlineExceeded, ShoalError
from services.common.messages.codec import unpack
from services.common.messages.frames import RUNNING
from services.common.messages.request import SamplingParams, StreamParams
from services.gateway.journal import Journal
from services.gateway.life.client import Client
from services.gateway.life.handle import RequestLife
from services.gateway.life.request import RequestState
from services.gateway.life.spec import Spec
from services.gateway.life.stream import Delta, Row
from services.gateway.log_writer import LogWriter
from services.gateway.retention import Position, Resume, split
from tests.fakes.runner import expected_ids, expected_scores
from tests.simulation.language import VOCAB_SIZE, Expected, expected_output
from tests.simulation.loop import Process
from tests.simulation.plan import Ask

NO_ROUTER_S = 5.0  # services/gateway/life/request.py, Patience: earlier, nobody is told that nobody is there


class Broken(Exception):
    """A promise was broken."""


class WatchedJournal(Journal):
    """Knows whether its beginning was ever confirmed: from then on, its stream can be taken up."""

    was_begun = False

    def on_written(self, index: int) -> None:
        super().on_written(index)
        self.was_begun = self.was_begun or index == 0


@dataclass
class Call:
    """One client call and how it went. ``how`` is empty while it runs."""

    ask: Ask
    process: Process  # the gateway's
    may_be_refused: bool = False  # the routers' lines are short
    started_at: float = 0.0
    ended_at: float = 0.0
    how: str = ""
    max_stall_s: float = 0.0  # the longest time without anything new
    read_at: float = 0.0
    has_begun: bool = False  # the client has the headers, and in them where to come back to
    journal: WatchedJournal | None = None  # of the gateway where it began
    was_resumed: bool = False  # at another gateway
    expected: list[Expected] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    state: RequestState | None = None
    seen_stale: bool = False  # the client was given rows of a superseded attempt

    def __post_init__(self) -> None:
        ask, n = self.ask, self.ask.num_choices
        self.ids, self.texts, self.finished = [[] for _ in range(n)], [""] * n, [False] * n
        self.expected = [
            expected_output(
                expected_ids(
                    list(ask.prompt), ask.seed + i, ask.max_tokens, VOCAB_SIZE, frozenset(ask.stop_ids)
                ),
                stop_ids=ask.stop_ids,
                stop=ask.stop,
                include_stop=ask.include_stop,
                min_tokens=ask.min_tokens,
            )
            for i in range(n)
        ]

    @property
    def is_over(self) -> bool:
        """Ended, or broken off with its gateway and given up."""
        return bool(self.how) or (self.process.is_killed and not (self.ask.comes_back and self.has_begun))

    @property
    def progress(self) -> str:
        return ", ".join(f"{len(ids)}/{len(e.ids)}" for ids, e in zip(self.ids, self.expected, strict=True))

    def spec(self) -> Spec:
        ask = self.ask
        return Spec(
            request_id=ask.request_id,
            prompt_ids=list(ask.prompt),
            sampling=SamplingParams(ask.max_tokens, ask.min_tokens, stop_token_ids=list(ask.stop_ids)),
            stream=StreamParams(list(ask.stop), ask.include_stop),
            num_choices=ask.num_choices,
            seed=ask.seed,
            prompt_logprobs=1 if ask.is_scored else -1,
            timeout_s=ask.timeout_s,
        )

    async def run(self, client: Client) -> None:
        """Reads to the end. Runs in the gateway's process, and so dies with it."""
        clock = asyncio.get_running_loop().time
        self.started_at = self.read_at = clock()
        if self.ask.comes_back:
            writer = LogWriter(client.bus, client.subjects)
            self.journal = WatchedJournal(self.ask.request_id, b"kept", 60.0, writer)
        reading = self._read(lambda: client.submit([self.spec()]), self.journal)
        await self._judge(reading, self.ask.leaves_after)

    async def come_back(self, client: Client) -> None:
        """Goes on at another gateway, as GET /v1/streams/{id} with the last event's id does."""
        ask = self.ask
        try:
            log = await LogWriter(client.bus, client.subjects).read(ask.request_id)
        except BusError:
            return  # 503: tried again
        if not log.found and log.is_partial:
            return  # the same
        if not log.found:
            was_kept = self.journal is not None and self.journal.was_begun
            self.how = "BROKEN: its log is lost" if was_kept else "log lost"
            return
        client.evict(ask.request_id)
        self.was_resumed = True
        resume = Resume(log, list(self.positions), [list(ask.prompt)])
        restored = resume.restored(ask.num_choices, wants_logprobs=ask.is_scored)
        spec = self.spec()
        if not resume.misses_beginning(0, ask.num_choices):
            spec.prompt_logprobs = -1
        await self._judge(self._read(lambda: client.submit([spec], restored), None), None)

    async def _judge(self, reading: Coroutine[Any, Any, None], leaves_after: float | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(leaves_after):
                await reading
            self.how = "complete"
        except TimeoutError:
            self.how = "left"
        except ShoalError as error:
            self.how = self._judge_error(error, loop.time())
        except Broken as broken:
            self.how = f"BROKEN: {broken}"
        self.ended_at = loop.time()

    async def _read(self, submit: Callable[[], RequestLife], journal: Journal | None) -> None:
        async with submit() as life:
            self.state = life.states[0]
            self._watch_attempts(self.state)
            await life.accepted()
            if journal is not None:
                await journal.begin(life.attempt)
            self.has_begun = True
            while (deltas := await life.next()) is not None:
                now = asyncio.get_running_loop().time()
                self.max_stall_s, self.read_at = max(self.max_stall_s, now - self.read_at), now
                if journal is not None:
                    journal.add(deltas, life.attempt)
                for delta in deltas:
                    _, new = split(delta, self.positions[delta.choice])
                    if new is not None:
                        self._take(new)
        for i, expected in enumerate(self.expected):
            if not self.finished[i]:
                raise Broken(f"choice {i} ended at {len(self.ids[i])} of {len(expected.ids)} ids")

    @property
    def positions(self) -> list[Position]:
        """What the client has, choice by choice."""
        columns = zip(self.ids, self.texts, self.finished, strict=True)
        return [Position(len(ids), len(text), is_over) for ids, text, is_over in columns]

    def _watch_attempts(self, state: RequestState) -> None:
        """Breaks the call when a row of another attempt than the present one is taken for its client."""
        on_row = state.on_row

        def checked(choice: int, row: Row, worker_id: str, now: float) -> bool:
            attempt = state.attempt
            took = on_row(choice, row, worker_id, now)
            if took and row.attempt != attempt:
                self.seen_stale = True
            return took

        state.on_row = checked  # type: ignore[method-assign]

    def _take(self, delta: Delta) -> None:
        i = delta.choice
        expected, ids = self.expected[i], self.ids[i]
        if self.finished[i]:
            raise Broken(f"choice {i} goes on after its end")
        if self.seen_stale:
            raise Broken(f"choice {i} was given rows of a superseded attempt")
        if self.ask.is_scored and not ids:
            scores = delta.prompt_logprobs
            found = None if scores is None else unpack(scores.values, "float32")
            if found != expected_scores(list(self.ask.prompt)):
                raise Broken(f"choice {i} begins with the scores {found} of its prompt")
        ids += delta.ids
        self.texts[i] += delta.text
        if tuple(ids) != expected.ids[: len(ids)]:
            raise Broken(f"choice {i}: ids {ids}, expected {list(expected.ids)}")
        if not expected.text.startswith(self.texts[i]):
            raise Broken(f"choice {i}: text {self.texts[i]!r}, expected {expected.text!r}")
        if delta.finish != RUNNING:
            self.finished[i] = True
            found = Expected(tuple(ids), self.texts[i], delta.finish, delta.stop_reason)
            if found != expected:
                raise Broken(f"choice {i} ended as {found}, expected {expected}")

    def _judge_error(self, error: ShoalError, now: float) -> str:
        """An error is fine where it was promised."""
        lasted = now - self.started_at
        was_accepted = self.state is not None and self.state.was_accepted
        if isinstance(error, DeadlineExceeded) and self.ask.timeout_s and lasted >= self.ask.timeout_s - 1e-6:
            return "deadline"
        if error.code == "service_unavailable" and not was_accepted and lasted >= NO_ROUTER_S:
            return "unavailable"
        if error.code == "queue_full" and self.may_be_refused and not was_accepted and error.retry_after_s:
            return "refused"
        return f"BROKEN: {error.code} after {lasted:.2f} s: {error.message}"
