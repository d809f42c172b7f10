"""What a system that `up` started writes down, and whom it lets in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import httpx
import psutil
import pytest
import redis
from redis.exceptions import AuthenticationError

from services.common.bus import BusError
from services.common.bus.nats import NatsBus, NatsSettings
from tests.fakes.stack import Stack
from tests.fakes.tiny_model import make_model

KEY, WRONG_KEY = "sk-zebra-4711", "sk-okapi-0815"
PROMPT = "quokka narwhal axolotl"
STOP_NEVER_MET = "pangolin tapir"


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    model = tmp_path_factory.mktemp("tiny-checkpoint")
    make_model(model)
    stack = Stack(tmp_path_factory.mktemp("secretive"), model, "--log_level", "debug")
    stack.env["SHOAL_API_KEYS"] = KEY
    with stack:
        yield stack


def written(stack: Stack) -> str:
    """Everything in log files and on the terminal of `up`."""
    files = list(stack.directory.rglob("*.log"))
    assert len(files) > 6, "one for each service"
    return "".join(path.read_text(errors="replace") for path in files)


def test_prompts_outputs_stop_strings_and_keys_are_written_nowhere(secretive: Stack) -> None:
    base_url, headers = secretive.base_urls[0], {"Authorization": f"Bearer {KEY}"}
    body = {
        "model": secretive.model,
        "prompt": PROMPT,
        "max_tokens": 40,
        "temperature": 0,
        "ignore_eos": True,
    }
    with httpx.Client(base_url=base_url, headers=headers, timeout=60) as http:

        def ask(path: str = "/v1/completions", **fields: object) -> httpx.Response:
            return http.post(path, json=body | fields)

        whole = ask(stop=STOP_NEVER_MET)
        assert whole.status_code == 200, whole.text
        text = str(whole.json()["choices"][0]["text"])
        stop = text[8:20]
        stopped = ask(stop=stop, stream=False)
        assert stopped.json()["choices"][0]["stop_reason"] == stop
        chat = ask("/v1/chat/completions", messages=[{"role": "user", "content": PROMPT}], prompt=None)
        refused = [ask(temperature=PROMPT), ask(stop=[PROMPT] * 99), ask(model=PROMPT)]
        assert [answer.status_code // 100 for answer in refused] == [4, 4, 4]
        unknown = http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {WRONG_KEY}"})
        assert unknown.status_code == 401
        names = [answer.headers["x-request-id"] for answer in (whole, stopped)]
        assert chat.status_code in (200, 400), "the tiny model has no template"
    traces = "".join(secretive.cli("trace", name).stdout for name in names)
    assert "a stop string" in traces, "the trace says that one ended it, and not which"
    records = written(secretive) + traces
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    assert names[0] in records, "this is where it would have been"
    for secret in (KEY, WRONG_KEY, digest[:12], STOP_NEVER_MET, text, stop, *PROMPT.split()):
        assert secret not in records


@pytest.mark.parametrize("name", ["nats", "redis"])
def test_the_embedded_servers_listen_on_loopback_alone(secretive: Stack, name: str) -> None:
    process = psutil.Process(secretive.pid(name))
    sockets = [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert sockets
    assert {address.ip for address in sockets} == {"127.0.0.1"}


async def test_the_embedded_nats_takes_no_strangers(secretive: Stack) -> None:
    url = f"nats://127.0.0.1:{port_of(secretive, 'nats')}"
    for settings in (NatsSettings(url), NatsSettings(url, user="shoal", password="guess")):
        with pytest.raises(BusError):
            await NatsBus.connect(replace(settings, connect_timeout_s=0.5), "stranger")


def test_the_embedded_redis_takes_no_strangers(secretive: Stack) -> None:
    port = port_of(secretive, "redis")
    for password in (None, "guess"):
        with redis.Redis(port=port, password=password) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()


def port_of(stack: Stack, name: str) -> int:
    process = psutil.Process(stack.pid(name))
    return next(int(c.laddr.port) for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)
