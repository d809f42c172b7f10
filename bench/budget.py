"""The bars of serving on NVIDIA H200s, and how what was measured stands against them. Pure.

They are those of the project's design ("ours, at least", and what the hardware allows: bytes over 4.45 TB/s or
operations over 700 TFLOP/s) and are written nowhere else in the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.cli.screen import table

COLD, WARM, STOP = "cold start", "warm start", "stop"
PER_TOKEN, FIRST_TOKEN = "ms per output token", "ms to the first token"
OUTPUT, TOTAL = "output tokens/s", "total tokens/s"
READY, EXIT_CODE = "s to ready", "exit code"

# Which figures say something about a workload; those of OUTPUT and TOTAL are better when higher.
FIGURES: dict[str, tuple[str, ...]] = {
    "c1": (PER_TOKEN, FIRST_TOKEN),
    "c32": (OUTPUT,),
    "c256": (OUTPUT,),
    "prefix": (OUTPUT,),
    "long": (TOTAL,),
    COLD: (READY,),
    WARM: (READY,),
    STOP: (EXIT_CODE,),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """``bar`` is to be reached; ``limit`` is what the hardware allows, None where nobody worked it out."""

    shape: str
    tp: int
    workload: str
    figure: str
    bar: float
    limit: float | None = None


BARS = (
    Bar("llama-3-8b", 1, "c1", PER_TOKEN, 4.1, 3.4),
    Bar("llama-3-8b", 1, "c1", FIRST_TOKEN, 12, 4),
    Bar("llama-3-8b", 1, "c32", OUTPUT, 3900, 5600),
    Bar("llama-3-8b", 1, "c256", OUTPUT, 6900, 7800),
    Bar("llama-3-8b", 1, "prefix", OUTPUT, 5200),
    Bar("llama-3-8b", 1, "long", TOTAL, 28000, 42000),
    Bar("llama-3-8b", 1, COLD, READY, 45),
    Bar("llama-3-8b", 1, WARM, READY, 15),
    Bar("qwen3-0.6b", 1, "c1", PER_TOKEN, 1.3, 0.27),
    Bar("qwen3-0.6b", 1, "c256", OUTPUT, 22000, 60000),
    Bar("qwen2-32b", 4, "c1", PER_TOKEN, 6.2, 4.5),
    Bar("qwen2-32b", 4, "c32", OUTPUT, 2900),
    Bar("qwen2-32b", 4, "c256", OUTPUT, 5600),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one run. ``ours`` is None where the run failed, ``met`` where there is no bar."""

    shape: str
    tp: int
    workload: str
    figure: str
    ours: float | None
    bar: float | None
    limit: float | None
    met: bool | None
    note: str = ""


def find_bar(shape: str, tp: int, workload: str, figure: str) -> Bar | None:
    """A bar holds for one number of GPUs; at others a shape is measured for the record."""
    wanted = (shape, tp, workload, figure)
    return next((b for b in BARS if (b.shape, b.tp, b.workload, b.figure) == wanted), None)


def figure_of(figure: str, run: Mapping[str, Any]) -> float | None:
    """A figure from what ``shoal bench serve`` writes of a workload, or from what is noted of a start."""
    if figure in (PER_TOKEN, FIRST_TOKEN):
        times = run.get("tpot_ms" if figure == PER_TOKEN else "ttft_ms")
        return times["mean"] if times else None
    names = {
        OUTPUT: "output_tokens_per_s",
        TOTAL: "total_tokens_per_s",
        READY: "ready_s",
        EXIT_CODE: "exit_code",
    }
    return run.get(names[figure])


def rows_of(run: Mapping[str, Any]) -> list[Row]:
    """The figures of a run beside their bars. A run with failed requests meets none."""
    where = (run["shape"], run["tp"], run["name"])
    rows = []
    for figure in FIGURES[run["name"]]:
        ours, found = figure_of(figure, run), find_bar(*where, figure)
        bar, limit, met = None, None, None
        if found:
            bar, limit = found.bar, found.limit
            is_reached = ours is not None and (ours >= bar if figure in (OUTPUT, TOTAL) else ours <= bar)
            met = is_reached and not run.get("num_failed") and not run.get("error")
        rows.append(Row(*where, figure, ours, bar, limit, met, note_of(run)))
    return rows


def note_of(run: Mapping[str, Any]) -> str:
    notes = []
    if run.get("compiled"):
        notes.append(f"{run['compiled']} kernels compiled")
    if run.get("num_failed"):
        notes.append(f"{run['num_failed']} requests failed")
    if run.get("error"):
        notes.append(" ".join(run["error"].split())[:100])
    return "; ".join(notes)


def show(rows: Sequence[Row]) -> str:
    head = ("shape", "tp", "workload", "figure", "ours", "bar", "limit", "", "note")
    lines = [
        (r.shape, str(r.tp), r.workload, r.figure, _number(r.ours), _number(r.bar), _number(r.limit),
         {None: "", True: "met", False: "missed"}[r.met], r.note)
        for r in rows
    ]  # fmt: skip
    return table([head, *lines])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
