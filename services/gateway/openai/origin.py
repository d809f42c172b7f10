"""Where a call comes from: a client's POST, or the log of one that is taken up again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.requests import Request

from services.common.messages.codec import encode
from services.gateway.auth import Caller
from services.gateway.core import Gateway
from services.gateway.retention import MAX_RECORD_BYTES, Resume, StreamRecord


@dataclass(slots=True)
class Origin:
    """``created``: when the client sent it, by the wall clock, which all gateways share.

    ``seed`` is used where the client gave none. ``resume`` is set for a call that is taken up.
    """

    path: str
    body: bytes
    request_id: str
    created: float
    seed: int
    resume: Resume | None = None

    def age_s(self) -> float:
        return max(0.0, time.time() - self.created)

    def record(self, caller: Caller, prompts: list[list[int]]) -> bytes:
        """The first entry of the call's log; empty when it is too long to be kept."""
        record = StreamRecord(self.path, self.body, caller.tenant, self.created, self.seed, prompts)
        data = encode(record)
        return data if len(data) <= MAX_RECORD_BYTES else b""


def new_origin(gateway: Gateway, request: Request, body: bytes) -> Origin:
    return Origin(
        request.url.path,
        body,
        gateway.new_request_id(request),
        time.time(),
        gateway.client.rng.getrandbits(63),
    )
