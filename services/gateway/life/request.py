"""One request's decisions: when to submit, submit again, ask for a replay, cancel, give up.

A pure state machine: events and times go in, actions come out, and whoever drives it (app.py, a simulation, a
table-driven test) carries them out. The rules are those of docs/architecture.md, "Ownership and recovery".
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from services.common.errors import (
    DeadlineExceeded,
    EngineFailure,
    ShoalError,
    Unavailable,
    from_code,
)
from services.common.messages.frames import ERROR, PromptLogprobs
from services.common.messages.request import (
    ChoiceState,
    GenerateRequest,
    SubmitReply,
    stream_id,
)
from services.gateway.life.crashes import Crashes
from services.gateway.life.fleet import Fleet
from services.gateway.life.scores import PromptScores
from services.gateway.life.spec import (
    MAX_SEED,
    Action,
    Patience,
    Phase,
    Restored,
    SendCancel,
    SendReplay,
    Spec,
    Submit,
)
from services.gateway.life.stream import Row, StreamState

# A refusal with one of these may be another answer later: it ends a request only if nothing was promised yet.
_PASSING_CODES = frozenset({"queue_full", "service_unavailable", "rate_limit_exceeded", "bus_error"})
_TAKEOVER_LEAP = 64


class RequestState:
    """The owner of one request. ``error`` is set when it failed; the streams hold what arrived."""

    def __init__(
        self, spec: Spec, model: str, gateway_id: str, rng: random.Random, now: float, patience: Patience
    ) -> None:
        self.spec, self._model, self._gateway_id, self._patience = spec, model, gateway_id, patience
        base = rng.getrandbits(63) if spec.seed is None else spec.seed
        self.streams = [StreamState(i, (base + i) & MAX_SEED) for i in range(spec.num_choices)]
        self.stream_ids = [stream_id(spec.request_id, i) for i in range(spec.num_choices)]
        self.phase = Phase.WAITING
        self.attempt = 0
        self.was_accepted = False
        self.error: ShoalError | None = None
        self.holder: tuple[str, str] = ("", "")  # (service, id) of who last reported it
        self.worker_id = ""
        self.detokenizer_id = ""
        self._deadline = now + spec.timeout_s - spec.waited_s if spec.timeout_s > 0 else float("inf")
        self._started_at = self._reported_at = self._retry_at = now
        self._backoff_s = 0.0
        self._num_silences = 0  # routers asked in a row that did not answer
        self.scores = PromptScores(len(spec.prompt_ids)) if spec.prompt_logprobs >= 0 else None
        self.awaits_scores = self.scores is not None and not self.scores.is_complete
        self._crashes = Crashes()
        self._scored = 0  # the choice that brings the prompt's scores, ahead of its own ids

    @property
    def request_id(self) -> str:
        return self.spec.request_id

    @property
    def is_done(self) -> bool:
        return self.phase is Phase.DONE

    def restore(self, restored: Restored) -> None:
        """Takes over from another gateway, before the first submission."""
        # The log may lag behind the attempts that were made; a leap is sure to fence them all.
        self.attempt = restored.attempt + _TAKEOVER_LEAP
        self.was_accepted = True
        for stream in self.streams:
            known = restored.choices.get(stream.choice)
            if known is not None:
                stream.restore(known)
        if all(stream.is_finished for stream in self.streams):
            self.phase = Phase.DONE

    # -- submission ------------------------------------------------------------------------------------------

    def submit(self, now: float, fleet: Fleet) -> list[Action]:
        """Fences what went before by a higher attempt, and asks a router."""
        if not fleet.is_ready("detokenizer", self.detokenizer_id):
            found = fleet.pick_detokenizer()
            if not found and not self.was_accepted:
                return self._wait(now, fleet, Unavailable("no live detokenizer", retry_after_s=1.0))
            self.detokenizer_id = found or self.detokenizer_id
        self.attempt += 1
        self.phase = Phase.SUBMITTING
        self.holder, self.worker_id = ("", ""), ""
        self._scored = next((s.choice for s in self.streams if not s.is_finished), 0)
        for stream in self.streams:
            stream.begin_attempt(now)
        return [Submit(self.attempt)]

    def build_message(self, now: float) -> GenerateRequest:
        """The current attempt: the unfinished choices with every id that arrived."""
        spec = self.spec
        left = 0.0 if self._deadline == float("inf") else max(self._deadline - now, 0.001)
        return GenerateRequest(
            request_id=spec.request_id,
            attempt=self.attempt,
            gateway_id=self._gateway_id,
            detokenizer_id=self.detokenizer_id,
            model=self._model,
            prompt_ids=spec.prompt_ids,
            choices=[ChoiceState(s.choice, s.seed, s.output_ids) for s in self.streams if not s.is_finished],
            sampling=spec.sampling,
            stream=spec.stream,
            tenant=spec.tenant,
            weight=spec.weight,
            priority=spec.priority,
            cache_salt=spec.cache_salt,
            prompt_logprobs=spec.prompt_logprobs if self.awaits_scores else -1,
            num_crashes=self._crashes.in_a_row(self._num_ids),
            timeout_s=left,
        )

    @property
    def _num_ids(self) -> int:
        return sum(stream.next_index for stream in self.streams)

    def answer_timeout_s(self, lease_s: float) -> float:
        """How long to wait for a router's answer. One that was killed with the question in its hands gives none.

        Routers answer at once, so silence is soon a reason to ask another. The wait grows, so that routers which
        are merely slow do not get ever more to do.
        """
        return min(self._patience.answer_s * 2 ** min(self._num_silences, 8), max(1.0, lease_s))

    def router_to_ask(self, fleet: Fleet) -> str:
        """Whomever NATS picks (""), or after silence the one heard last: NATS goes on picking one that is paused.

        Every other time only, because a router of an older version is not asked by its name.
        """
        return fleet.last_heard("router") if self._num_silences % 2 else ""

    def on_reply(self, attempt: int, reply: SubmitReply, now: float, fleet: Fleet) -> list[Action]:
        if not self._is_asking(attempt):
            return []
        self._num_silences = 0
        if reply.accepted:
            self._on_held("router", reply.holder_id, now)
            return []
        refusal = from_code(
            reply.code or Unavailable.code,
            reply.reason or "no one took the request",
            retry_after_s=reply.retry_after_s or None,
        )
        is_passing = reply.retry or refusal.code in _PASSING_CODES
        if not is_passing or (not reply.retry and not self.was_accepted):
            return self.fail(refusal)
        return self._wait(now, fleet, refusal)

    def on_no_reply(self, attempt: int, error: ShoalError, now: float, fleet: Fleet) -> list[Action]:
        """No router is there, or none answered in time. One may have it all the same: the attempt rises."""
        if not self._is_asking(attempt):
            return []
        if error.status < 500:  # over the bus's limit: it can never be sent
            return self.fail(error)
        self._num_silences += 1
        return self._wait(
            now, fleet, Unavailable(f"no router took the request: {error.message}", retry_after_s=1.0)
        )

    def _is_asking(self, attempt: int) -> bool:
        return self.phase is Phase.SUBMITTING and attempt == self.attempt

    def _wait(self, now: float, fleet: Fleet, why: ShoalError) -> list[Action]:
        """Asks again later; without end once the request was accepted, else while there is hope."""
        patience = self._patience
        limit = patience.no_router_s if fleet.is_bus_trusted(now) else patience.no_bus_s
        if not self.was_accepted and now - self._started_at >= limit:
            return self.fail(why)
        self.phase = Phase.WAITING
        self._retry_at = now + self._next_backoff()
        return []

    def _next_backoff(self) -> float:
        """Nothing the first time after progress, then doubling."""
        current = self._backoff_s
        self._backoff_s = min(max(2 * current, self._patience.backoff_min_s), self._patience.backoff_max_s)
        return current

    def _again(self, now: float, fleet: Fleet) -> list[Action]:
        """Another attempt, at once or after the back-off; the holder so far, if it lives, may free its blocks."""
        actions: list[Action] = []
        if self.worker_id and fleet.is_live("worker", self.worker_id):
            actions.append(SendCancel(self.worker_id, self.attempt, "another attempt"))
        delay = self._next_backoff()
        if delay <= 0:
            return actions + self.submit(now, fleet)
        self.phase, self._retry_at = Phase.WAITING, now + delay
        self.holder, self.worker_id = ("", ""), ""
        return actions

    # -- what others report ----------------------------------------------------------------------------------

    def _on_held(self, service: str, holder_id: str, now: float) -> None:
        self.phase = Phase.HELD
        self.was_accepted = True
        self.holder = (service, holder_id)
        self._reported_at = now
        if service == "worker":
            self.worker_id = holder_id

    def on_row(self, choice: int, row: Row, worker_id: str, now: float) -> bool:
        """A row of text; True when the client gets something new by it."""
        if self.is_done or row.attempt != self.attempt:
            return False
        if self.phase is not Phase.WAITING:
            self._on_held("worker", worker_id, now)
        stream = self.streams[choice]
        if row.prompt_logprobs is not None:
            return self._on_scores(stream, row.prompt_logprobs, now)
        if self.awaits_scores and choice == self._scored and row.finish != ERROR:
            stream.has_gap = True
            return False
        if not stream.accept(row, now):
            return False
        self._backoff_s = 0.0
        if stream.failed:
            self.fail(EngineFailure(stream.error or "the engine failed on this request"))
        elif all(s.is_finished for s in self.streams):
            self.phase = Phase.DONE
        return True

    def _on_scores(self, stream: StreamState, part: PromptLogprobs, now: float) -> bool:
        if not self.awaits_scores or self.scores is None:
            return False
        if not self.scores.accept(part):
            stream.has_gap = stream.has_gap or self.scores.leaves_gap(part)
            return False
        self.awaits_scores = not self.scores.is_complete
        stream.has_gap = False
        stream.progress_at, stream.num_replays = now, 0
        self._backoff_s = 0.0
        return True

    def on_holding(self, service: str, holder_id: str, attempt: int, now: float) -> None:
        """A router or worker says that it holds this attempt."""
        if self.is_done or attempt != self.attempt or self.phase is Phase.WAITING:
            return
        if service == "router" and self.worker_id:
            return  # said before it handed the request over
        self._on_held(service, holder_id, now)

    def on_stream_report(self, choice: int, attempt: int, next_index: int, finished: bool) -> bool:
        """A holder's account of one stream. False when it should drop it: the choice has its end."""
        if attempt != self.attempt or self.is_done:
            return attempt > self.attempt
        stream = self.streams[choice]
        if stream.is_finished:
            return finished
        stream.reported_next = max(stream.reported_next, next_index)
        stream.reported_finished = stream.reported_finished or finished
        return True

    def on_bounced(
        self, attempt: int, now: float, fleet: Fleet, error: ShoalError | None = None
    ) -> list[Action]:
        """A holder lets go: asks for another, or ends with the error that no attempt would escape."""
        if self.is_done or attempt != self.attempt or self.phase is Phase.WAITING:
            return []
        if error is not None:
            return self.fail(error)
        self.worker_id = ""  # it has let go
        self.was_accepted = True
        return self._again(now, fleet)

    def on_crashed(self, attempt: int, now: float, fleet: Fleet, reason: str) -> list[Action]:
        """The engine died while it ran this request: asks for another, or gives up a request that seems to be why."""
        if self.is_done or attempt != self.attempt:
            return []
        self._crashes.note(self._num_ids)
        if self._crashes.are_too_many:
            count = self._crashes.in_all
            return self.fail(EngineFailure(f"{count} engines ended while they ran this request: {reason}"))
        return self.on_bounced(attempt, now, fleet)

    def on_gone(self, service: str, instance_id: str, now: float, fleet: Fleet) -> list[Action]:
        """A service stopped, restarted or fell silent."""
        if self.phase is not Phase.HELD:
            return []
        if service == "detokenizer":
            if instance_id != self.detokenizer_id or not fleet.ready("detokenizer"):
                return []  # with none alive the streams fall behind, and that brings a replay later
            return self._replay([i for i, s in enumerate(self.streams) if not s.is_finished], now, fleet)
        if (service, instance_id) == self.holder or (service == "worker" and instance_id == self.worker_id):
            return self._again(now, fleet)
        return []

    # -- time ------------------------------------------------------------------------------------------------

    def tick(self, now: float, fleet: Fleet) -> list[Action]:
        """What is due. Called some times a second."""
        if self.is_done:
            return []
        if now >= self._deadline:
            return self.cancel(DeadlineExceeded(f"the request was not done within {self.spec.timeout_s:g} s"))
        if self.phase is Phase.WAITING:
            return self.submit(now, fleet) if now >= self._retry_at else []
        if self.phase is Phase.SUBMITTING:
            return []
        if fleet.is_expired(self._reported_at, now):
            return self._again(now, fleet)
        late = [i for i, stream in enumerate(self.streams) if stream.is_behind and self._is_late(stream, now)]
        if not late:
            return []
        if any(self.streams[i].num_replays >= self._patience.max_replays for i in late):
            return self._again(now, fleet)
        return self._replay(late, now, fleet)

    def _is_late(self, stream: StreamState, now: float) -> bool:
        wait = min(self._patience.replay_after_s * 2**stream.num_replays, self._patience.replay_retry_max_s)
        last = max(stream.progress_at, stream.replayed_at)
        return now - last >= wait

    def _replay(self, choices: Sequence[int], now: float, fleet: Fleet) -> list[Action]:
        """Has the worker send streams again, to another detokenizer where the present one is dead or deaf."""
        is_deaf = any(self.streams[i].num_replays >= 1 for i in choices)
        if is_deaf or not fleet.is_ready("detokenizer", self.detokenizer_id):
            self.detokenizer_id = fleet.pick_detokenizer(avoid=[self.detokenizer_id]) or self.detokenizer_id
        if not self.worker_id or not choices:
            return []
        for i in choices:
            self.streams[i].num_replays += 1
            self.streams[i].replayed_at = now
        names = [self.stream_ids[i] for i in choices]
        return [SendReplay(self.worker_id, names, self.attempt, self.detokenizer_id)]

    # -- the end ---------------------------------------------------------------------------------------------

    def cancel(self, error: ShoalError | None = None) -> list[Action]:
        """Ends the request here and frees what it holds elsewhere."""
        if self.is_done:
            return []
        self.phase, self.error = Phase.DONE, error
        if not self.attempt:
            return []
        return [SendCancel(self.worker_id, self.attempt, error.code if error else "cancelled by the client")]

    def fail(self, error: ShoalError) -> list[Action]:
        """Ends the request with an error. One choice's failure ends the others too."""
        return self.cancel(error)
