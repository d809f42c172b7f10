"""Real deaths of a worker's engine under load: ``python -m bench.gpu_failures [--only NAME ...] [-- UP'S OPTIONS]``.

One worker, so that nothing is served while its engine is gone. Under clients that never pause the engine's process, and
with ``--tp 2`` that of a further rank, is killed, made to crash and stopped; on a GPU another process takes the memory
that is left before the largest step; and one request has its engine crash whenever it is handed over. Each row says how
many requests came back as undisturbed, otherwise or as errors; when tokens flowed again; for how long the system called
itself ready while nothing was served; and the log's line with the reason. Ends with 1 if a row breaks the promise.

On a GPU, from the repository's root:  python -m bench.gpu_failures --json failures.json -- --data_type fp32
With made-up weights:  python -m bench.gpu_failures --any_bytes -- --model_dir DIR --load_format dummy
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
import torch

from bench.conditions import conditions, write
from bench.failure_watch import ServiceWatch, longest_gap
from services.common.messages.codec import decode
from services.common.messages.request import GenerateRequest
from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import Stack
from tests.faults.load import Load
from tests.faults.workload import Job, Outcome, jobs, run_all

WORKER = "worker-1"
BEFORE_S, AFTER_S = 2.0, 2.0
SEEN_S = 3.0  # what is not served must not be called ready for longer
RESTART_S = 180.0  # for tokens to flow again: the model is loaded, and on a GPU measured and captured
MEMORY_HELD_S = 5.0
MAX_CRASHES = 3  # engines that one request may take with it, as in services/gateway/life/crashes.py
NUM_CLIENTS = 8

ENGINE, FURTHER_RANK = "services.worker.engine.rank_main", "services.worker.runner.rank"
Strike = Callable[["System"], Awaitable[None]]


@dataclass(slots=True)
class Row:
    """One case. Seconds are from the strike on."""

    case: str
    requests: int = 0
    differ: int = 0
    errors: list[str] = field(default_factory=list)
    longest_wait_s: float = 0.0  # of all clients together for the next token of any
    served_again_s: float = 0.0
    ready_in_vain_s: float = 0.0  # the longest that gateway or worker said "ready" within that wait
    reason: str = ""
    broken: list[str] = field(default_factory=list)


@dataclass(slots=True)
class System:
    stack: Stack
    watch: ServiceWatch
    jobs: list[Job]
    calm: list[Outcome]
    any_bytes: bool

    def pid_of(self, module: str) -> int:
        """The engine's process, or that of rank 1. Raises LookupError when there is none now."""
        for process in self.stack.processes():
            if module in process.cmdline():
                return int(process.pid)
        raise LookupError(f"no process of {module}")

    @property
    def log_path(self) -> Path:
        return next(self.stack.state_root.glob(f"run-*/logs/{WORKER}.log"))


# ---- strikes


def struck(module: str, number: signal.Signals) -> Strike:
    async def strike(system: System) -> None:
        psutil.Process(system.pid_of(module)).send_signal(number)

    return strike


async def take_memory(system: System) -> None:
    """Another process takes what is left of each GPU; then comes the step that needs the most."""
    device_count = torch.cuda.device_count()
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.hold_gpu_memory", str(device_count), str(MEMORY_HELD_S),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    print("  ", (await holder.stdout.readline()).decode().strip(), flush=True)
    body = {
        "model": "m",
        "prompt": list(range(1, 4001)),
        "max_tokens": 8,
        "temperature": 0,
        "prompt_logprobs": 1,
    }
    async with httpx.AsyncClient(timeout=RESTART_S) as client:
        answer = await client.post(system.stack.base_urls[0] + "/v1/completions", json=body)
    print("   the largest step:", answer.status_code, answer.text[:120], flush=True)
    await holder.wait()


def cases(tp: int, has_gpu: bool) -> dict[str, Strike]:
    targets = {"engine": ENGINE} | ({"rank 1": FURTHER_RANK} if tp > 1 else {})
    found: dict[str, Strike] = {
        f"{name} {number.name}": struck(module, number)
        for name, module in targets.items()
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)
    }
    found["worker SIGKILL"] = struck("services.worker", signal.SIGKILL)
    return found | ({"memory taken": take_memory} if has_gpu else {})


# ---- one case


async def measure(system: System, name: str, strike: Strike) -> Row:
    """Strikes under load, waits until tokens flow again, and judges."""
    row, load = Row(name), Load(system.stack.base_urls, system.jobs, system.calm)
    struck_at, log_from = 0.0, system.log_path.stat().st_size
    printed_from = len(system.stack.output())

    async def work() -> None:
        nonlocal struck_at
        await asyncio.sleep(BEFORE_S)
        struck_at = time.time()
        await strike(system)
        await system.watch.until_served(struck_at, RESTART_S)
        await asyncio.sleep(AFTER_S)

    try:
        await load.during(work(), NUM_CLIENTS)
    except TimeoutError:
        row.broken.append(f"nothing was served for {RESTART_S:.0f} s")
    tokens = sorted(
        answer.sent_at + seconds for answer in load.answers for seconds in answer.outcome.token_times
    )
    begin, end = longest_gap([t for t in tokens if t > struck_at - 1.0])
    row.requests = len(load.answers)
    row.errors = [answer.outcome.error for answer in load.answers if answer.outcome.error]
    row.differ = len(load.failures) - len(row.errors)
    row.longest_wait_s, row.served_again_s = end - begin, end - struck_at
    row.ready_in_vain_s = system.watch.longest_ready(max(begin, struck_at), end)
    row.reason = reason_in(system, log_from, printed_from)
    judge(row, system.any_bytes)
    return row


