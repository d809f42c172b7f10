"""What bench.gpu_all found against what the engine must show, beside the served rows of bench.budget. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.step_trace import LAUNCH
from services.cli.screen import table

MIN_BUSY, BUSY_ROWS = 0.97, (1, 32)
MAX_SAMPLING_US = 350.0
MAX_HOST_US = {"1": 150.0, "256": 600.0}
"""Of rank 0's whole turn, by rows."""

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    what: str
    ours: str
    bar: str
    met: bool


def findings(parts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Of the parts' results, whichever there are; a result that lacks what its kind has, as in trials, shows nothing."""
    found = []
    for name, part in parts.items():
        result = part.get("result")
        if not isinstance(result, Mapping):
            continue
        for script, judge in _JUDGES.items():
            if str(part.get("words", "")).startswith(script):
                found += [Finding(name, *row) for row in judge(result)]
    return found


Row = tuple[str, str, str, bool]


def _steps(result: Result) -> Iterator[Row]:
    for shape in result["shapes"]:
        for batch in shape.get("batches", ()):
            if "steady" in batch:
                yield from _batch(f"{shape['shape']} tp {shape['tp']}, {batch['rows']} rows", batch)


def _batch(where: str, batch: Result) -> Iterator[Row]:
    busy = batch["steady"]["busy"]
    if batch["rows"] in BUSY_ROWS:
        yield f"{where}: GPU busy", f"{busy:.1%}", f"{MIN_BUSY:.0%}", busy >= MIN_BUSY
    yield from _waits(where, batch["host_syncs"])


def _mixed(result: Result) -> Iterator[Row]:
    for row in result["rows"]:
        if "host_syncs" in row:
            where = (
                f"{result['shape']} tp {result['tp']}, {row['decodes']} rows and {row['chunk']} prompt tokens"
            )
            yield from _waits(where, row["host_syncs"])


def _waits(where: str, syncs: Result) -> Iterator[Row]:
    waits = (
        sum(call["waited_per_step"] for call in syncs[LAUNCH].values()) + syncs["pageable_copies_per_step"]
    )
    yield f"{where}: waits of the host in launch()", f"{waits:g} a step", "0", waits == 0


def _host(result: Result) -> Iterator[Row]:
    for rows, us in MAX_HOST_US.items():
        if rows in result["us"]:
            ours = result["us"][rows]["rank 0"]
            yield f"host time a step, {rows} rows", f"{ours:.0f} us", f"{us:.0f} us", ours <= us


def _sampling(result: Result) -> Iterator[Row]:
    best: dict[str, float] = {}
    for row in result["times"]:
        if "us" in row:
            best[row["shape"]] = min(row["us"], best.get(row["shape"], row["us"]))
    for shape, us in best.items():
        yield (
            f"sampling {shape}, best variant",
            f"{us:.0f} us",
            f"{MAX_SAMPLING_US:.0f} us",
            us <= MAX_SAMPLING_US,
        )


def _agreement(result: Result) -> Iterator[Row]:
    for row in result["rows"]:
        if row["dtype"] == "float32":
            same, count = row["as_transformers"], row["prompts"]
            yield f"greedy as transformers, tp {row['tp']}", str(same), f"{count} prompts", same == count


def _logits(result: Result) -> Iterator[Row]:
    for row in result["rows"]:
        bar = result["bounds"][row["dtype"]]
        yield f"logits, {row['family']} {row['dtype']}", f"{row['ours_error']:.1e}", f"{bar:.0e}", row["ok"]


def _tests(result: Result) -> Iterator[Row]:
    for run in result["runs"]:
        passed, count = run.get("passed", 0), run.get("tests", 0) - run.get("skipped", 0)
        yield (
            f"{run['folder']} on {run['on']}",
            f"{passed} pass",
            f"{count}",
            not run["rc"] and passed == count,
        )


def _failures(result: Result) -> Iterator[Row]:
    for row in result["rows"]:
        yield row["case"], "; ".join(row["broken"])[:60] or "as promised", "as promised", not row["broken"]


def _serving(result: Result) -> Iterator[Row]:
    for run in result["runs"]:
        for name, figure in run["figures"].items():
            if figure["bar"] is not None:
                ours = "-" if figure["ours"] is None else f"{figure['ours']:,.2f}"
                yield (
                    f"{run['shape']} {run['name']}: {name}",
                    ours,
                    f"{figure['bar']:,g}",
                    bool(figure["met"]),
                )


_JUDGES: dict[str, Callable[[Result], Iterator[Row]]] = {
    "bench.gpu_serving ": _serving,
    "bench.gpu_smoke ": _steps,
    "bench.mixed_steps ": _mixed,
    "bench.host_step ": _host,
    "bench.kernels ": _sampling,
    "bench.gpu_agreement ": _agreement,
    "bench.gpu_logits ": _logits,
    "bench.gpu_tests ": _tests,
    "bench.gpu_failures ": _failures,
}


def show(found: Sequence[Finding]) -> str:
    lines = [(f.part, f.what, f.ours, f.bar, "met" if f.met else "MISSED") for f in found]
    return table([("part", "what", "ours", "bar", ""), *lines])
