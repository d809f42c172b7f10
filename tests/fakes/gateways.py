"""A gateway's side of the control protocol: submits requests and collects what holders say about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.bus import Bus, Message
from services.common.lifecycle import Identity, ServiceRuntime, Timing
from services.common.messages.codec import decode, encode
from services.common.messages.control import Bounced, Cancel, Holdings
from services.common.messages.events import WorkerLoad
from services.common.messages.request import GenerateRequest, SubmitReply
from services.common.subjects import Subjects
from tests.fakes.workers import generate_request


@dataclass(slots=True)
class FakeGateway:
    """Remembers everything it is told; decides nothing."""

    bus: Bus
    subjects: Subjects
    gateway_id: str = "gw"
    timing: Timing = field(default_factory=lambda: Timing(0.05, 0.5, 5.0))
    bounced: list[Bounced] = field(default_factory=list)
    holdings: dict[str, Holdings] = field(default_factory=dict)  # latest of each holder

    async def launch(self) -> FakeGateway:
        identity = Identity("gateway", self.gateway_id, 1)
        await ServiceRuntime(identity, self.bus, self.subjects, self, self.timing).start()
        return self

    async def start(self) -> None:
        await self.bus.subscribe(self.subjects.gateway_bounced(self.gateway_id), self._on_bounced)
        await self.bus.subscribe(self.subjects.gateway_holdings(self.gateway_id), self._on_holdings)

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        return None, {}

    async def tick(self) -> None:
        pass

    def not_ready(self) -> str:
        return ""

    async def drain(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def submit(self, request_id: str, prompt: list[int] | None = None, **fields: object) -> SubmitReply:
        return await self.send(generate_request(request_id, prompt, gateway_id=self.gateway_id, **fields))

    async def send(self, request: GenerateRequest) -> SubmitReply:
        answer = await self.bus.request(self.subjects.submit(request.model), encode(request), 5.0)
        return decode(SubmitReply, answer)

    async def cancel(self, request_id: str, attempt: int = 1) -> None:
        await self.bus.publish(self.subjects.cancel(), encode(Cancel([request_id], [attempt])))

    def held_by(self, holder_id: str) -> list[str]:
        held = self.holdings.get(holder_id)
        return held.request_ids if held else []

    def bounced_ids(self) -> list[str]:
        return [request_id for bounced in self.bounced for request_id in bounced.request_ids]

    async def _on_bounced(self, message: Message) -> None:
        self.bounced.append(decode(Bounced, message.data))

    async def _on_holdings(self, message: Message) -> None:
        held = decode(Holdings, message.data)
        self.holdings[held.holder_id] = held
