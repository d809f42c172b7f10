"""A router, a worker and a detokenizer in one object, with scripted output: what a gateway talks to.

It speaks the real messages over a real bus and keeps the promises of docs/architecture.md (attempts, indices,
Holdings, Replay, Cancel), but draws no tokens: ``script`` says what each choice will be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.bus import Bus, Message, Subscription
from services.common.messages.codec import decode, encode, pack
from services.common.messages.control import Bounced, Cancel, Holdings, Replay
from services.common.messages.events import READY, STOPPED, Heartbeat, WorkerLoad
from services.common.messages.frames import (
    ERROR,
    LENGTH,
    RUNNING,
    STOP,
    PromptLogprobs,
    RowLogprobs,
    TextFrame,
)
from services.common.messages.request import (
    ChoiceState,
    GenerateRequest,
    SubmitReply,
    split_stream_id,
    stream_id,
)
from services.common.subjects import Subjects

HEARTBEAT_S = 0.05


@dataclass(slots=True)
class Script:
    """One choice's output: (id, text) pairs, and how it ends. ``stop_reason`` goes with STOP."""

    tokens: list[tuple[int, str]]
    finish: int = STOP
    stop_reason: int | str | None = None
    error: str = ""
    cached_tokens: int = 0


def words(text: str, *, first_id: int = 10, **fields: object) -> Script:
    """A script that says ``text`` word by word."""
    parts = text.split(" ")
    pieces = [parts[0], *(" " + part for part in parts[1:])]
    return Script([(first_id + i, piece) for i, piece in enumerate(pieces)], **fields)  # type: ignore[arg-type]


MakeScript = Callable[[GenerateRequest, ChoiceState], Script]


@dataclass(slots=True)
class Running:
    request: GenerateRequest
    scripts: dict[int, Script]
    sent: dict[int, int]  # choice -> tokens sent
    is_scored: bool = False  # the prompt's log probabilities were sent
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


