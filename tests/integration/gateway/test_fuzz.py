"""The HTTP surface under generated requests, and the gateway's handlers under bytes that are no messages.

SHOAL_FUZZ_CASES sets the number of HTTP cases; the run in CI is short, a release runs 10,000 (docs/reliability.md).
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from services.common.messages.codec import encode
from services.common.messages.control import Bounced, Holdings
from services.common.messages.events import Heartbeat
from services.common.messages.frames import RowLogprobs, TextFrame
from tests.e2e.metrics import scrape
from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway
from tests.fakes.probe import get
from tests.fakes.processes import ServiceProcess, running_service
from tests.fakes.servers import NatsServer, free_port
from tests.fakes.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")
    import requests  # comes with schemathesis
    from schemathesis.generation import GenerationMode

NUM_CASES = int(os.environ.get("SHOAL_FUZZ_CASES", "100"))
MAX_SECONDS = 10.0
MAX_GROWN_BYTES = 24 * 1024 * 1024
GENERATION = ("/v1/chat/completions", "/v1/completions")
REQUIRED = ("messages", "prompt", "tokens")
LIKELY: dict[str, tuple[Any, ...]] = {
    "stream": (True, True, False),
    "n": (1, 2, 3),
    "max_tokens": (1, 5, 40),
    "stream_retention": (0, 5, 2.5),
    "timeout": (9, 0.001),
    "stop": ("fox", ["a", "b"]),
}
GOOD = {"prompt": "Once", "messages": [{"role": "user", "content": "Hi"}]}
SHARES = dict.fromkeys(GENERATION, 0.4) | {"/tokenize": 0.1, "/detokenize": 0.1}


def amend(body: dict[str, Any], rng: random.Random) -> None:
    """Types alone make few requests that are allowed: keeps a few of the optional fields, and mends others."""
    kept = rng.choice((0.05, 0.2, 1.0))
    for name in [name for name in body if name not in REQUIRED and rng.random() > kept]:
        del body[name]
    body["model"] = MODEL
    for name, values in LIKELY.items():
        if rng.random() < 0.3:
            body[name] = rng.choice(values)
    for name, value in GOOD.items():
        if body.get(name) in ("", []) and rng.random() < 0.7:
            body[name] = copy.deepcopy(value)
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and rng.random() < 0.9:
            message["role"] = rng.choice(("system", "user", "assistant"))


@dataclass(slots=True)
class Fuzzer:
    """Sends what schemathesis makes of the served description, and looks at each answer's form."""

    address: str
    session: requests.Session = field(default_factory=requests.Session)  # keeps its connection
    statuses: Counter[int] = field(default_factory=Counter)

    def run(self, num_cases: int) -> None:
        """Half of the cases keep to the description, half break it in one place."""
        schema = schemathesis.openapi.from_url(f"{self.address}/openapi.json")
        for operation in (found.ok() for found in schema.get_all_operations()):
            share = SHARES.get(operation.path, 0.0) / 2
            self._run(operation, GenerationMode.POSITIVE, max(5, int(num_cases * share)))
            if share:
                self._run(operation, GenerationMode.NEGATIVE, max(5, int(num_cases * share)))

    def _run(self, operation: Any, mode: GenerationMode, count: int) -> None:
        run = settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure is reproducible as it is: nothing is shrunk
        )(given(case=operation.as_strategy(mode))(self._check))
        run()

    def _check(self, case: Any) -> None:
        body = case.body
        rng = random.Random(repr(body))  # a case is the same when hypothesis tries it again
        if isinstance(body, dict) and rng.random() < 0.8:
            amend(body, rng)
        where = f"{case.method} {case.path} {body!r:.500}"
        answer = case.call(session=self.session, timeout=MAX_SECONDS)
        self._judge(answer, case.path, where)
        for path in answer.headers.get("x-stream-path", ()):
            self._take_up(path, answer.text, rng, where)

    def _take_up(self, path: str, events: str, rng: random.Random, where: str) -> None:
        """Comes back to a stream that is kept, after one of its events or with an id that is none."""
        ids = [line[4:] for line in events.splitlines() if line.startswith("id: ")]
        shown = rng.choice([*ids, "", "0:1.1", "9:9.9e", "x"])
        headers = {"Last-Event-ID": shown}
        answer = self.session.get(self.address + path, headers=headers, timeout=MAX_SECONDS)
        self._judge(answer, path, f"{where}, taken up after {shown!r}")
        assert answer.status_code in (200, 400), where

    def _judge(self, answer: Any, path: str, where: str) -> None:
        self.statuses[answer.status_code] += 1
        where = f"{where}: {answer.text:.300}"
        assert answer.status_code != 500, where
        if answer.status_code >= 400 and path != "/ready":
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, where


