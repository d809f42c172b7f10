"""What every endpoint is given: the model, the requests' client, keys, limits, metrics."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from starlette.requests import Request

from services.common.lifecycle import Identity
from services.gateway.auth import Caller, Keys
from services.gateway.life.client import Client
from services.gateway.load import Load
from services.gateway.log_writer import LogWriter
from services.gateway.metrics import GatewayMetrics
from services.gateway.model import ServedModel
from services.gateway.observe import Transcript
from services.gateway.openai.params import Limits

_REQUEST_ID = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(slots=True)
class Gateway:
    """The parts of one gateway process, as endpoints see them."""

    identity: Identity
    model: ServedModel
    client: Client
    logs: LogWriter
    keys: Keys
    metrics: GatewayMetrics
    limits: Limits = field(default_factory=Limits)
    load: Load = field(default_factory=lambda: Load(4096))
    max_body_bytes: int = 8 * 1024 * 1024 - 1
    keep_alive_s: float = 15.0
    log_requests: bool = False
    max_log_len: int = 2048

    def caller(self, request: Request) -> Caller:
        return self.keys.find(request.headers.get("authorization", ""))

    def admit(self, caller: Caller) -> None:
        """Refuses before the body is read: full, or over the caller's limits."""
        self.load.check_room()
        caller.check_concurrency()
        caller.charge_request(asyncio.get_running_loop().time())

    def max_len(self) -> int:
        """The longest prompt and output together that some worker can hold now."""
        return min(self.model.max_len, self.client.fleet.max_request_tokens() or self.model.max_len)

    def new_request_id(self, request: Request) -> str:
        """Unique; begins with the client's own X-Request-Id, if it sent one, so that a trace finds it."""
        unique = f"{self.client.rng.getrandbits(96):024x}"
        own = _REQUEST_ID.sub("", request.headers.get("x-request-id", ""))[:64]
        return f"{own}-{unique[:8]}" if own else unique

    def transcript(self, request_id: str) -> Transcript | None:
        """Where a call's prompts and outputs are logged; None when they are not (--log_requests)."""
        return Transcript(request_id, self.max_log_len) if self.log_requests else None
