"""Puts fleet, prefix index and policy together: where a request goes now. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.errors import ContextLengthExceeded
from services.router.fleet import Charge, Fleet, Worker
from services.router.policy import Candidate, Policy
from services.router.prefix_index import PrefixIndex
from services.router.request import QueuedRequest


@dataclass(frozen=True, slots=True)
class Placed:
    worker: Worker
    charge: Charge
    cached_tokens: int  # that the index knows of; 0 where it was not asked


@dataclass(slots=True)
class Placement:
    fleet: Fleet
    index: PrefixIndex
    policy: Policy

    def too_long(self, request: QueuedRequest) -> ContextLengthExceeded | None:
        """The error for a request that no live worker could ever run; None while there are no workers."""
        workers = self.fleet.of_model(request.model)
        if not workers or any(worker.fits(request.num_total_tokens) for worker in workers):
            return None
        limit = max(worker.load.max_request_tokens for worker in workers)
        return ContextLengthExceeded(
            f"prompt and max_tokens come to {request.num_total_tokens} tokens; "
            f"the longest request that a live worker can hold is {limit} tokens",
            param="max_tokens",
        )

    def place(self, request: QueuedRequest) -> Placed | None:
        """The worker that gets the request now, or None while none has room."""
        workers = [
            worker
            for worker in self.fleet.of_model(request.model)
            if worker.takes_work and worker.fits(request.num_total_tokens)
        ]
        if not workers:
            return None
        if len(workers) == 1 and workers[0].has_room(charge := self._charge(workers[0], request, 0)):
            return Placed(workers[0], charge, 0)  # nothing to choose, so nothing to look up
        cached = self._cached_tokens(request, workers)
        return self._choose(request, workers, cached)

    def _choose(self, request: QueuedRequest, workers: list[Worker], cached: dict[str, int]) -> Placed | None:
        with_room: dict[str, Placed] = {}
        for worker in workers:
            tokens = cached.get(worker.worker_id, 0)
            charge = self._charge(worker, request, tokens)
            if worker.has_room(charge):
                with_room[worker.worker_id] = Placed(worker, charge, tokens)
        if len(with_room) > 1:
            candidates = [
                Candidate(name, p.worker.num_sequences, p.worker.prefill_tokens, p.cached_tokens)
                for name, p in with_room.items()
            ]
            return with_room[self.policy.choose(request.num_prompt_tokens, candidates).worker_id]
        return next(iter(with_room.values()), None)

    def _cached_tokens(self, request: QueuedRequest, workers: list[Worker]) -> dict[str, int]:
        if not self.policy.uses_cache or not len(self.index):
            return {}
        cached: dict[str, int] = {}
        for block_size in {worker.load.block_size for worker in workers}:
            matches = self.index.match(request.blocks(block_size))
            cached |= {
                worker.worker_id: matches.get(worker.worker_id, 0) * block_size
                for worker in workers
                if worker.load.block_size == block_size
            }
        return cached

    @staticmethod
    def _charge(worker: Worker, request: QueuedRequest, cached_tokens: int) -> Charge:
        uncached = max(1, request.num_prompt_tokens - cached_tokens)
        blocks = -(-uncached // worker.load.block_size) if worker.load.block_size > 0 else 0
        return Charge(request.num_choices, uncached, blocks)
