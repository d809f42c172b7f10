"""What happens in one simulated world: its shape, its requests, its faults. A pure function of the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import Enum

from services.common.lifecycle import Timing
from services.common.liveness import GATEWAY_LEASES
from tests.simulation.language import STOP_STRINGS, VOCAB_SIZE

SERVICES = ("gateway", "router", "worker", "detokenizer")
FAULTS_END_S = 5.0  # by then every fault has ceased, restarts included
# From one fault in an otherwise healthy deployment: 1.5 s to notice it and 1 s to resume (docs/reliability.md).
MAX_STALL_S = 2.5
# Where every tenth frame may be lost, so may be replays in a row: after three of them the fourth is asked for
# 0.25 + 0.5 + 1 + 2 s after the first loss (Patience, services/gateway/life/spec.py).
MAX_LOSSY_STALL_S = 4.5
HEARTBEAT_S = Timing().heartbeat_s
GATEWAY_DEAD_S = (
    GATEWAY_LEASES * Timing().lease_s
)  # docs/architecture.md, "Liveness": then its requests are given up
# After the last client has ended, everything that was held is free within this time: services look at what they hold,
# and tell of it, once a heartbeat.
RELEASE_S = GATEWAY_DEAD_S + 2 * HEARTBEAT_S + 0.15
PARTING_RELEASE_S = 1.5  # where every gateway lives: a heartbeat, the step under way, and the next one's load


# Which seeds' clients leave, or die with their gateway, in the middle of answers that would go on for long.
PARTING_FIRST, PARTING_EVERY = 7, 50


class Kind(Enum):
    KILL = "kill"  # SIGKILL; started again after ``duration``
    DRAIN = "drain"  # SIGTERM; started again when it has stopped and ``duration`` has passed
    PAUSE = "pause"  # SIGSTOP; SIGCONT after ``duration``
    DEAF = "deaf"  # nothing arrives there for ``duration``, while it is heard
    MUTE = "mute"  # nothing of it arrives anywhere for ``duration``
    ENGINE = "engine"  # a worker's rank 0 is killed, and its control process gives up; started again
    OUTAGE = "outage"  # NATS is away


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    kind: Kind
    service: str  # "" for an outage
    index: int
    duration: float
    new_id: bool = False  # a restarted service comes under another name


@dataclass(frozen=True, slots=True)
class Noise:
    """Chances per message and subscriber, until the faults end. ``only``: of subjects that end in it."""

    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    max_delay_s: float = 0.0
    only: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One client call."""

    at: float
    request_id: str
    prompt: tuple[int, ...]
    seed: int
    num_choices: int
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0
    leaves_after: float | None = None  # seconds after which the client hangs up
    timeout_s: float = 0.0
    comes_back: bool = False  # with its Last-Event-ID, when its gateway dies
    is_scored: bool = False  # wants the log probabilities of its prompt
    gateway: int | None = None  # asked of this one; else of any


@dataclass(frozen=True, slots=True)
class Plan:
    """``max_stall_s``: no client may wait longer between two pieces of its stream; 0 where nothing is promised.

    ``max_queue`` is each router's, ``num_blocks`` each worker's KV cache. Steps take one of ``steps_s``, in seconds.
    By ``faults_end_s`` faults and noise have ceased. ``buried_by_s``: from then on nobody holds anything of a gateway
    that is dead; 0 where others are in trouble too.
    """

    seed: int
    counts: dict[str, int]
    noise: Noise
    asks: tuple[Ask, ...]
    faults: tuple[Fault, ...] = field(default=())
    max_stall_s: float = 0.0
    max_queue: int = 1024
    num_blocks: int = 64
    steps_s: tuple[float, ...] = (0.004, 0.02, 0.05)
    faults_end_s: float = FAULTS_END_S
    release_s: float = RELEASE_S
    buried_by_s: float = 0.0

    @property
    def loses(self) -> bool:
        """Whether any message may be lost other than with the process that it is for."""
        return self.noise.lose > 0 or any(f.kind in (Kind.OUTAGE, Kind.DEAF, Kind.MUTE) for f in self.faults)


