"""The command line of ``shoal bench serve``."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import time
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from services.cli import http, rundir
from services.cli.arguments import Arguments
from services.cli.bench.client import Target
from services.cli.bench.measure import Spread, Summary
from services.cli.bench.runner import BenchError, default_processes, run_workload
from services.cli.bench.workload import WORKLOADS, Workload
from services.cli.machine import usable_cores
from services.cli.screen import Screen, table
from services.common.errors import ConfigError
from services.common.options import OptionError
from services.common.version import VERSION

WARMUP = Workload("warmup", 64, 8, 2, 2)


def main(argv: list[str]) -> int:
    flags = _flags(argv)
    workloads = chosen_workloads(flags)
    screen = Screen()
    targets = asyncio.run(_targets(flags))
    conditions = _conditions(flags, targets, asyncio.run(_server_version(targets[0])))
    screen.line(
        f"{targets[0].model} at {conditions['base_url']} ({conditions['server']}), client {VERSION} "
        f"at {conditions['commit']} on {conditions['machine']}, {conditions['cores']} cores, seed {flags.seed}"
    )
    results: list[tuple[Workload, Summary]] = []
    for workload in workloads:
        summary = asyncio.run(_run(targets, workload, flags, screen))
        results.append((workload, summary))
        _show(workload, summary, screen)
    if flags.json:
        _write_json(Path(flags.json), conditions, results)
    return 1 if any(summary.num_failed for _, summary in results) else 0


def _flags(argv: list[str]) -> Namespace:
    names = ", ".join(WORKLOADS)
    arguments = Arguments(
        prog="./shoal bench",
        description="Measures any OpenAI-style server by streamed /v1/completions of random token ids. "
        "TTFT: to the first token. TPOT: per token after it. ITL: between tokens; those in one chunk wait once.",
    )
    arguments.add_argument("what", choices=["serve"])
    arguments.add_argument("--workload", default="", help=f"some of {names}, comma-separated, or all")
    arguments.add_argument(
        "--prompt-len", type=int, help="tokens of a prompt (a workload of your own, or changed)"
    )
    arguments.add_argument("--output-len", type=int, help="tokens of an answer")
    arguments.add_argument("--num", type=int, dest="num_requests", help="requests")
    arguments.add_argument("--concurrency", type=int, help="requests at once")
    arguments.add_argument("--rate", type=float, help="requests/s, Poisson, instead of --concurrency at once")
    arguments.add_argument("--prefixes", type=int, dest="num_prefixes", help="shared prefixes")
    arguments.add_argument("--prefix-len", type=int, help="tokens of a shared prefix")
    arguments.add_argument(
        "--base-url",
        default="",
        help="the server's address up to /v1, or several, comma-separated; all gateways of the run that is up",
    )
    arguments.add_argument("--api-key", default=os.environ.get("SHOAL_API_KEY", ""))
    arguments.add_argument("--model", default="", help="the server's first by default")
    arguments.add_argument("--vocab-size", type=int, default=7000, help="ids are drawn below")
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 2**31, help="of prompts and arrivals")
    arguments.add_argument(
        "--procs", type=int, default=0, help="client processes; 0: by concurrency and cores"
    )
    arguments.add_argument(
        "--count",
        choices=["usage", "ids", "continuous"],
        default="usage",
        help="how tokens per chunk are known: usage at the end, ids or usage in each chunk",
    )
    arguments.add_argument("--no-ignore-eos", action="store_true", help="for servers that refuse ignore_eos")
    arguments.add_argument("--no-warmup", action="store_true")
    arguments.add_argument("--timeout", type=float, default=600.0, help="seconds a request may take")
    arguments.add_argument(
        "--json", default="", metavar="FILE", help="write all figures and conditions there"
    )
    arguments.add_run_choice()
    return arguments.parse(argv)


def chosen_workloads(flags: Namespace) -> list[Workload]:
    """The named workloads with what flags change of them; without a name, one of the flags alone."""
    fields = ("prompt_len", "output_len", "num_requests", "concurrency", "rate", "num_prefixes", "prefix_len")
    changed: dict[str, Any] = {
        name: getattr(flags, name) for name in fields if getattr(flags, name) is not None
    }
    if any(value < 0 for value in changed.values()) or any(changed.get(n) == 0 for n in fields[:4]):
        raise OptionError("lengths, counts and rates must be positive")
    if not flags.workload:
        return [replace(WORKLOADS["c32"], name="custom" if changed else "c32", **changed)]
    names = list(WORKLOADS) if flags.workload == "all" else flags.workload.split(",")
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise OptionError(f"--workload {unknown[0]}: not one of {', '.join(WORKLOADS)}")
    return [replace(WORKLOADS[name], **changed) for name in names]


async def _targets(flags: Namespace) -> list[Target]:
    base_urls, api_key = [url.rstrip("/") for url in flags.base_url.split(",") if url], flags.api_key
    if not base_urls:
        run = rundir.choose_run(rundir.state_root(os.environ), flags.run)
        if not run.gateways:
            raise ConfigError(f"run {run.name} has no gateway yet; wait until `up` is ready")
        base_urls, api_key = [url + "/v1" for url in run.gateways], api_key or run.api_key
    extra: dict[str, Any] = {} if flags.no_ignore_eos else {"ignore_eos": True}
    if flags.count == "ids":
        extra["return_token_ids"] = True
    elif flags.count == "continuous":
        extra["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    model = flags.model or await _first_model(base_urls[0], api_key)
    return [Target(base_url, model, api_key, extra, flags.timeout) for base_url in base_urls]


async def _first_model(base_url: str, api_key: str) -> str:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    status, body = await http.get(base_url + "/models", headers=headers, timeout_s=10.0)
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise BenchError(
            f"{base_url}/models answers {status}: {body[:200].decode('utf-8', 'replace')}"
        ) from None


async def _server_version(target: Target) -> str:
    status, body = await http.get(target.base_url.removesuffix("/v1") + "/version", timeout_s=5.0)
    try:
        return f"version {json.loads(body)['version']}" if status == 200 else "version unknown"
    except (ValueError, KeyError, TypeError):
        return "version unknown"


async def _run(targets: list[Target], workload: Workload, flags: Namespace, screen: Screen) -> Summary:
    num_processes = flags.procs or default_processes(workload.concurrency, usable_cores())
    began = time.monotonic()

    def show(num_done: int) -> None:
        if screen.is_terminal:
            width = 30
            bar = "#" * (width * num_done // workload.num_requests)
            elapsed = time.monotonic() - began
            screen.write(
                f"\r{workload.name:8} [{bar:{width}}] {num_done}/{workload.num_requests} {elapsed:.0f} s "
            )

    if not flags.no_warmup:
        await run_workload(
            targets,
            WARMUP,
            seed=flags.seed + 1,
            vocab_size=flags.vocab_size,
            num_processes=1,
            on_progress=lambda _: None,
        )
    began = time.monotonic()
    show(0)
    summary = await run_workload(
        targets,
        workload,
        seed=flags.seed,
        vocab_size=flags.vocab_size,
        num_processes=num_processes,
        on_progress=show,
    )
    if screen.is_terminal:
        screen.write("\r\x1b[K")
    return summary


def _show(workload: Workload, summary: Summary, screen: Screen) -> None:
    shared = (
        f" after {workload.num_prefixes} prefixes of {workload.prefix_len}" if workload.num_prefixes else ""
    )
    pace = f"{workload.rate:g} requests/s" if workload.rate else f"{workload.concurrency} at once"
    screen.line(
        f"\n{screen.paint(workload.name, 'bold')}: prompts of {workload.prompt_len}{shared}, answers of "
        f"{workload.output_len}, {workload.num_requests} requests, {pace}"
    )
    rows = [("ms", "mean", "p50", "p99")]
    for name, value in (
        ("TTFT", summary.ttft_ms),
        ("TPOT", summary.tpot_ms),
        ("ITL", summary.itl_ms),
        ("E2E", summary.e2e_ms),
    ):
        rows.append((name, *_cells(value)))
    screen.line(table(rows))
    screen.line(
        f"{summary.output_tokens_per_s:,.1f} output tokens/s, {summary.total_tokens_per_s:,.1f} total tokens/s, "
        f"{summary.requests_per_s:.2f} requests/s in {summary.duration_s:.2f} s; "
        f"{summary.cached_tokens} of {summary.prompt_tokens} prompt tokens cached"
    )
    if "spread" in summary.counted_by:
        screen.warn("several tokens shared chunks: ITL is an estimate; --count ids or continuous measures it")
    for reason, count in summary.errors.items():
        screen.bad(f"{count} failed: {reason}")
    if not summary.errors:
        screen.ok(f"{summary.num_completed} completed, 0 failed")


def _cells(value: Spread) -> tuple[str, str, str]:
    return (f"{value.mean:.2f}", f"{value.p50:.2f}", f"{value.p99:.2f}")


def _conditions(flags: Namespace, targets: list[Target], server: str) -> dict[str, Any]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "base_url": ",".join(target.base_url for target in targets),
        "model": targets[0].model,
        "server": server,
        "client": VERSION,
        "commit": _commit(),
        "machine": _cpu_name(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "seed": flags.seed,
        "vocab_size": flags.vocab_size,
        "request": targets[0].extra,
        "warmup": not flags.no_warmup,
    }


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, cwd=rundir.REPO, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown commit"
    return done.stdout.strip() or "unknown commit"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _write_json(path: Path, conditions: dict[str, Any], results: list[tuple[Workload, Summary]]) -> None:
    content = {
        "conditions": conditions,
        "workloads": [{"workload": asdict(workload), **summary.as_dict()} for workload, summary in results],
    }
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}") from error
