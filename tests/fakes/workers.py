"""A worker without a model: takes requests up to its room, tells its load and its cache, and runs nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from services.common.blockhash import HASH_BYTES, chain_root, hash_blocks
from services.common.bus import Bus, Message
from services.common.lifecycle import Identity, ServiceRuntime, Timing
from services.common.messages.codec import decode, encode
from services.common.messages.control import Cancel
from services.common.messages.events import KvEvents, KvSnapshot, KvSnapshotRequest, WorkerLoad
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams, SubmitReply
from services.common.subjects import Subjects


@dataclass(slots=True)
class FakeWorker:
    """The worker's side of the control protocol. ``finish`` ends a request; nothing ends by itself.

    Attributes are the knobs: ``room`` is how many requests run at once, ``max_waiting`` how many it takes beyond, ``refuse_code`` refuses for good,
    ``is_silent`` takes requests without answering.
    """

    worker_id: str
    bus: Bus
    subjects: Subjects
    model: str = "m"
    epoch: int = 1
    room: int = 4
    max_waiting: int = 2
    block_size: int = 4
    max_request_tokens: int = 4096
    page_hashes: int = 1000
    timing: Timing = field(default_factory=lambda: Timing(0.05, 0.5, 5.0))
    refuse_code: str = ""
    is_silent: bool = False
    held: dict[str, GenerateRequest] = field(default_factory=dict)
    accepted: list[tuple[str, int]] = field(default_factory=list)  # (request id, attempt), in order
    cancelled: list[str] = field(default_factory=list)
    unanswered: list[Message] = field(default_factory=list)
    most_held: int = 0
    blocks: dict[bytes, None] = field(default_factory=dict)
    seq: int = 0
    runtime: ServiceRuntime | None = None

    @property
    def capacity(self) -> int:
        return self.room + self.max_waiting

    async def launch(self) -> FakeWorker:
        """Runs it, heartbeats and all."""
        identity = Identity("worker", self.worker_id, self.epoch, self.model)
        self.runtime = ServiceRuntime(identity, self.bus, self.subjects, self, self.timing)
        await self.runtime.start()
        return self

    async def kill(self) -> None:
        """Silence without a farewell."""
        await self.bus.close()

    async def start(self) -> None:
        subscribe, subjects, me = self.bus.subscribe, self.subjects, self.worker_id
        await subscribe(subjects.worker_submit(me), self._on_submit)
        await subscribe(subjects.worker_cancel(me), self._on_cancel)
        await subscribe(subjects.kv_snapshot(me), self._on_snapshot)

    async def stop(self) -> None:
        pass

    def heartbeat(self) -> tuple[WorkerLoad, dict[str, float]]:
        load = WorkerLoad(
            running=min(len(self.held), self.room),
            waiting=max(0, len(self.held) - self.room),
            max_running=self.room,
            free_blocks=10_000,
            total_blocks=10_000,
            block_size=self.block_size,
            max_request_tokens=self.max_request_tokens,
            num_accepted=len(self.accepted),
        )
        return load, {}

    async def tick(self) -> None:
        pass

    def not_ready(self) -> str:
        return ""

    async def drain(self) -> None:
        pass

    def finish(self, request_id: str) -> None:
        del self.held[request_id]
        self._beat()

    def _beat(self) -> None:
        if self.runtime:
            self.runtime.beat_now()

    async def _on_submit(self, message: Message) -> None:
        request = decode(GenerateRequest, message.data)
        if self.is_silent:
            self.unanswered.append(message)
            return
        if self.refuse_code:
            reply = SubmitReply(False, self.worker_id, code=self.refuse_code, reason="as told")
        elif len(self.held) >= self.capacity:
            reply = SubmitReply(False, self.worker_id, retry=True, reason="full")
        else:
            self.held[request.request_id] = request
            self.accepted.append((request.request_id, request.attempt))
            self.most_held = max(self.most_held, len(self.held))
            reply = SubmitReply(True, self.worker_id, num_accepted=len(self.accepted))
        await self.bus.publish(message.reply, encode(reply))
        self._beat()

    async def _on_cancel(self, message: Message) -> None:
        for request_id in decode(Cancel, message.data).request_ids:
            self.cancelled.append(request_id)
            self.held.pop(request_id, None)
        self._beat()

    # -- its cache -------------------------------------------------------------------------------------------

    async def cache_prompt(self, ids: list[int], *, publish: bool = True) -> list[bytes]:
        """Holds a prompt's blocks from now on; ``publish=False`` loses the event on its way."""
        hashes = hash_blocks(chain_root(), ids, self.block_size)
        await self.change(stored=hashes, publish=publish)
        return hashes

    async def change(
        self,
        stored: list[bytes] | None = None,
        removed: list[bytes] | None = None,
        *,
        cleared: bool = False,
        publish: bool = True,
    ) -> None:
        self.seq += 1
        if cleared:
            self.blocks.clear()
        for name in removed or []:
            self.blocks.pop(name, None)
        self.blocks.update(dict.fromkeys(stored or []))
        event = KvEvents(
            self.worker_id, self.epoch, self.seq, b"".join(stored or []), b"".join(removed or []), cleared
        )
        if publish:
            await self.bus.publish(self.subjects.kv_events(self.worker_id), encode(event))

    async def _on_snapshot(self, message: Message) -> None:
        page = decode(KvSnapshotRequest, message.data).page
        hashes = b"".join(self.blocks)
        size = self.page_hashes * HASH_BYTES
        num_pages = max(1, -(-len(hashes) // size))
        part = hashes[page * size : (page + 1) * size]
        snapshot = KvSnapshot(self.worker_id, self.epoch, self.seq, page, num_pages, part)
        await self.bus.publish(message.reply, encode(snapshot))


def generate_request(
    request_id: str, prompt_ids: list[int] | None = None, *, max_tokens: int = 16, **fields: object
) -> GenerateRequest:
    """A request of one choice with unremarkable parameters; ``fields`` replaces any."""
    values: dict[str, object] = {
        "request_id": request_id,
        "attempt": 1,
        "gateway_id": "gw",
        "detokenizer_id": "detok",
        "model": "m",
        "prompt_ids": prompt_ids if prompt_ids is not None else [1, 2, 3],
        "choices": [ChoiceState(0, 7)],
        "sampling": SamplingParams(max_tokens=max_tokens),
    }
    return GenerateRequest(**(values | fields))  # type: ignore[arg-type]


def random_prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(1000) for _ in range(length)]