def reason_in(system: System, log_from: int, printed_from: int) -> str:
    """The line of the worker's log that names the reason, or of what `up` says of a worker that could not write it."""
    log = system.log_path.read_bytes()[log_from:].decode(errors="replace").splitlines()
    said = [line for line in log if "the engine died" in line]
    # Below its line `up` shows the end of the log, in which older deaths may stand.
    said += [
        line for line in system.stack.output()[printed_from:].splitlines() if f"{WORKER} was killed" in line
    ]
    return said[0].strip() if said else ""


def judge(row: Row, any_bytes: bool) -> None:
    if row.errors:
        row.broken.append(f"{len(row.errors)} requests failed: {row.errors[0]:.300}")
    if row.differ and not any_bytes:
        row.broken.append(f"{row.differ} answers differ from those of the undisturbed run")
    if not row.requests:
        row.broken.append("no request was under way")
    if row.ready_in_vain_s > SEEN_S:
        row.broken.append(f"called ready for {row.ready_in_vain_s:.1f} s while nothing was served")
    if not row.reason and row.longest_wait_s > SEEN_S:
        row.broken.append("no line in the log says why")


# ---- a request that takes every engine with it


async def fatal_request(system: System) -> Row:
    """Crashes the engine whenever it is handed this request: it must end with an error, and others be served."""
    row, num_crashes, log_from = Row("a request that crashes every engine"), 0, system.log_path.stat().st_size
    prompt = list(range(1, 50))

    async def on_request(data: bytes) -> None:
        nonlocal num_crashes
        if decode(GenerateRequest, data).prompt_ids == prompt:
            with suppress(LookupError):  # it has just ended
                psutil.Process(system.pid_of(ENGINE)).send_signal(signal.SIGSEGV)
                num_crashes += 1

    began = time.time()
    async with system.watch.handed_over(WORKER, on_request), httpx.AsyncClient(timeout=RESTART_S) as client:
        url = system.stack.base_urls[0] + "/v1/completions"
        body = {"model": "m", "prompt": prompt, "max_tokens": 1000, "temperature": 0, "ignore_eos": True}
        try:
            answer = await client.post(url, json=body)
            row.errors = [f"HTTP {answer.status_code}: {answer.text}"]
        except httpx.HTTPError as error:
            row.broken.append(f"no answer after {num_crashes} crashes: {error!r}")
            return row
        row.served_again_s = time.time() - began
        if answer.status_code != 500 or "signal 11" not in answer.text:
            row.broken.append(f"the answer does not say that the engine crashed: {row.errors[0]:.300}")
        if num_crashes > MAX_CRASHES:
            row.broken.append(f"it took {num_crashes} engines with it")
        await system.watch.until_served(time.time(), RESTART_S)
        other = await client.post(url, json=body | {"prompt": [1, 2, 3], "max_tokens": 8})
    row.requests = 2
    row.reason = reason_in(system, log_from, len(system.stack.output()))
    if other.status_code != 200:
        row.broken.append(f"the next request was not served: {other.text:.300}")
    return row


# ---- all of it


@asynccontextmanager
async def watching(stack: Stack, todo: list[Job], any_bytes: bool):
    calm = await run_all(stack.base_urls, todo)
    assert not [o.error for o in calm if o.error], [o.error for o in calm]
    async with ServiceWatch.of(stack) as watch:
        yield System(stack, watch, todo, calm, any_bytes)


async def run_cases(stack: Stack, arguments: argparse.Namespace, tp: int) -> list[Row]:
    todo = [job for job in jobs("m", max_tokens=256) if job.streams and not job.body["temperature"]]
    rows = []
    async with watching(stack, todo, arguments.any_bytes) as system:
        chosen = cases(tp, torch.cuda.is_available())
        for name in [n for n in chosen if not arguments.only or any(word in n for word in arguments.only)]:
            rows.append(await measure(system, name, chosen[name]))
            tell(rows, arguments)
        if not arguments.only or any(word in "fatal request" for word in arguments.only):
            rows.append(await fatal_request(system))
            tell(rows, arguments)
    return rows


def tell(rows: list[Row], arguments: argparse.Namespace) -> None:
    """Shows the last row and writes all, so that a run that is cut keeps what it has."""
    row = rows[-1]
    print(
        f"{'BROKEN' if row.broken else 'ok':6} {row.case:36} {row.requests} requests, {len(row.errors)} errors, "
        f"{row.differ} differ; longest wait {row.longest_wait_s:.2f} s, served again after {row.served_again_s:.2f} s, "
        f"ready in vain {row.ready_in_vain_s:.2f} s\n       {row.reason[:200]}",
        *(f"\n       {text}" for text in row.broken),
        flush=True,
    )
    if arguments.json:
        head = conditions("python -m bench.gpu_failures") | {"flags": " ".join(arguments.up_flags)}
        write(arguments.json, head | {"rows": [asdict(row) for row in rows]})


def parse(words: list[str]) -> argparse.Namespace:
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="cases whose names hold one of these words")
    parser.add_argument(
        "--any_bytes", action="store_true", help="answers need not be those of the undisturbed run"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words[:at])
    arguments.up_flags = words[at + 1 :]
    return arguments


def main() -> int:
    arguments = parse(sys.argv[1:])
    flags = arguments.up_flags
    given = dict(pairwise(flags))
    model_dir, tp = Path(given.get("--model_dir", DEMO_MODEL)), int(given.get("--tp", 1))
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder), model_dir, "--model_name", "m", *flags) as stack,
    ):
        rows = asyncio.run(run_cases(stack, arguments, tp))
        if any(row.broken for row in rows):
            print(stack.logs(40))
    return int(any(row.broken for row in rows))


if __name__ == "__main__":
    sys.exit(main())
