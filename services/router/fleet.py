"""The live workers and their load, as heartbeats tell, corrected by what was sent since. Pure.

A heartbeat is up to an interval old, and a router sends many requests in that time. So each dispatch counts
as load at once: until it is answered, and from then until a heartbeat includes it. Heartbeats and answers may
overtake each other; workers number what they accept, so each dispatch is counted once all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.messages.events import READY, STOPPED, Heartbeat, WorkerLoad
from services.common.messages.request import SubmitReply

# A worker gets a few sequences beyond its batch, so that a place that falls free is taken in the same step.
AHEAD_SHARE = 8
MIN_AHEAD = 2
# It gets no more prompts while so many of their tokens are yet to be computed: a longer line there would be out
# of reach of fairness and priority. Several steps' worth, so that it never runs dry between two heartbeats.
PREFILL_BACKLOG_TOKENS = 32_768
# A worker that said "retry" is asked again when its load has fallen, or after so many heartbeats.
RETRY_BEATS = 4


@dataclass(slots=True)
class Charge:
    """What one dispatch adds to a worker's load."""

    num_sequences: int = 0
    prefill_tokens: int = 0
    blocks: int = 0

    def add(self, other: Charge, sign: int = 1) -> None:
        self.num_sequences += sign * other.num_sequences
        self.prefill_tokens += sign * other.prefill_tokens
        self.blocks += sign * other.blocks


@dataclass(slots=True)
class Worker:
    worker_id: str
    epoch: int
    model: str
    state: str
    load: WorkerLoad
    is_overdue: bool = False  # beats are missing, not yet for a lease: others get the work until it is heard
    closed_beats: int = 0  # heartbeats for which it is asked nothing, because it said "retry"
    own: Charge = field(default_factory=Charge)  # sent by this router and not in ``load``
    # Of it what was accepted, by the worker's count of acceptances; the rest is yet to be answered.
    unreported: dict[int, Charge] = field(default_factory=dict)

    @property
    def num_sequences(self) -> int:
        return self.load.running + self.load.waiting + self.own.num_sequences

    @property
    def prefill_tokens(self) -> int:
        return self.load.waiting_prefill_tokens + self.own.prefill_tokens

    @property
    def free_blocks(self) -> int:
        return self.load.free_blocks - self.own.blocks

    @property
    def takes_work(self) -> bool:
        return self.state == READY and not self.closed_beats and not self.is_overdue

    def report(self, beat: Heartbeat, load: WorkerLoad) -> None:
        """Takes its next heartbeat."""
        has_less = load.running + load.waiting < self.load.running + self.load.waiting
        self.closed_beats = 0 if has_less else max(0, self.closed_beats - 1)
        self.model, self.state, self.load, self.is_overdue = beat.model, beat.state, load, False
        for number in [n for n in self.unreported if n <= load.num_accepted]:
            self.own.add(self.unreported.pop(number), -1)

    def fits(self, num_total_tokens: int) -> bool:
        """Whether a request of this length can ever run here."""
        return self.load.max_request_tokens <= 0 or num_total_tokens <= self.load.max_request_tokens

    def has_room(self, charge: Charge) -> bool:
        """Whether it can start this soon. An idle worker always can."""
        if self.num_sequences == 0:
            return True
        ahead = max(MIN_AHEAD, self.load.max_running // AHEAD_SHARE)
        backlog = max(PREFILL_BACKLOG_TOKENS, self.load.tokens_per_s)
        return (
            self.num_sequences + charge.num_sequences <= self.load.max_running + ahead
            and self.prefill_tokens <= backlog
            and charge.blocks <= self.free_blocks
        )


class Fleet:
    """Workers of all models. Who fell silent is found by the caller (services/common/liveness.py)."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def on_heartbeat(self, beat: Heartbeat) -> bool:
        """Takes a worker's heartbeat. False when it is no sign of life: an old epoch, or a farewell."""
        known = self._workers.get(beat.instance_id)
        if known is not None and beat.epoch < known.epoch:
            return False  # delayed, from before its restart
        if beat.state == STOPPED:
            self.remove(beat.instance_id)
            return False
        load = beat.worker or WorkerLoad()
        if known is None or beat.epoch > known.epoch:
            self._workers[beat.instance_id] = Worker(
                beat.instance_id, beat.epoch, beat.model, beat.state, load
            )
        else:
            known.report(beat, load)
        return True

    def mark_overdue(self, worker_id: str) -> None:
        """Its beats are late: perhaps it is dead, and then what it is asked waits a lease for an answer."""
        if worker_id in self._workers:
            self._workers[worker_id].is_overdue = True

    def remove(self, worker_id: str) -> None:
        self._workers.pop(worker_id, None)

    def get(self, worker_id: str) -> Worker | None:
        return self._workers.get(worker_id)

    def of_model(self, model: str) -> list[Worker]:
        """Those that serve a model and are not about to leave, with room or without."""
        return [w for w in self._workers.values() if w.model == model and w.state == READY]

    def num_ready(self) -> int:
        return sum(worker.state == READY for worker in self._workers.values())

    def on_dispatched(self, worker: Worker, charge: Charge) -> None:
        worker.own.add(charge)

    def on_answered(self, worker: Worker, charge: Charge, reply: SubmitReply) -> None:
        """The worker that was given ``charge`` has answered, or will not: then the reply says retry."""
        if reply.accepted and reply.num_accepted > worker.load.num_accepted:
            worker.unreported[reply.num_accepted] = charge
            return
        worker.own.add(charge, -1)  # refused, or a heartbeat that includes it overtook the answer
        if not reply.accepted and not reply.code:  # with a code it refused this request alone
            worker.closed_beats = RETRY_BEATS
