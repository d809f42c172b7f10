"""One client process: ``python -m services.cli.bench.process``. Its parent is ``runner``.

stdin: the job as one line of JSON, then a line when it shall begin. stdout: short lines of JSON: ``{"ready": true}``,
one ``{"done": n}`` now and then, ``{"written": true}`` at the end. The records go to the file that the job names:
they are megabytes, and a pipe hands on 64 KiB at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from services.cli.bench.client import Connection, Target
from services.cli.bench.measure import Record
from services.cli.bench.workload import Planned


def main() -> int:
    job: dict[str, Any] = orjson.loads(sys.stdin.buffer.readline())
    targets = [Target(**target) for target in job["targets"]]
    planned = [Planned(**request) for request in job["requests"]]
    _say({"ready": True})
    sys.stdin.buffer.readline()
    try:
        import uvloop
    except ImportError:
        records = asyncio.run(run(targets, planned, job["concurrency"], is_timed=job["is_timed"]))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            records = runner.run(run(targets, planned, job["concurrency"], is_timed=job["is_timed"]))
    Path(job["records_file"]).write_bytes(orjson.dumps([asdict(record) for record in records]))
    _say({"written": True})
    return 0


async def run(
    targets: list[Target], planned: list[Planned], concurrency: int, *, is_timed: bool
) -> list[Record]:
    """All requests: each at its time, or as many at once as ``concurrency`` says. Connections take targets in turn."""
    began = time.monotonic()
    records: list[Record] = []
    waiting, turns = iter(planned), itertools.cycle(targets)

    async def one_after_the_other(target: Target) -> None:
        connection = Connection(target)
        for request in waiting:
            records.append(await connection.run(request.prompt_ids, request.output_len))
            _say({"done": len(records)})
        connection.close()

    async def at_its_time(request: Planned, target: Target) -> None:
        await asyncio.sleep(max(0.0, began + request.at_s - time.monotonic()))
        connection = Connection(target)
        records.append(await connection.run(request.prompt_ids, request.output_len))
        connection.close()
        _say({"done": len(records)})

    if is_timed:
        await asyncio.gather(*(at_its_time(request, next(turns)) for request in planned))
    else:
        await asyncio.gather(*(one_after_the_other(next(turns)) for _ in range(concurrency)))
    return records


def _say(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