def make_plan(seed: int) -> Plan:
    """Two worlds in ten have a single kind of trouble, so that their clients' waits can be judged.

    One world in fifty is about clients who ask for more than anybody would wait for.
    """
    rng = random.Random(f"plan {seed}")
    if seed % PARTING_EVERY == PARTING_FIRST:
        return _parting_plan(seed, rng)
    if seed % 10 == 0:
        return _calm_plan(seed, rng, MAX_STALL_S, faults=(_single_fault(rng),))
    if seed % 10 == 5:
        noise = Noise(lose=rng.uniform(0.0, 0.1), only=".frames")
        return _calm_plan(seed, rng, MAX_LOSSY_STALL_S, noise=noise)
    return _rough_plan(seed, rng)


def _calm_plan(
    seed: int,
    rng: random.Random,
    max_stall_s: float,
    *,
    faults: tuple[Fault, ...] = (),
    noise: Noise = Noise(),
) -> Plan:
    """Two of everything, and so little to do that nobody waits for room."""
    asks = tuple(
        Ask(
            rng.uniform(0.5, 1.0),
            f"s{seed}-{i}",
            _ids(rng, 12),
            rng.getrandbits(40),
            num_choices=2,
            max_tokens=60,
        )
        for i in range(2)
    )
    return Plan(seed, dict.fromkeys(SERVICES, 2), noise, asks, faults, max_stall_s)


def _single_fault(rng: random.Random) -> Fault:
    service = rng.choice(("router", "worker", "worker", "detokenizer"))
    kinds = [Kind.KILL, Kind.PAUSE, Kind.DRAIN] + [Kind.ENGINE] * (service == "worker")
    return Fault(rng.uniform(1.0, 2.0), rng.choice(kinds), service, rng.randrange(2), 2.5)


def _parting_plan(seed: int, rng: random.Random) -> Plan:
    """A full worker and a line. What is not freed when its client goes would be held for ten times the release.

    The second gateway is killed with requests in the batch and in the line; it comes back, by its name or by another,
    and then those who stayed at the first leave as well.
    """
    num_tokens, step_s, end_s, max_delay_s = 400, 0.05, 2.5, 0.3
    killed_at = rng.uniform(1.2, 2.0)
    buried_by_s = killed_at + max_delay_s + GATEWAY_DEAD_S + 2 * HEARTBEAT_S + 2 * step_s

    def ask(i: int, gateway: int, at: float, leaves_at: float) -> Ask:
        seed_ = rng.getrandbits(40)
        return Ask(
            at,
            f"s{seed}-{i}",
            _ids(rng, 6),
            seed_,
            2,
            num_tokens,
            leaves_after=leaves_at - at,
            gateway=gateway,
        )

    asks = [ask(0, 1, 0.4, 60.0)]  # in the batch when its gateway dies
    asks += [ask(i, 0, rng.uniform(0.5, 0.6), buried_by_s + rng.uniform(0.3, 0.6)) for i in range(1, 6)]
    asks += [ask(i, 1, rng.uniform(0.7, 0.9), 60.0) for i in range(6, 8)]  # in the line
    asks += [ask(i, 0, rng.uniform(0.4, 0.9), rng.uniform(1.0, 2.4)) for i in range(8, 10)]
    killed = Fault(killed_at, Kind.KILL, "gateway", 1, rng.uniform(0.1, 0.5), rng.random() < 0.5)
    noise = Noise(lose=rng.choice((0.0, 0.1)), delay=rng.choice((0.0, 0.2)), max_delay_s=max_delay_s)
    counts = {"gateway": 2, "router": rng.choice((1, 2)), "worker": 1, "detokenizer": 1}
    return Plan(
        seed,
        counts,
        noise,
        tuple(asks),
        (killed,),
        num_blocks=1024,
        steps_s=(step_s,),
        faults_end_s=end_s,
        release_s=PARTING_RELEASE_S,
        buried_by_s=buried_by_s,
    )