@dataclass(slots=True)
class FakeBackend:
    """``name`` distinguishes several. ``token_s`` is the pause before each token."""

    bus: Bus
    subjects: Subjects
    model: str
    script: MakeScript
    name: str = "1"
    token_s: float = 0.0
    max_request_tokens: int = 2048
    refuse: SubmitReply | None = None  # the answer to every submission, instead of taking it
    loses: Callable[[str, int], bool] = lambda stream, index: False  # drops a token's frame
    submitted: list[GenerateRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    replayed: list[str] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    is_frozen: bool = False  # sends nothing at all, as a stopped process
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _subscriptions: list[Subscription] = field(default_factory=list)

    @property
    def worker_id(self) -> str:
        return f"worker-{self.name}"

    def client_requests(self) -> list[GenerateRequest]:
        """What was submitted, gateways' canaries apart."""
        return [request for request in self.submitted if not request.request_id.startswith("canary")]

    async def start(self) -> None:
        subjects, worker = self.subjects, self.worker_id
        for subject, handler, queue in (
            (subjects.submit(self.model), self._on_submit, "routers"),
            (subjects.cancel(), self._on_cancel, ""),
            (subjects.worker_cancel(worker), self._on_cancel, ""),
            (subjects.worker_replay(worker), self._on_replay, ""),
        ):
            self._subscriptions.append(await self.bus.subscribe(subject, handler, queue))
        self._tasks.append(asyncio.create_task(self._beat()))

    async def stop(self) -> None:
        """Dies without a word."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()
        for task in self._tasks + [t for r in self.running.values() for t in r.tasks]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.running.clear()

    async def bounce(self) -> None:
        """Gives everything back, as a worker that drains."""
        for request_id, run in list(self.running.items()):
            self._drop(request_id)
            bounced = Bounced(self.worker_id, [request_id], [run.request.attempt], "drain")
            await self.bus.publish(self.subjects.gateway_bounced(run.request.gateway_id), encode(bounced))

    async def freeze(self) -> None:
        """Sends nothing and takes nothing, as a process that is stopped by SIGSTOP; it goes on in its mind."""
        self.is_frozen = True
        await self._subscriptions.pop(0).unsubscribe()  # that of submissions

    def thaw(self) -> None:
        self.is_frozen = False

    async def say_stopped(self) -> None:
        await self._send_beats(STOPPED)

    # -- heartbeats and holdings -----------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            if not self.is_frozen:
                await self._send_beats(READY)
                await self._send_holdings()
            await asyncio.sleep(HEARTBEAT_S)

    async def _send_beats(self, state: str) -> None:
        for service in ("router", "worker", "detokenizer"):
            beat = Heartbeat(service, f"{service}-{self.name}", 1, state, HEARTBEAT_S, self.model)
            if service == "worker":
                beat.worker = WorkerLoad(max_request_tokens=self.max_request_tokens)
            await self.bus.publish(self.subjects.heartbeat(service, beat.instance_id), encode(beat))

    async def _send_holdings(self) -> None:
        by_gateway: dict[str, Holdings] = {}
        for request_id, run in self.running.items():
            gateway = run.request.gateway_id
            held = by_gateway.setdefault(gateway, Holdings("worker", self.worker_id))
            held.request_ids.append(request_id)
            held.attempts.append(run.request.attempt)
            for choice, sent in run.sent.items():
                held.streams.append(stream_id(request_id, choice))
                held.stream_attempts.append(run.request.attempt)
                held.next_index.append(sent)
                held.finished.append(int(sent >= len(run.scripts[choice].tokens)))
        for gateway, held in by_gateway.items():
            await self.bus.publish(self.subjects.gateway_holdings(gateway), encode(held))

    # -- requests --------------------------------------------------------------------------------------------

    async def _on_submit(self, message: Message) -> None:
        request = decode(GenerateRequest, message.data)
        self.submitted.append(request)
        reply = self.refuse or SubmitReply(True, f"router-{self.name}")
        if reply.accepted:
            self._drop(request.request_id)
            scripts = {choice.index: self.script(request, choice) for choice in request.choices}
            sent = {choice.index: len(choice.output_ids) for choice in request.choices}
            run = self.running[request.request_id] = Running(request, scripts, sent)
            for choice in scripts:
                run.tasks.append(asyncio.create_task(self._generate(run, choice)))
        await self.bus.publish(message.reply, encode(reply))

    async def _generate(self, run: Running, choice: int) -> None:
        script = run.scripts[choice]
        while run.sent[choice] < len(script.tokens):
            await asyncio.sleep(self.token_s)
            index = run.sent[choice]
            await self._send_scores(run, choice, self.loses)
            run.sent[choice] += 1
            if not self.is_frozen and not self.loses(stream_id(run.request.request_id, choice), index):
                await self._send_row(run, choice, index, index + 1)

    async def _send_row(self, run: Running, choice: int, first: int, end: int) -> None:
        script, request = run.scripts[choice], run.request
        limit = request.sampling.max_tokens
        tokens = script.tokens[first:end] if limit else []
        finish = RUNNING
        if end >= limit:
            finish, end = LENGTH, limit
        elif end == len(script.tokens):
            finish = script.finish
        if finish != RUNNING:
            run.sent[choice] = len(script.tokens)
        frame = TextFrame(
            worker_id=self.worker_id,
            detokenizer_id=request.detokenizer_id,
            streams=[stream_id(request.request_id, choice)],
            attempts=[request.attempt],
            first=[first],
            counts=[len(tokens)],
            ids=[token for token, _ in tokens],
            texts=["".join(text for _, text in tokens)],
            text_offset=[sum(len(text) for _, text in script.tokens[:first])],
            finish=[finish],
            cached_tokens=[script.cached_tokens],
        )
        if finish == STOP and script.stop_reason is not None:
            frame.stop_reasons[0] = script.stop_reason
        if finish == ERROR:
            frame.errors[0] = script.error
        num_top = request.sampling.num_logprobs
        if num_top >= 0:
            frame.logprobs[0] = self._logprobs(frame.ids, num_top)
        await self.bus.publish(self.subjects.gateway_frames(request.gateway_id), encode(frame))

    async def _send_scores(self, run: Running, choice: int, loses: Callable[[str, int], bool]) -> None:
        """The prompt's log probabilities, once, a few ids to a row; a loss names the first id, as less than 0."""
        request = run.request
        if request.prompt_logprobs < 0 or choice != request.choices[0].index or run.is_scored:
            return
        run.is_scored = True
        stream, prompt = stream_id(request.request_id, choice), request.prompt_ids
        for first in range(1, len(prompt), 3):
            if self.is_frozen or loses(stream, -first):
                continue
            frame = TextFrame(
                self.worker_id,
                request.detokenizer_id,
                [stream],
                [request.attempt],
                [0],
                [0],
                [],
                [""],
                [0],
                [RUNNING],
                [0],
            )
            scores = self._logprobs(prompt[first : first + 3], request.prompt_logprobs)
            frame.prompt_logprobs[0] = PromptLogprobs(
                first,
                pack(scores.values, "float32"),
                pack([1] * len(scores.values), "int32"),
                scores.num_top,
                pack(scores.top_ids, "int32"),
                pack(scores.top_values, "float32"),
            )
            await self.bus.publish(self.subjects.gateway_frames(request.gateway_id), encode(frame))

    @staticmethod
    def _logprobs(ids: list[int], num_top: int) -> RowLogprobs:
        """An id's log probability is -id/100; the likeliest are the ids that follow it."""
        top_ids = [token + k for token in ids for k in range(num_top)]
        return RowLogprobs([-i / 100 for i in ids], num_top, top_ids, [-i / 100 for i in top_ids])

    async def _on_replay(self, message: Message) -> None:
        replay = decode(Replay, message.data)
        for name, attempt in zip(replay.streams, replay.attempts, strict=True):
            request_id, choice = split_stream_id(name)
            run = self.running.get(request_id)
            if run is not None and run.request.attempt == attempt:
                self.replayed.append(name)
                run.request.detokenizer_id = replay.detokenizer_id
                run.is_scored = False
                await self._send_scores(run, choice, lambda stream, index: False)
                await self._send_row(run, choice, 0, run.sent[choice])

    async def _on_cancel(self, message: Message) -> None:
        cancel = decode(Cancel, message.data)
        for request_id, attempt in zip(cancel.request_ids, cancel.attempts, strict=True):
            run = self.running.get(request_id)
            if run is not None and run.request.attempt <= attempt:
                self.cancelled.append(request_id)
                self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        run = self.running.pop(request_id, None)
        for task in run.tasks if run else []:
            task.cancel()
