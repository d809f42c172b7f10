"""Prefix hits and time to first token by routing policy: ``python -m bench.routing_replay [--trace FILE]``.

The router's real line, fleet view, prefix index and policies place a trace on simulated workers, under a virtual
clock. A simulated worker has an LRU prefix cache, chunked prefill and a step time that is linear in its work; its
constants are the measured ones of an 8B shape on one H200. What is compared is policies, not workers.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.routing_trace import ChatShape, Session, Turn, chat_trace, read_trace
from services.common.messages.codec import encode
from services.common.messages.events import READY, Heartbeat, WorkerLoad
from services.common.messages.request import ChoiceState, GenerateRequest, SamplingParams, SubmitReply
from services.router.fleet import Fleet
from services.router.placement import Placement
from services.router.policy import make_policy
from services.router.prefix_index import PrefixIndex
from services.router.queue import Line
from services.router.request import QueuedRequest, queued_request

METHODS = ("cache_aware", "least_loaded", "round_robin")


@dataclass(frozen=True, slots=True)
class WorkerShape:
    block_size: int = 16
    cache_blocks: int = 8_000  # 128,000 tokens: small enough that the cache is contended
    max_running: int = 64
    step_tokens: int = 8_192
    step_s: float = 0.0041  # one decode step of one sequence
    sequence_s: float = 0.00003  # each further sequence
    prefill_tokens_per_s: float = 46_000.0
    heartbeat_s: float = 0.05  # how old the load is that the router sees, at most


@dataclass(slots=True, eq=False)
class Job:
    request: QueuedRequest
    turn: Turn
    hashes: list[bytes]
    num_uncached: int = 0
    num_left: int = 0  # output tokens
    on_end: Callable[[float], None] = lambda now: None


@dataclass(slots=True)
class Figures:
    ttft_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    ended_at_s: float = 0.0

    def summary(self) -> dict[str, float]:
        cuts = statistics.quantiles(self.ttft_s, n=100)
        return {
            "requests": len(self.ttft_s),
            "hit_rate": self.cached_tokens / self.prompt_tokens,
            "ttft_mean_ms": 1000 * statistics.mean(self.ttft_s),
            "ttft_p50_ms": 1000 * cuts[49],
            "ttft_p99_ms": 1000 * cuts[98],
            "duration_s": self.ended_at_s,
        }


class Clock:
    """Virtual time: what is due next, happens next."""

    def __init__(self) -> None:
        self.now, self._count = 0.0, 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, what))

    def run(self) -> None:
        while self._due:
            self.now, _, what = heapq.heappop(self._due)
            what()


class SimulatedWorker:
    """Runs jobs in steps: chunks of prompts first, one token for everybody else."""

    def __init__(
        self, name: str, shape: WorkerShape, clock: Clock, index: PrefixIndex, figures: Figures
    ) -> None:
        self.name, self.shape, self._clock = name, shape, clock
        self._index, self._figures = index, figures
        self._cache: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._is_stepping = False
        self.num_accepted = 0

    def load(self) -> WorkerLoad:
        jobs = self._running + self._waiting
        return WorkerLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            max_running=self.shape.max_running,
            waiting_prefill_tokens=sum(job.num_uncached for job in jobs),
            free_blocks=self.shape.cache_blocks,
            total_blocks=self.shape.cache_blocks,
            block_size=self.shape.block_size,
            num_accepted=self.num_accepted,
        )

    def submit(self, job: Job) -> None:
        cached = self._touch(job.hashes) * self.shape.block_size
        prompt = len(job.turn.prompt_ids)
        job.num_uncached, job.num_left = max(1, prompt - cached), job.turn.num_output
        self._figures.prompt_tokens += prompt
        self._figures.cached_tokens += prompt - job.num_uncached
        self._waiting.append(job)
        self.num_accepted += 1
        if not self._is_stepping:
            self._is_stepping = True
            self._step()

    def _step(self) -> None:
        while self._waiting and len(self._running) < self.shape.max_running:
            self._running.append(self._waiting.pop(0))
        if not self._running:
            self._is_stepping = False
            return
        decoding = [job for job in self._running if not job.num_uncached]
        budget, filled = self.shape.step_tokens - len(decoding), []
        for job in self._running:
            chunk = min(budget, job.num_uncached)
            budget -= chunk
            job.num_uncached -= chunk
            if chunk and not job.num_uncached:
                filled.append(job)
        prefilled = self.shape.step_tokens - len(decoding) - budget
        seconds = self.shape.step_s + self.shape.sequence_s * len(decoding)
        seconds += prefilled / self.shape.prefill_tokens_per_s
        self._clock.at(self._clock.now + seconds, lambda: self._finish_step(decoding, filled))

    def _finish_step(self, decoding: list[Job], filled: list[Job]) -> None:
        now = self._clock.now
        for job in filled:
            self._figures.ttft_s.append(now - job.request.arrived_at)
            self._store(job.hashes)
        for job in decoding + filled:
            job.num_left -= 1
            if job.num_left <= 0:
                self._running.remove(job)
                job.on_end(now)
        self._step()

    def _touch(self, hashes: list[bytes]) -> int:
        """How many leading blocks are cached; they become the latest used."""
        for depth, name in enumerate(hashes):
            if name not in self._cache:
                return depth
            self._cache.move_to_end(name)
        return len(hashes)

    def _store(self, hashes: list[bytes]) -> None:
        self._cache.update(dict.fromkeys(hashes))
        for name in reversed(hashes):
            self._cache.move_to_end(name)  # the end of a chain goes first
        self._index.store(self.name, hashes)
        gone = [self._cache.popitem(last=False)[0] for _ in range(len(self._cache) - self.shape.cache_blocks)]
        self._index.remove(self.name, gone)


class Replay:
    """One router, its line and its workers, until every session has ended."""

    def __init__(self, method: str, num_workers: int, shape: WorkerShape, seed: int) -> None:
        self.clock, self.figures = Clock(), Figures()
        self._shape, self._line = shape, Line("fair", 1_000_000)
        self._fleet, self._index = Fleet(), PrefixIndex()
        self._placement = Placement(self._fleet, self._index, make_policy(method, random.Random(seed)))
        names = [f"w{i}" for i in range(num_workers)]
        self._workers = {
            name: SimulatedWorker(name, shape, self.clock, self._index, self.figures) for name in names
        }
        self._jobs: dict[str, Job] = {}
        self._num_open = 0

    def run(self, sessions: list[Session]) -> Figures:
        self._num_open = len(sessions)
        self._beat()
        for number, session in enumerate(sessions):
            self.clock.at(session[0].at_s, lambda s=session, n=number: self._start_turn(s, n, 0))
        self.clock.run()
        return self.figures

    def _start_turn(self, session: Session, number: int, index: int) -> None:
        turn = session[index]
        message = GenerateRequest(
            request_id=f"s{number}-t{index}",
            attempt=1,
            gateway_id="g",
            detokenizer_id="d",
            model="m",
            prompt_ids=turn.prompt_ids,
            choices=[ChoiceState(0, 0)],
            sampling=SamplingParams(max_tokens=turn.num_output),
            tenant=turn.tenant,
        )
        request = queued_request(message, encode(message), self.clock.now)
        job = Job(request, turn, list(request.blocks(self._shape.block_size)))

        def on_end(now: float) -> None:
            self.figures.ended_at_s = now
            if index + 1 < len(session):
                self.clock.at(now + turn.think_s, lambda: self._start_turn(session, number, index + 1))
            else:
                self._num_open -= 1

        job.on_end = on_end
        self._jobs[request.request_id] = job
        self._line.push(request)
        self._dispatch()

    def _dispatch(self) -> None:
        while (request := self._line.peek()) is not None:
            placed = self._placement.place(request)
            if placed is None:
                return
            self._line.pop()
            self._fleet.on_dispatched(placed.worker, placed.charge)
            worker = self._workers[placed.worker.worker_id]
            worker.submit(self._jobs.pop(request.request_id))
            reply = SubmitReply(True, worker.name, num_accepted=worker.num_accepted)
            self._fleet.on_answered(placed.worker, placed.charge, reply)

    def _beat(self) -> None:
        for name, worker in self._workers.items():
            beat = Heartbeat("worker", name, 1, READY, self._shape.heartbeat_s, "m", worker=worker.load())
            self._fleet.on_heartbeat(beat)
        self._dispatch()
        if self._num_open:
            self.clock.at(self.clock.now + self._shape.heartbeat_s, self._beat)


def conditions(args: argparse.Namespace, sessions: list[Session], shape: WorkerShape) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "trace": str(args.trace.name) if args.trace else asdict(args.chat),
        "seed": args.seed,
        "sessions": len(sessions),
        "requests": sum(map(len, sessions)),
        "prompt_tokens": sum(len(turn.prompt_ids) for session in sessions for turn in session),
        "workers": args.workers,
        "worker": asdict(shape),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, help="JSON lines instead of synthetic chats")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=ChatShape().num_sessions)
    parser.add_argument(
        "--rate", type=float, default=ChatShape().sessions_per_s, help="new sessions a second"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/routing_replay.json"))
    args = parser.parse_args()
    args.chat = ChatShape(num_sessions=args.sessions, sessions_per_s=args.rate)
    sessions = read_trace(args.trace) if args.trace else chat_trace(args.chat, args.seed)
    shape = WorkerShape()
    report: dict[str, object] = {"conditions": conditions(args, sessions, shape)}
    print(json.dumps(report["conditions"], indent=2))
    print(f"{'policy':14}{'hit rate':>9}{'TTFT mean':>12}{'p50':>10}{'p99':>10}{'all done':>10}")
    for method in METHODS:
        result = Replay(method, args.workers, shape, args.seed).run(sessions).summary()
        report[method] = result
        times = "".join(
            f"{result[key]:>{width}.1f}ms"
            for key, width in (("ttft_mean_ms", 10), ("ttft_p50_ms", 8), ("ttft_p99_ms", 8))
        )
        print(f"{method:14}{result['hit_rate']:>9.1%}{times}{result['duration_s']:>9.1f}s")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
