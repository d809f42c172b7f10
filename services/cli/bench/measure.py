"""From what each request saw to what the run shows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Record:
    """One request. Times are seconds on one clock; ``chunks`` are (arrival, tokens; 0 where the server told none)."""

    sent: float
    prompt_len: int
    chunks: list[tuple[float, int]] = field(default_factory=list)
    num_output: int = 0  # by the server's usage; 0 where it told none
    num_prompt: int = 0
    num_cached: int = 0
    ended: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Times in ms, rates per second. ``itl`` of chunks with several tokens: see ``token_gaps``."""

    num_completed: int
    num_failed: int
    duration_s: float
    requests_per_s: float
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2e_ms: Spread
    counted_by: str  # how tokens per chunk are known
    errors: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of an ordered sequence; NaN where it is empty."""
    if not ordered:
        return math.nan
    position = (len(ordered) - 1) * share
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def spread(values: Sequence[float], scale: float = 1000.0) -> Spread:
    ordered = sorted(values)
    mean = math.fsum(ordered) / len(ordered) if ordered else math.nan
    return Spread(mean * scale, percentile(ordered, 0.5) * scale, percentile(ordered, 0.99) * scale)


def settle_counts(record: Record) -> str:
    """Fills in each chunk's tokens as well as they can be known; says how ("server", "chunk" or "spread").

    Chunks that told their own count are taken at their word. Else, when there are as many chunks as the usage
    counts tokens, each holds one. Else the total is right and its spread over chunks is even.
    """
    if record.chunks and all(count > 0 for _, count in record.chunks):
        record.num_output = record.num_output or sum(count for _, count in record.chunks)
        return "server"
    times = [at for at, _ in record.chunks]
    total = record.num_output or len(times)
    record.num_output = total
    if len(times) == total:
        record.chunks = [(at, 1) for at in times]
        return "chunk"
    if times:
        ends = [round(total * (i + 1) / len(times)) for i in range(len(times))]
        record.chunks = [(at, ends[i] - (ends[i - 1] if i else 0)) for i, at in enumerate(times)]
    return "spread"


def time_per_output_token(record: Record) -> float | None:
    """Seconds a token after the first chunk; None where one chunk held all."""
    if not record.chunks:
        return None
    rest = record.num_output - record.chunks[0][1]
    return (record.chunks[-1][0] - record.chunks[0][0]) / rest if rest > 0 else None


def token_gaps(record: Record) -> list[float]:
    """What a reader waits for each token after the first chunk: tokens that come together wait once."""
    gaps: list[float] = []
    for (before, _), (at, count) in zip(record.chunks, record.chunks[1:], strict=False):
        gaps += [at - before, *[0.0] * (count - 1)] if count else []
    return gaps


def summarize(records: Sequence[Record], duration_s: float) -> Summary:
    good = [r for r in records if not r.error and r.chunks]
    ways = sorted({settle_counts(record) for record in good})
    tpot = [t for t in map(time_per_output_token, good) if t is not None]
    output, prompt = sum(r.num_output for r in good), sum(r.num_prompt or r.prompt_len for r in good)
    errors: dict[str, int] = {}
    for record in records:
        if record.error or not record.chunks:
            reason = record.error or "no token came"
            errors[reason] = errors.get(reason, 0) + 1
    return Summary(
        num_completed=len(good),
        num_failed=len(records) - len(good),
        duration_s=duration_s,
        requests_per_s=len(good) / duration_s,
        output_tokens=output,
        prompt_tokens=prompt,
        cached_tokens=sum(r.num_cached for r in good),
        output_tokens_per_s=output / duration_s,
        total_tokens_per_s=(output + prompt) / duration_s,
        ttft_ms=spread([r.chunks[0][0] - r.sent for r in good]),
        tpot_ms=spread(tpot),
        itl_ms=spread([gap for r in good for gap in token_gaps(r)]),
        e2e_ms=spread([r.ended - r.sent for r in good]),
        counted_by="+".join(ways),
        errors=errors,
    )
