"""The processes of a running system: what they load, and what the command line tells of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.fakes.probe import get
from tests.fakes.stack import Stack

SERVICES = {"gateway": 2, "router": 2, "worker": 2, "detokenizer": 2, "kvstore": 1}


def test_status_shows_every_service_with_its_load(stack: Stack):
    done = stack.cli("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ready"] is True
    rows = found["services"]
    assert {s: sum(r["service"] == s for r in rows) for s in SERVICES} == SERVICES
    assert all(row["pid"] > 0 and row["address"] and row["state"] == "ready" for row in rows)
    assert all(row["load"]["total_blocks"] > 0 for row in rows if row["service"] == "worker")
    shown = stack.cli("status").stdout
    assert all(row["id"] in shown for row in rows)


def test_every_service_answers_health_ready_metrics_and_config(stack: Stack):
    for row in stack.services().values():
        for path in ("/health", "/ready", "/metrics", "/config"):
            status, text = get(row["address"] + path, timeout_s=10.0)
            assert status == 200, (row["id"], path, text)
            assert ("shoal_service_info" in text) == (path == "/metrics")


def test_nothing_but_workers_loads_torch(stack: Stack):
    with_torch = set()
    for row in stack.services().values():
        if "libtorch" in Path(f"/proc/{row['pid']}/maps").read_text():
            with_torch.add(row["service"])
    assert with_torch <= {"worker"}
    ranks = [p.pid for p in stack.processes() if "libtorch" in Path(f"/proc/{p.pid}/maps").read_text()]
    assert len(ranks) >= 2  # so the look can see it where it is


def test_no_secret_is_on_any_command_line(stack: Stack):
    password = stack.state["bus"]["SHOAL_NATS_PASSWORD"]
    assert len(password) > 20
    for process in stack.processes():
        assert password not in " ".join(process.cmdline())


def services_of(events: list[dict[str, Any]]) -> set[str]:
    return {event["who"].split("-")[0] for event in events}


def test_a_request_can_be_traced_through_the_services(stack: Stack, client: OpenAI):
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    events = stack.trace(answer.id, lambda found: {"gateway", "router", "worker"} <= services_of(found))
    assert services_of(events) <= set(SERVICES)
    assert [e["after_s"] for e in events] == sorted(e["after_s"] for e in events)
    assert stack.cli("trace", "no-such-request").returncode == 1


def test_chat_in_the_terminal_streams_an_answer(stack: Stack):
    done = stack.cli("chat", "--temperature", "0", "--max-tokens", "12", "Hello!")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_bench_measures_the_system(stack: Stack, tmp_path: Path):
    done = stack.cli(
        "bench", "serve", "--prompt-len", "20", "--output-len", "8", "--num", "6", "--concurrency", "3",
        "--vocab-size", "300", "--json", str(tmp_path / "r.json"), "--count", "ids",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads((tmp_path / "r.json").read_text())["workloads"]
    assert (result["num_completed"], result["num_failed"]) == (6, 0)
    assert (result["output_tokens"], result["prompt_tokens"]) == (48, 120)
    assert result["counted_by"] == "server"
    assert result["ttft_ms"]["p50"] > 0


def test_check_finds_the_servers_and_the_model(stack: Stack, model_dir: Path):
    done = stack.cli("check", "--json", "--port", "0", "--model_dir", str(model_dir), timeout_s=120)
    found = {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    assert {name: found[name] for name in ("nats", "redis", "weights", "gloo")} == dict.fromkeys(
        ("nats", "redis", "weights", "gloo"), "ok"
    )
