"""From times to tuned tables and a short report."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from bench.kernels.measure import Group

Times = Sequence[dict[str, Any]]
# A kernel of our own must beat the library by this much, or the library keeps the shape.
MARGIN = 0.98


def by_group(times: Times) -> dict[tuple[str, str], dict[str, float]]:
    """Microseconds per variant of each (op, shape)."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in times:
        if "us" in row:
            found[row["op"], row["shape"]][row["variant"]] = row["us"]
    return found


def choose(groups: Sequence[Group], times: Times) -> dict[str, Any]:
    """What was measured of the content of `kernels/configs/<GPU>.json`."""
    measured = by_group(times)
    tables: dict[str, Any] = {}
    for key, entries in _linear(groups, measured).items():
        tables.setdefault("linear", {})[key] = entries
    decode = _best_overall([group for group in groups if group.op == "attention_decode"], measured)
    if decode:
        tables["attention_decode"] = decode
    for limit in ("64", "128", "256"):
        same = [group for group in groups if group.op == "attention_prefill" and group.key == limit]
        if best := _best_overall(same, measured):
            tables.setdefault("attention_prefill", {})[limit] = best
    if sampling := _best_overall([group for group in groups if group.op == "sampling"], measured):
        tables["sampling"] = sampling
    return tables


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A GPU's table `old` with what `new` says instead: of products, for the shapes and numbers of tokens it has."""
    products = {key: list(entries) for key, entries in old.get("linear", {}).items()}
    for key, entries in new.get("linear", {}).items():
        measured = {entry["max_tokens"] for entry in entries}
        kept = [entry for entry in products.get(key, []) if entry["max_tokens"] not in measured]
        products[key] = _joined(sorted([*kept, *entries], key=lambda entry: entry["max_tokens"]))
    return {**old, **new, **({"linear": products} if products else {})}


def write(configs: dict[str, Any]) -> str:
    """The table as JSON, one choice a line."""
    indented = json.dumps(configs, indent=1)
    return (
        re.sub(r"\{[^{}]+\}", lambda choice: "{" + " ".join(choice[0][1:-1].split()) + "}", indented) + "\n"
    )


def _joined(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of ascending `max_tokens`, neighbours that agree as one."""
    joined: list[dict[str, Any]] = []
    for entry in entries:
        if joined and {**joined[-1], "max_tokens": 0} == {**entry, "max_tokens": 0}:
            joined.pop()
        joined.append(entry)
    return joined


def _linear(groups: Sequence[Group], measured: dict[tuple[str, str], dict[str, float]]) -> dict[str, Any]:
    """Per shape, entries of ascending `max_tokens`: each batch size's winner."""
    chosen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in sorted((g for g in groups if g.op == "linear" and g.timed), key=lambda g: g.tokens):
        times = measured.get((group.op, group.shape), {})
        configs = {v.name: v.config for v in group.variants if v.config is not None and v.name in times}
        if not configs:
            continue
        best = min(configs, key=lambda name: times[name])
        if "library" in times and times[best] > MARGIN * times["library"]:
            best = "library"
        chosen[group.key].append({"max_tokens": group.tokens, **(configs[best] or {})})
    return chosen


def _best_overall(
    groups: Sequence[Group], measured: dict[tuple[str, str], dict[str, float]]
) -> dict[str, Any] | None:
    """The configuration with the least geometric mean of time over each group's best, of those that ran everywhere."""
    logs: dict[str, list[float]] = defaultdict(list)
    configs: dict[str, dict[str, Any]] = {}
    for group in groups:
        times = measured.get((group.op, group.shape), {})
        ours = {v.name: v.config for v in group.variants if v.config is not None and v.name in times}
        for name, config in ours.items():
            logs[name].append(math.log(times[name] / min(times[other] for other in ours)))
            configs[name] = config or {}
    if not logs:
        return None
    most = max(map(len, logs.values()))
    return configs[min((n for n in logs if len(logs[n]) == most), key=lambda name: sum(logs[name]))]


def table(times: Times, width: int = 44) -> str:
    """One line per shape: the limit, the best variant, and the library or other comparisons."""
    limits = {(row["op"], row["shape"]): row["limit_us"] for row in times if "us" in row}
    lines = [f"{'shape':40s} {'limit us':>9s} {'best us':>9s} {'ratio':>5s}  best variant | others"]
    for (op, shape), found in by_group(times).items():
        best = min(found, key=lambda name: found[name])
        special = [
            name
            for name in found
            if name != best and not name[:1].isdigit() and not name.startswith("skinny")
        ]
        rest = " ".join(f"{name[:24]}={found[name]:.1f}" for name in special[:3])
        limit = limits[op, shape]
        line = f"{op[-9:] + ' ' + shape:40s} {limit:9.2f} {found[best]:9.2f} {found[best] / max(limit, 1e-9):5.2f}"
        lines.append(f"{line}  {best[:width]} | {rest}")
    failed = [row for row in times if "exception" in row]
    lines += [
        f"FAILED {row['op']} {row['shape']} {row.get('variant', '')}: {row['exception'][-160:]}"
        for row in failed
    ]
    return "\n".join(lines)