def _rough_plan(seed: int, rng: random.Random) -> Plan:
    counts = {
        "gateway": rng.choice((1, 1, 2)),
        "router": rng.choice((1, 2)),
        "worker": rng.choice((1, 2, 2, 3)),
        "detokenizer": rng.choice((1, 2)),
    }
    level = rng.choice((0.0, 0.01, 0.05, 0.15))
    noise = Noise(
        lose=level * rng.random(),
        double=level * rng.random() * 2,
        delay=level * rng.random() * 3,
        max_delay_s=rng.choice((0.01, 0.1, 0.6, 2.0)),
    )
    num_faults = rng.choice((0, 1, 1, 2, 2, 3, 4))
    faults = [_fault(rng, counts) for _ in range(num_faults)]
    if rng.random() < 0.3:  # any two at once
        faults = [replace(fault, at=faults[0].at) for fault in faults]
    prefixes = [_ids(rng, rng.randint(4, 24)) for _ in range(2)]
    is_crowded = rng.random() < 0.1
    num_asks = 12 if is_crowded else rng.randint(1, 6)
    return Plan(
        seed,
        counts,
        noise,
        tuple(_ask(rng, f"s{seed}-{i}", prefixes) for i in range(num_asks)),
        tuple(faults),
        max_queue=1 if is_crowded else 1024,
        num_blocks=rng.choice((40, 64)),
    )


def _fault(rng: random.Random, counts: dict[str, int]) -> Fault:
    at = rng.uniform(0.5, 3.0)
    duration = min(rng.choice((0.05, 0.3, 0.8, 1.5, 2.5)) * rng.uniform(0.5, 1.5), FAULTS_END_S - at)
    if rng.random() < 0.1:
        return Fault(at, Kind.OUTAGE, "", 0, duration)
    if rng.random() < 0.1:
        return Fault(at, Kind.ENGINE, "worker", rng.randrange(counts["worker"]), duration, rng.random() < 0.5)
    service = rng.choice((*SERVICES, "worker"))
    kind = rng.choice((Kind.KILL, Kind.KILL, Kind.DRAIN, Kind.PAUSE, Kind.PAUSE, Kind.DEAF, Kind.MUTE))
    return Fault(at, kind, service, rng.randrange(counts[service]), duration, rng.random() < 0.5)


def _ids(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(VOCAB_SIZE) for _ in range(count))


def _ask(rng: random.Random, request_id: str, prefixes: list[tuple[int, ...]]) -> Ask:
    tail = _ids(rng, rng.randint(1, 12))
    leaves = rng.random() < 0.15
    has_stop = rng.random() < 0.4
    return Ask(
        at=rng.uniform(0.3, 2.5),
        request_id=request_id,
        prompt=rng.choice((*prefixes, ())) + tail,
        seed=rng.getrandbits(40),
        num_choices=rng.choice((1, 1, 1, 2, 3)),
        max_tokens=100 if leaves else rng.choice((1, 3, 10, 30, 60)),
        stop_ids=tuple(rng.sample(range(VOCAB_SIZE), 2)) if not has_stop and rng.random() < 0.5 else (),
        stop=tuple(rng.sample(STOP_STRINGS, rng.randint(1, 3))) if has_stop else (),
        include_stop=rng.random() < 0.3,
        min_tokens=rng.choice((0, 5)) if has_stop else 0,
        leaves_after=rng.uniform(0.0, 2.0) if leaves else None,
        timeout_s=rng.uniform(0.2, 4.0) if rng.random() < 0.1 else 0.0,
        comes_back=rng.random() < 0.5,
        is_scored=rng.random() < 0.25,
    )
