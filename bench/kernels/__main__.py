"""``python -m bench.kernels --out FILE [--only linear,attention,...] [--match R256]``: check, time, choose.

Workers check the variants first, several at once, which also fills Triton's cache on disk; then one process times
the right ones by turns. Beside FILE it writes this GPU's table with what was found: to be copied to `kernels/configs/`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from bench.kernels import attention, few, linear, sampling, simple, step
from bench.kernels.choose import choose, merge, table, write
from bench.kernels.measure import Group, check, time_group
from kernels.configs import tuned

OPS = {"linear": linear, "simple": simple, "sampling": sampling, "attention": attention, "step": step}
# Part of the others, or not for a table: only where asked for.
EXTRA = {"few": few}


def groups(only: list[str], match: str) -> Iterator[Group]:
    for op in only:
        yield from (group for group in (OPS | EXTRA)[op].groups() if re.search(match, group.shape))


def share_of(only: list[str], match: str, share: int, shares: int) -> Iterator[Group]:
    """One share of the groups; those of one matrix stay together, since they compile the same kernels."""
    numbers: dict[str, int] = {}
    for group in groups(only, match):
        name = f"{group.op} {group.key} {max(group.tokens, 16)}" if group.op == "linear" else group.shape
        if numbers.setdefault(name, len(numbers)) % shares == share:
            yield group


def check_share(only: list[str], match: str, share: int, shares: int, path: Path) -> None:
    """Check one share of the groups and append the results to `path` line by line."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh tensors with NaN
    with path.open("w") as file:
        for group in share_of(only, match, share, shares):
            for variant in () if group.op == "step" else group.variants:
                file.write(json.dumps(check(group, variant)) + "\n")
                file.flush()
            gc.collect()
            torch.cuda.empty_cache()


def check_all(only: list[str], match: str, shares: int, out: Path, deadline: float) -> list[dict[str, Any]]:
    """Run the checks in `shares` processes; what has not answered by `deadline` counts as unchecked."""
    paths = [out.with_suffix(f".check{share}") for share in range(shares)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.kernels", "--out", str(path), "--only", ",".join(only),
             "--match", match, "--share", f"{share}/{shares}"],
            env=environment, stdout=subprocess.DEVNULL, stderr=out.with_suffix(f".log{share}").open("w"),
        )
        for share, path in enumerate(paths)
    ]  # fmt: skip
    for worker in workers:
        try:
            worker.wait(max(deadline - time.perf_counter(), 0.1))
        except subprocess.TimeoutExpired:
            worker.kill()
    rows = [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]
    for share, path in enumerate(paths):
        path.unlink(missing_ok=True)
        log = out.with_suffix(f".log{share}")
        if workers[share].returncode:
            print(f"checker {share} ended with {workers[share].returncode}: {log.read_text()[-400:]}")
        log.unlink(missing_ok=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(OPS))
    parser.add_argument("--match", default="", help="only shapes in which this regular expression is found")
    parser.add_argument("--share", help="check one share, i/n, and leave (used by the checkers)")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument(
        "--budget", type=float, default=540, help="seconds for everything; the rest is skipped"
    )
    options = parser.parse_args()
    only = options.only.split(",")
    if options.share:
        check_share(only, options.match, *map(int, options.share.split("/")), options.out)
        return
    started = time.perf_counter()
    checks = check_all(only, options.match, options.workers, options.out, started + 0.6 * options.budget)
    wrong = [row for row in checks if not row["ok"]]
    print(f"{len(checks)} variants checked in {time.perf_counter() - started:.0f} s, {len(wrong)} wrong")
    right = {(row["op"], row["shape"], row["variant"]) for row in checks if row["ok"]}
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__,
        "checks": checks, "times": [],
    }  # fmt: skip
    gc.freeze()  # capturing a graph collects garbage: keep that short
    for group in groups(only, options.match):
        if time.perf_counter() - started > options.budget:
            print("out of time: the remaining groups are not timed")
            break
        if not group.timed:
            continue
        names = {
            v.name for v in group.variants if group.answer is None or (group.op, group.shape, v.name) in right
        }
        try:
            result["times"] += time_group(group, names)
        except Exception as exception:  # an input that cannot be made must not end the other groups
            result["times"].append(
                {"op": group.op, "shape": group.shape, "exception": repr(exception)[-300:]}
            )
        gc.collect()
        torch.cuda.empty_cache()
        options.out.write_text(json.dumps(result))
    choices = choose(list(groups(only, options.match)), result["times"])
    configs = merge(tuned(torch.device("cuda")), choices)
    options.out.with_name(torch.cuda.get_device_name().replace(" ", "_") + ".json").write_text(write(configs))
    options.out.write_text(json.dumps(result | {"configs": configs}))
    for row in wrong[:30]:
        reason = row.get("exception", f"error {row.get('error')}")
        print("WRONG", row["op"], row["shape"], row["variant"], reason[-160:].replace("\n", " "))
    report = table(result["times"])
    options.out.with_suffix(".txt").write_text(report)
    print(report[-10000:])
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
