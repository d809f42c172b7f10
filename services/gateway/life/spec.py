"""What goes into and comes out of a request's decisions (request.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from services.common.messages.request import SamplingParams, StreamParams

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds."""

    backoff_min_s: float = 0.05
    backoff_max_s: float = 1.0
    answer_s: float = 0.4  # a router has not answered; twice as long each time, up to the lease
    no_router_s: float = 5.0  # a new request finds nobody who takes it, on a bus that works
    no_bus_s: float = 30.0  # a new request while the bus is away
    replay_after_s: float = 0.25  # nothing new has arrived, though there is something
    replay_retry_max_s: float = 2.0
    max_replays: int = 5  # without any effect; then another attempt is made


@dataclass(slots=True)
class Spec:
    """What a client asks for: everything of a GenerateRequest that stays the same over its attempts."""

    request_id: str
    prompt_ids: list[int]
    sampling: SamplingParams
    stream: StreamParams = field(default_factory=StreamParams)
    num_choices: int = 1
    seed: int | None = None
    tenant: str = ""
    weight: float = 1.0
    priority: int = 0
    cache_salt: str = ""
    prompt_logprobs: int = -1  # as in GenerateRequest
    timeout_s: float = 0.0  # 0: none
    waited_s: float = 0.0  # how much of it had passed before the request came here


@dataclass(slots=True)
class RestoredChoice:
    ids: list[int]
    text: str
    finish: int
    stop_reason: int | str | None = None
    cached_tokens: int = 0


@dataclass(slots=True)
class Restored:
    """What a log has of a request that another gateway carried."""

    attempt: int
    choices: dict[int, RestoredChoice]


@dataclass(frozen=True, slots=True)
class Submit:
    """Send ``build_message`` to a router and report on_reply or on_no_reply with this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class SendReplay:
    worker_id: str
    streams: list[str]
    attempt: int
    detokenizer_id: str


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Of the whole request, to ``worker_id``, or to everyone when it is empty."""

    worker_id: str
    attempt: int
    reason: str


Action = Submit | SendReplay | SendCancel


class Phase(Enum):
    SUBMITTING = "submitting"  # a router was asked and has not answered
    WAITING = "waiting"  # for the next time to ask
    HELD = "held"  # by a router or a worker
    DONE = "done"  # finished, failed or cancelled
