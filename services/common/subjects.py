"""Every NATS subject and queue group, once. A subject's tokens may not hold dots or spaces: see ``token``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def token(name: str) -> str:
    """A name as one subject token: itself where that is allowed, else a short hash of it."""
    if _PLAIN.fullmatch(name):
        return name
    return "h-" + hashlib.blake2b(name.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one deployment; several deployments share a NATS by different namespaces."""

    namespace: str = "shoal"

    # gateway -> any router (request/reply: GenerateRequest, SubmitReply)
    def submit(self, model: str) -> str:
        return f"{self.namespace}.model.{token(model)}.submit"

    # gateway -> one router, when another did not answer (request/reply: GenerateRequest, SubmitReply)
    def router_submit(self, router_id: str) -> str:
        return f"{self.namespace}.router.{token(router_id)}.submit"

    # what a router listens to: requests for every model, so that it holds those whose workers are yet to come
    def submit_any(self) -> str:
        return f"{self.namespace}.model.*.submit"

    # router -> one worker (request/reply: GenerateRequest, SubmitReply)
    def worker_submit(self, worker_id: str) -> str:
        return f"{self.namespace}.worker.{token(worker_id)}.submit"

    # gateway, detokenizer -> one worker: Cancel
    def worker_cancel(self, worker_id: str) -> str:
        return f"{self.namespace}.worker.{token(worker_id)}.cancel"

    # gateway, detokenizer -> one worker: Replay
    def worker_replay(self, worker_id: str) -> str:
        return f"{self.namespace}.worker.{token(worker_id)}.replay"

    # gateway -> every router and worker: Cancel, for requests whose holder it does not know
    def cancel(self) -> str:
        return f"{self.namespace}.cancel"

    # worker -> one detokenizer: TokenFrame
    def detokenizer_frames(self, detokenizer_id: str) -> str:
        return f"{self.namespace}.detokenizer.{token(detokenizer_id)}.frames"

    # gateway -> one detokenizer: Cancel, of streams
    def detokenizer_cancel(self, detokenizer_id: str) -> str:
        return f"{self.namespace}.detokenizer.{token(detokenizer_id)}.cancel"

    # detokenizer -> one gateway: TextFrame
    def gateway_frames(self, gateway_id: str) -> str:
        return f"{self.namespace}.gateway.{token(gateway_id)}.frames"

    # router, worker -> one gateway: Holdings
    def gateway_holdings(self, gateway_id: str) -> str:
        return f"{self.namespace}.gateway.{token(gateway_id)}.holdings"

    # router, worker -> one gateway: Bounced
    def gateway_bounced(self, gateway_id: str) -> str:
        return f"{self.namespace}.gateway.{token(gateway_id)}.bounced"

    # every service -> everyone: Heartbeat
    def heartbeat(self, service: str, instance_id: str) -> str:
        return f"{self.namespace}.heartbeat.{service}.{token(instance_id)}"

    def heartbeats(self, service: str = "*") -> str:
        return f"{self.namespace}.heartbeat.{service}.*"

    # worker -> routers, kvstore: KvEvents
    def kv_events(self, worker_id: str = "*") -> str:
        return f"{self.namespace}.kv.events.{worker_id if worker_id == '*' else token(worker_id)}"

    # router, kvstore -> one worker (request/reply: KvSnapshotRequest, KvSnapshot)
    def kv_snapshot(self, worker_id: str) -> str:
        return f"{self.namespace}.kv.snapshot.{token(worker_id)}"

    # router -> any kvstore (request/reply: KvSnapshotRequest, KvSnapshots)
    def kvstore_snapshot(self) -> str:
        return f"{self.namespace}.kvstore.snapshot"

    # gateway -> any kvstore: StreamLogAppend
    def stream_log_append(self) -> str:
        return f"{self.namespace}.kvstore.log.append"

    # gateway -> any kvstore (request/reply: StreamLogRequest, StreamLog)
    def stream_log_read(self) -> str:
        return f"{self.namespace}.kvstore.log.read"

    # anyone -> every service (TraceRequest; each answers TraceReply to the reply subject)
    def trace(self) -> str:
        return f"{self.namespace}.trace"

    @staticmethod
    def queue(service: str) -> str:
        """The queue group in which copies of a service share work."""
        return f"{service}s"
