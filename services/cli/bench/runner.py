"""Runs one workload in several client processes and joins what they saw."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from services.cli.bench.client import Target
from services.cli.bench.measure import Record, Summary, summarize
from services.cli.bench.workload import Planned, Workload, plan, shares
from services.cli.process import dies_with_parent
from services.cli.rundir import REPO
from services.common.errors import ShoalError


class BenchError(ShoalError):
    """A client process ended without its records."""

    code = "bench_failed"


@dataclass(slots=True)
class _Client:
    process: asyncio.subprocess.Process
    records_file: Path
    num_done: int = 0


def default_processes(concurrency: int, cores: int) -> int:
    """One process carries some 10,000 tokens/s, enough for 32 streams; the server needs cores too."""
    return max(1, min(concurrency // 32, cores // 2, 8))


async def run_workload(
    targets: Sequence[Target],
    workload: Workload,
    *,
    seed: int,
    vocab_size: int,
    num_processes: int,
    on_progress: Callable[[int], None],
) -> Summary:
    """Connections take the targets in turn. Raises BenchError when a client process dies; a request that fails is
    counted.
    """
    parts = shares(plan(workload, seed, vocab_size), workload.concurrency, num_processes)
    folder = Path(tempfile.mkdtemp(prefix="shoal-bench-"))
    clients: list[_Client] = []
    first = 0  # the target of a process's first connection: where the one before it left off
    try:
        for number, (requests, concurrency) in enumerate(parts):
            file, turns = folder / f"{number}.json", [*targets[first:], *targets[:first]]
            clients.append(await _start(turns, requests, concurrency, file, is_timed=workload.rate > 0))
            first = (first + (len(requests) if workload.rate else concurrency)) % len(targets)
        for client in clients:
            await _read(client)  # ready: its prompts are in memory
        for client in clients:
            _stdin(client).write(b"\n")
        results = await asyncio.gather(*(_collect(client, clients, on_progress) for client in clients))
    finally:
        for client in clients:
            if client.process.returncode is None:
                client.process.kill()
                await client.process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    records = [record for part in results for record in part]
    began, ended = min(r.sent for r in records), max(r.ended for r in records)
    return summarize(records, max(ended - began, 1e-9))


async def _start(
    targets: list[Target], requests: list[Planned], concurrency: int, records_file: Path, *, is_timed: bool
) -> _Client:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli.bench.process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPO,
        preexec_fn=dies_with_parent(),
    )
    job = {
        "targets": [asdict(target) for target in targets],
        "requests": [asdict(request) for request in requests],
        "concurrency": concurrency,
        "is_timed": is_timed,
        "records_file": str(records_file),
    }
    client = _Client(process, records_file)
    _stdin(client).write(orjson.dumps(job) + b"\n")
    await _stdin(client).drain()
    return client


async def _collect(
    client: _Client, clients: list[_Client], on_progress: Callable[[int], None]
) -> list[Record]:
    while True:
        said = await _read(client)
        if "written" in said:
            await client.process.wait()
            return [
                Record(**{**record, "chunks": [tuple(c) for c in record["chunks"]]})
                for record in orjson.loads(client.records_file.read_bytes())
            ]
        client.num_done = said["done"]
        on_progress(sum(c.num_done for c in clients))


async def _read(client: _Client) -> dict[str, Any]:
    assert client.process.stdout
    line = await client.process.stdout.readline()
    if not line:
        raise BenchError(f"a client process ended with {await client.process.wait()}")
    said: dict[str, Any] = orjson.loads(line)
    return said


def _stdin(client: _Client) -> asyncio.StreamWriter:
    assert client.process.stdin
    return client.process.stdin