async def until_answers(url: str) -> None:
    """Asks from another thread, as a backend that must answer meanwhile may run on this event loop."""
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(get, url))[0] != 200:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.05)


@pytest.mark.timeout(max(240, NUM_CASES // 4))
@pytest.mark.filterwarnings("ignore")
async def test_no_request_that_the_description_allows_or_nearly_allows_breaks_the_gateway(
    nats_server: NatsServer, kvstore: ServiceProcess, backend: FakeBackend, model_dir: Path
) -> None:
    port = free_port()
    flags = ["--model_dir", str(model_dir), "--model_name", MODEL, "--port", str(port)]
    with running_service("gateway", [*flags, *nats_server.flags, "--log_level", "error"]) as gateway:
        address, process = f"http://127.0.0.1:{port}", psutil.Process(gateway.popen.pid)
        await until_answers(address + "/ready")
        fuzzer = Fuzzer(address)
        await asyncio.to_thread(fuzzer.run, 60)  # until caches and pools have their size
        before, fuzzer.statuses = process.memory_info().rss, Counter()
        await asyncio.to_thread(fuzzer.run, NUM_CASES)
        await until(lambda: scrape(address)["vllm:num_requests_running"] == 0, "the last request's end")
        after = process.memory_info().rss
        print(f"{fuzzer.statuses.total()} cases, by status: {sorted(fuzzer.statuses.items())}")
        print(f"resident memory of the gateway: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} after")
        assert fuzzer.statuses[200] > NUM_CASES // 10
        assert fuzzer.statuses[400] > NUM_CASES // 10
        assert after - before < MAX_GROWN_BYTES
        assert gateway.terminate() == 0


def valid_messages(backend: FakeBackend) -> list[tuple[str, bytes]]:
    subjects = backend.subjects
    frame = TextFrame(
        "w",
        "d",
        ["a:0", "b:7", ":", "c:x"],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
        [1, 0, 1, 0],
        [1, 2],
        ["x"] * 4,
        [0] * 4,
        [0] * 4,
        [0] * 4,
        {0: 5},
        {1: "e"},
        {0: RowLogprobs([0.5], 1, [2], [0.25])},
    )
    return [
        (subjects.gateway_frames("gateway-1"), encode(frame)),
        (
            subjects.gateway_holdings("gateway-1"),
            encode(Holdings("worker", "w", ["a"], [1], ["a:0"], [1], [4], [0])),
        ),
        (subjects.gateway_bounced("gateway-1"), encode(Bounced("w", ["a"], [1], "drain"))),
        (subjects.heartbeat("worker", "w"), encode(Heartbeat("worker", "w", 1, "ready", 0.3, "other"))),
    ]


async def test_bytes_that_are_no_messages_change_nothing(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    rng = random.Random(3)
    for subject, data in valid_messages(backend):
        for _ in range(150):
            mutated = bytearray(data)
            for _ in range(rng.randint(1, 6)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            cut = rng.randrange(len(mutated)) if rng.random() < 0.2 else len(mutated)
            await backend.bus.publish(subject, bytes(mutated[:cut]))
            await backend.bus.publish(subject, rng.randbytes(rng.randint(0, 40)))
    async with gateway.http() as http:
        answer = await http.post("/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 3})
    assert answer.status_code == 200
    await until(lambda: gateway.app.gateway.client.num_requests == 0, "a canary's end")
