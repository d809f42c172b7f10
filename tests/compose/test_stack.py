"""The images and docker-compose.yml, tried with real containers; run by ``./shoal test --compose``.

The tests share one stack and go from its start to its end, so their order matters.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compose.engine import REPO, Engine, Stack
from tests.fakes.tiny_model import make_model

SERVICES = ("gateway", "router", "worker", "detokenizer", "kvstore")
WITHOUT_TORCH = ("gateway", "router", "detokenizer", "kvstore")
MODEL = "compose-test"
MB = 1_000_000


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, or a tiny one where the checkout has none; readable by the containers' user."""
    demo = REPO / "demo" / "model"
    if demo.is_dir():
        return demo
    path = tmp_path_factory.mktemp("model")
    make_model(path)
    for folder in (path, *path.parents[:2]):
        folder.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def stack(model_dir: Path) -> Iterator[Stack]:
    engine = Engine.find()
    if engine is None:
        pytest.skip("neither docker nor podman with compose is here")
    env = {
        "MODEL_DIR": str(model_dir),
        "MODEL_NAME": MODEL,
        "NATS_PASSWORD": "n" + secrets.token_hex(12),
        "REDIS_PASSWORD": "r" + secrets.token_hex(12),
        "GATEWAY_PORTS": "",  # any free one
    }
    stack = Stack(engine, f"shoaltest{secrets.token_hex(3)}", env)
    stack.compose("build")
    try:
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def up(stack: Stack) -> Stack:
    stack.compose("up", "-d")
    stack.wait_healthy([name for service in SERVICES for name in stack.containers(service)])
    return stack


def chat(address: str, text: str) -> str:
    """A streamed chat; fails unless it ends as it should."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "max_tokens": 24,
        "temperature": 0,
    }
    answer, is_done, finish = "", False, None
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line == "data: [DONE]":
                is_done = True
            elif line.startswith("data:"):
                event = json.loads(line[5:])
                assert "error" not in event, event
                for choice in event["choices"]:
                    answer += choice["delta"].get("content") or ""
                    finish = choice["finish_reason"] or finish
    assert is_done
    assert finish in ("stop", "length")
    return answer


def test_images_without_torch_are_small(stack: Stack):
    base = stack.engine.image_bytes("python:3.11-slim")
    sizes = {name: (stack.engine.image_bytes(f"shoal-{name}") - base) / MB for name in WITHOUT_TORCH}
    print({name: f"{size:.0f} MB over the base" for name, size in sizes.items()})
    assert max(sizes.values()) < 250, sizes


def test_every_health_check_passes(up: Stack):
    checked = 0
    for container in up.containers():
        if up.engine.has_health_check(container):
            up.wait_healthy([container])
            checked += 1
    assert checked == len(SERVICES) + 1  # and redis


def test_services_have_no_rights_and_nothing_to_write_to(up: Stack):
    for service in (*SERVICES, "redis"):
        (container,) = up.containers(service)
        assert up.engine.run("exec", container, "id", "-u") == "10001"
        attempt = up.engine.run("exec", container, "sh", "-c", "touch /x 2>&1 || echo refused", check=False)
        assert "Read-only file system" in attempt, attempt


def test_nothing_but_the_worker_holds_torch(up: Stack):
    look = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    found = {s: up.engine.run("exec", up.containers(s)[0], "python", "-c", look) for s in SERVICES}
    assert [service for service, has in found.items() if has == "True"] == ["worker"]


def test_a_chat_streams_through_the_containers(up: Stack):
    (gateway,) = up.containers("gateway")
    address = up.address(gateway)
    first = chat(address, "Hello, who are you?")
    assert first
    assert chat(address, "Hello, who are you?") == first


def test_workers_and_gateways_scale_and_a_killed_worker_is_no_loss(up: Stack):
    before = chat(up.address(up.containers("gateway")[0]), "Count to five.")
    up.scale(worker=2, gateway=2)
    workers, gateways = up.containers("worker"), up.containers("gateway")
    assert (len(workers), len(gateways)) == (2, 2)
    up.wait_healthy([*workers, *gateways])
    addresses = [up.address(container) for container in gateways]
    assert len(set(addresses)) == 2
    assert [chat(address, "Count to five.") for address in addresses] == [before, before]

    up.engine.run("kill", workers[0])
    for _ in range(4):
        assert [chat(address, "Count to five.") for address in addresses] == [before, before]


def test_down_leaves_nothing(up: Stack):
    up.down()
    assert up.containers(running=False) == []
    assert up.project not in up.engine.run("network", "ls", "--format", "{{.Name}}")
