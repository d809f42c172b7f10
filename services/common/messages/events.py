"""What services tell about themselves: heartbeats with load, and changes of the KV cache."""

from __future__ import annotations

from dataclasses import field

from services.common.messages.codec import message

STARTING, READY, DRAINING, STOPPED = "starting", "ready", "draining", "stopped"


@message
class WorkerLoad:
    """What a router needs to place a request. Tokens and blocks are counts, not bytes."""

    running: int = 0  # sequences in the batch
    waiting: int = 0  # sequences accepted and not yet running
    max_running: int = 0
    waiting_prefill_tokens: int = 0  # prompt tokens still to be computed
    free_blocks: int = 0  # free or evictable
    total_blocks: int = 0
    block_size: int = 0
    max_request_tokens: int = 0  # longest prompt + output that fits
    tokens_per_s: float = 0.0
    num_accepted: int = 0  # requests accepted since the start: what this load includes


@message
class Heartbeat:
    """I am alive. Sent every ``interval_s``, and early when the load changed; missing for a lease means dead."""

    service: str
    instance_id: str
    epoch: int  # differs at every start of a process
    state: str
    interval_s: float
    model: str = ""
    address: str = ""  # where its /health, /ready and /metrics are
    pid: int = 0
    host: str = ""
    version: str = ""
    worker: WorkerLoad | None = None
    load: dict[str, float] = field(default_factory=dict)  # for people: requests, streams, line length


@message
class KvEvents:
    """Blocks that entered or left a worker's prefix cache. A gap in ``seq`` means: ask for a snapshot."""

    worker_id: str
    epoch: int
    seq: int  # 1, 2, 3, ... within an epoch
    stored: bytes = b""  # 16-byte block hashes, one after the other
    removed: bytes = b""
    cleared: bool = False  # everything left, before ``stored``


@message
class KvSnapshotRequest:
    """Asks a worker (or kvstore, for all workers: worker_id empty) for what is cached. Pages from 0."""

    worker_id: str = ""
    page: int = 0


@message
class KvSnapshot:
    """All hashes of one worker as of ``seq``, in pages that fit the bus."""

    worker_id: str
    epoch: int
    seq: int
    page: int
    num_pages: int
    hashes: bytes = b""


@message
class KvSnapshots:
    """kvstore's answer for all workers."""

    page: int
    num_pages: int
    workers: list[KvSnapshot] = field(default_factory=list)


@message
class TraceRequest:
    """Asks every service for what it remembers of one request."""

    request_id: str


@message
class TraceEvent:
    at_s: float  # wall clock, seconds since 1970
    event: str
    fields: dict[str, str] = field(default_factory=dict)


@message
class TraceReply:
    service: str
    instance_id: str
    events: list[TraceEvent] = field(default_factory=list)
