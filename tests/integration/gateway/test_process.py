"""The gateway as a process: how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx

from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL
from tests.fakes.probe import get
from tests.fakes.processes import running_service
from tests.fakes.servers import NatsServer, free_port
from tests.fakes.waiting import until

DRAIN_TIMEOUT_S = 2  # far from the hours that the requests would take


async def test_a_request_longer_than_the_drain_timeout_does_not_hold_the_exit_up(
    nats_server: NatsServer, model_dir: Path, backend: FakeBackend
) -> None:
    port = free_port()
    flags = [*nats_server.flags, "--model_dir", str(model_dir), "--model_name", MODEL, "--port", str(port)]
    flags += ["--drain_timeout", str(DRAIN_TIMEOUT_S)]
    with running_service("gateway", flags) as process:
        base_url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base_url, timeout=60, verify=False) as http:
            await until(lambda: get(f"{base_url}/ready")[0] == 200, "the gateway to be ready")
            backend.submitted.clear()
            backend.token_s = 1000
            body = {"model": MODEL, "prompt": "Once"}
            asking = [
                asyncio.create_task(http.post("/v1/completions", json=body | {"stream": stream}))
                for stream in (False, True)
            ]
            await until(lambda: len(backend.client_requests()) == 2)
            process.popen.send_signal(signal.SIGTERM)
            await until(lambda: process.popen.poll() is not None, "the exit", 60)
            whole, streamed = await asyncio.gather(*asking)
        assert process.popen.returncode == 0
        error = whole.json()["error"]
        assert (whole.status_code, error["code"]) == (503, "service_unavailable")
        assert "--drain_timeout" in error["message"]
        assert [json.loads(line[6:]) for line in streamed.text.splitlines() if "error" in line] == [
            {"error": error}
        ]
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert b"drain timed out" in (process.popen.stderr.read() if process.popen.stderr else b"")
