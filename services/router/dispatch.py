"""From the line to a worker: admission, hand-over, and what is done about every answer.

Everything here decides at once, on the event loop, without waiting; only the hand-over itself is a task. So a
request that finds a worker with room is on its way in the same tick in which it arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from services.common.bus import Bus, BusError, NoResponders, PayloadTooLarge
from services.common.errors import DecodeError, QueueFull, ShoalError
from services.common.messages.codec import decode, encode
from services.common.messages.control import Bounced, Cancel
from services.common.messages.request import SubmitReply
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder
from services.router.metrics import RouterMetrics
from services.router.placement import Placed, Placement
from services.router.queue import DrainRate, Line
from services.router.request import QueuedRequest

log = logging.getLogger(__name__)

MAX_RECENT = 16_384  # attempts taken that are remembered, to recognise duplicates


@dataclass(slots=True)
class Dispatcher:
    """Owns the lines, one per model, and the hand-overs under way."""

    router_id: str
    bus: Bus
    subjects: Subjects
    placement: Placement
    metrics: RouterMetrics
    recorder: FlightRecorder
    new_line: Callable[[], Line]
    answer_timeout_s: float
    is_draining: bool = False
    _lines: dict[str, Line] = field(default_factory=dict)
    _asked: dict[QueuedRequest, asyncio.Task[None]] = field(default_factory=dict)
    _recent: OrderedDict[str, int] = field(default_factory=OrderedDict)  # request id -> highest attempt taken
    _sending: set[asyncio.Task[None]] = field(default_factory=set)
    _drain_rate: DrainRate = field(default_factory=DrainRate)

    # -- admission -------------------------------------------------------------------------------------------

    def submit(self, request: QueuedRequest) -> SubmitReply:
        """Takes a request or says why not; starts it when a worker has room."""
        if self.is_draining:
            return SubmitReply(False, self.router_id, retry=True, reason="draining")
        known = self._recent.get(request.request_id, 0)
        if request.attempt < known:
            return SubmitReply(
                False, self.router_id, code="stale_attempt", reason=f"attempt {known} is known"
            )
        if request.attempt == known:
            return SubmitReply(True, self.router_id)
        if known:
            self._drop(request.request_id, known)
        error = self._refusal(request)
        if error is not None:
            return self._refuse(request, error)
        self._remember(request)
        line = self._line(request.model)
        line.push(request)
        self.run(request.model)
        if request not in self._asked:
            self._note(request, "queued", waiting=len(line))
        return SubmitReply(True, self.router_id)

    def _refusal(self, request: QueuedRequest) -> ShoalError | None:
        if (error := self.placement.too_long(request)) is not None:
            return error
        line = self._line(request.model)
        if line.can_admit(request) or (not line and self.placement.place(request) is not None):
            return None
        retry_after = self._drain_rate.seconds_for(len(line) + 1, self._now())
        return QueueFull(
            f"the line is full: {len(line)} requests wait, --max_queue is {line.max_requests}",
            retry_after_s=retry_after,
        )

    def _refuse(self, request: QueuedRequest, error: ShoalError) -> SubmitReply:
        self.metrics.refusals.labels(error.code).inc()
        self._note(request, "refused", code=error.code, reason=error.message)
        return SubmitReply(
            False,
            self.router_id,
            code=error.code,
            reason=error.message,
            retry_after_s=float(error.retry_after_s or 0),
        )

    def _remember(self, request: QueuedRequest) -> None:
        self._recent[request.request_id] = request.attempt
        self._recent.move_to_end(request.request_id)
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)

    # -- dispatch --------------------------------------------------------------------------------------------

    def run(self, model: str) -> None:
        """Hands over from the front of a line while workers have room. The front is never overtaken."""
        line = self._lines.get(model)
        while line and (request := line.peek()) is not None:
            placed = self.placement.place(request)
            if placed is None:
                error = self.placement.too_long(request)
                if error is None:
                    return
                line.pop()
                self.give_back([request], error.message, error.code)
                continue
            line.pop()
            self._hand_over(request, placed)

    def run_all(self) -> None:
        for model in list(self._lines):
            self.run(model)

    def _hand_over(self, request: QueuedRequest, placed: Placed) -> None:
        now = self._now()
        self.placement.fleet.on_dispatched(placed.worker, placed.charge)
        self._asked[request] = asyncio.create_task(self._ask(request, placed))
        self._drain_rate.record(now)
        self.metrics.wait_s.observe(now - request.arrived_at)
        self._note(
            request,
            "dispatched",
            worker=placed.worker.worker_id,
            matched_tokens=placed.cached_tokens,
            waited_s=f"{now - request.arrived_at:.4f}",
        )

    async def _ask(self, request: QueuedRequest, placed: Placed) -> None:
        worker_id = placed.worker.worker_id
        subject = self.subjects.worker_submit(worker_id)
        error: ShoalError | None = None
        reply = SubmitReply(False, worker_id)
        try:
            answer = await self.bus.request(subject, request.message(self._now()), self.answer_timeout_s)
            reply = decode(SubmitReply, answer)
        except NoResponders:
            reply.retry = True  # its process is gone: it certainly has not got the request
        except (BusError, DecodeError) as caught:
            error = caught
        finally:
            self._asked.pop(request, None)
        self.placement.fleet.on_answered(placed.worker, placed.charge, reply)
        self._settle(request, placed, reply, error)
        self.run(request.model)

    def _settle(
        self, request: QueuedRequest, placed: Placed, reply: SubmitReply, error: ShoalError | None
    ) -> None:
        """What a worker's answer, or its silence, means for the request."""
        worker_id = placed.worker.worker_id
        result = "accepted" if reply.accepted else "retry" if reply.retry else "lost" if error else "refused"
        self.metrics.dispatches.labels(result).inc()
        if reply.accepted:
            self.metrics.prompt_tokens.inc(request.num_prompt_tokens)
            self.metrics.matched_tokens.inc(placed.cached_tokens)
            if request.is_dropped:
                cancel = Cancel([request.request_id], [request.attempt], reason="cancelled on its way")
                self._publish(self.subjects.worker_cancel(worker_id), encode(cancel))
        elif request.is_dropped:
            return
        elif reply.retry:
            self._note(request, "returned", worker=worker_id, reason=reply.reason)
            self._put_back(request)
        elif isinstance(error, PayloadTooLarge):
            self.give_back([request], error.message, error.code)
        elif error is not None:
            # It may or may not have the request, so nobody else may be offered this attempt.
            self.give_back([request], f"worker {worker_id} did not answer: {error.message}")
        else:
            self.give_back([request], reply.reason, reply.code or "engine_failure")

    def _put_back(self, request: QueuedRequest) -> None:
        if self.is_draining:
            self.give_back([request], "drain")
        elif request.deadline > self._now():
            self._line(request.model).put_back(request)

    # -- giving back, dropping -------------------------------------------------------------------------------

    def give_back(self, requests: Iterable[QueuedRequest], reason: str, code: str = "") -> None:
        """Tells gateways to submit again, or with a ``code`` that a request failed for good."""
        by_gateway: dict[str, Bounced] = {}
        for request in requests:
            bounced = by_gateway.setdefault(request.gateway_id, Bounced(self.router_id, [], [], reason, code))
            bounced.request_ids.append(request.request_id)
            bounced.attempts.append(request.attempt)
            if code:
                self.metrics.refusals.labels(code).inc()
            else:
                self.metrics.bounced.labels("drain" if reason == "drain" else "no answer").inc()
            self._note(request, "refused" if code else "bounced", reason=reason, code=code)
        for gateway_id, bounced in by_gateway.items():
            self._publish(self.subjects.gateway_bounced(gateway_id), encode(bounced))

    def cancel(self, request_id: str, attempt: int, choice: int | None = None) -> None:
        """Drops a request up to an attempt, or one choice of it; the last choice takes the request along."""
        for request in self._find(request_id):
            if request.attempt > attempt:
                continue
            if choice is not None:
                request.cancelled_choices.add(choice)
                if len(request.cancelled_choices) < request.num_choices:
                    continue
            self._drop(request_id, request.attempt)
            self._note(request, "cancelled")

    def drop_gateway(self, gateway_id: str) -> int:
        """Frees everything of a gateway that died; returns how many requests that were."""
        theirs = [request for request in self.holdings() if request.gateway_id == gateway_id]
        for request in theirs:
            self._drop(request.request_id, request.attempt)
            self._note(request, "dropped", reason="its gateway is gone")
        return len(theirs)

    def expire(self, now: float) -> None:
        """Drops what is past its deadline. Its gateway keeps the same deadline and tells the client."""
        for line in list(self._lines.values()):
            for request in line.expire(now):
                self.metrics.refusals.labels("deadline_exceeded").inc()
                self._note(request, "expired", waited_s=f"{now - request.arrived_at:.3f}")

    def waiting(self) -> Iterator[QueuedRequest]:
        """In no promised order."""
        for line in self._lines.values():
            yield from line

    def holdings(self) -> Iterator[QueuedRequest]:
        """All that waits or is being offered to a worker, and is still wanted."""
        yield from self.waiting()
        yield from (request for request in self._asked if not request.is_dropped)

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def num_unanswered(self) -> int:
        return len(self._asked)

    def give_back_line(self) -> None:
        """Empties every line towards the gateways."""
        waiting = list(self.waiting())
        for request in waiting:
            self._lines[request.model].remove(request.request_id)
        self.give_back(waiting, "drain")

    async def settle_all(self) -> None:
        """Returns when every worker that was asked has answered or had its time, and gateways are told."""
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def stop(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()
        await self.settle_all()

    def _line(self, model: str) -> Line:
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = self.new_line()
        return line

    def _find(self, request_id: str) -> list[QueuedRequest]:
        waiting = [line.get(request_id) for line in self._lines.values()]
        asked = [r for r in self._asked if r.request_id == request_id and not r.is_dropped]
        return [request for request in waiting if request is not None] + asked

    def _drop(self, request_id: str, attempt: int) -> None:
        for line in self._lines.values():
            line.remove(request_id)
        for request in self._asked:
            if request.request_id == request_id and request.attempt <= attempt:
                request.is_dropped = True

    def _publish(self, subject: str, data: bytes) -> None:
        task = asyncio.create_task(self.bus.publish(subject, data))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _note(self, request: QueuedRequest, event: str, **fields: object) -> None:
        shown = {key: value for key, value in fields.items() if value != ""}
        self.recorder.record(request.request_id, event, attempt=request.attempt, **shown)
        log.info(event, extra={"request_id": request.request_id, "attempt": request.attempt} | shown)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
