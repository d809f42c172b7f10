"""Keys, limits, probes, events, clients that leave: what surrounds a generation."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from services.common.bus import Message
from services.common.bus.nats import NatsBus
from services.common.messages.codec import decode
from services.common.messages.control import Cancel
from services.common.messages.frames import ERROR
from services.common.messages.request import SubmitReply
from tests.fakes.backend import FakeBackend, Script, words
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.waiting import until

from .conftest import TEXT, until_ready
from .sse import completion_text, events

Connect = Callable[..., Awaitable[NatsBus]]
BODY = {"model": MODEL, "prompt": "Once", "max_tokens": 50}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
COMPLETIONS = "/v1/completions"


async def test_each_event_carries_the_position_after_it(gateway: RunningGateway) -> None:
    body = BODY | {"stream": True, "n": 2}
    async with gateway.http() as http, http.stream("POST", COMPLETIONS, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = [event async for event in events(answer)]
    sent = {0: "", 1: ""}
    for event in found[:-1]:
        choice = event.data["choices"][0]
        sent[choice["index"]] += choice["text"]
        positions = dict(part.split(":") for part in event.id.split(","))
        assert [int(positions[str(i)].split(".")[1].rstrip("e")) for i in (0, 1)] == [
            len(sent[0]),
            len(sent[1]),
        ]
    assert found[-1].id == f"0:7.{len(TEXT)}e,1:7.{len(TEXT)}e"


async def test_continuous_usage_counts_up_with_the_stream(gateway: RunningGateway) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = CHAT | {"stream": True, "stream_options": options}
    async with gateway.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        found = [event async for event in events(answer)][:-1]
    counts = [event.data["usage"]["completion_tokens"] for event in found]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 7)


async def test_the_clients_request_id_is_in_the_answer_and_in_the_trace(gateway: RunningGateway) -> None:
    async with gateway.http() as http:
        answer = await http.post(COMPLETIONS, json=BODY, headers={"X-Request-Id": "my id/7"})
    assert answer.headers["x-request-id"].startswith("myid7-")
    trace = gateway.runtime.recorder.of
    await until(lambda: any(event.event == "ended" for event in trace("myid7")), "its end")
    found = {event.event: event for event in trace("myid7")}  # a router's reply may come after the text
    assert list(found)[:2] == ["received", "submit"]
    assert found["ended"].fields["how"] == "finished"


async def test_a_refusal_keeps_its_status_even_for_a_stream(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    backend.refuse = SubmitReply(False, "r", code="queue_full", reason="the line is full", retry_after_s=3)
    async with gateway.http() as http:
        answer = await http.post(COMPLETIONS, json=BODY | {"stream": True})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["code"] == "queue_full"


async def test_an_engine_failure_in_mid_stream_is_the_last_event(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    backend.script = lambda request, choice: Script([(5, "a"), (6, "b")], ERROR, error="out of luck")
    backend.token_s = 0.05
    async with gateway.http() as http:
        async with http.stream("POST", COMPLETIONS, json=BODY | {"stream": True}) as answer:
            found = [event.data async for event in events(answer)]
        whole = await http.post(COMPLETIONS, json=BODY)
    assert found[-2]["error"]["message"] == "out of luck"
    assert found[-1] == "[DONE]"
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "engine_failure")


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/chat/completions"])
async def test_a_requests_own_deadline_ends_it_and_frees_what_it_held(
    gateway: RunningGateway, backend: FakeBackend, path: str
) -> None:
    backend.script = lambda request, choice: words("x " * 500)
    backend.token_s = 0.02
    body = BODY | CHAT | {"max_tokens": 500, "timeout": 1.5, "n": 2}
    told: list[str] = []

    async def on_cancel(message: Message) -> None:
        told.extend(decode(Cancel, message.data).streams)

    await backend.bus.subscribe(backend.subjects.detokenizer_cancel("detokenizer-1"), on_cancel)
    async with gateway.http() as http:
        async with http.stream("POST", path, json=body | {"stream": True}) as answer:
            assert answer.status_code == 200
            found = [event.data async for event in events(answer)]
        whole = await http.post(path, json=body)
    assert len(found) > 4, "what came in time was given out"
    assert found[-2]["error"]["code"] == "deadline_exceeded"
    assert "1.5 s" in found[-2]["error"]["message"]
    assert found[-1] == "[DONE]"
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
    streams = [f"{request.request_id}:{i}" for request in backend.client_requests() for i in (0, 1)]
    await until(lambda: set(streams) <= set(told), "the detokenizer to be told")
    requests = {request.request_id for request in backend.client_requests()}
    await until(lambda: requests <= set(backend.cancelled), "the worker to be told")
    assert all(0 < request.timeout_s <= 1.5 for request in backend.client_requests())
    assert not [name for name in backend.running if not name.startswith("canary")]
    await until(lambda: gateway.app.gateway.client.num_requests == 0, "its end, and that of a canary")


async def test_the_deployments_deadline_ends_a_request_that_asks_for_a_later_one(
    connect_bus: Connect, model_dir: Path, backend: FakeBackend
) -> None:
    async with running_gateway(await connect_bus("gateway"), model_dir, "--timeout", "5") as running:
        await until_ready(running)
        backend.submitted.clear()
        async with running.http() as http:
            for timeout in (2, 100, None):
                await http.post(COMPLETIONS, json=BODY | {"timeout": timeout})
    left = [request.timeout_s for request in backend.client_requests()]
    assert left[0] <= 2 < left[1] <= 5
    assert 2 < left[2] <= 5


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_request(
    gateway: RunningGateway, backend: FakeBackend, stream: bool
) -> None:
    backend.script = lambda request, choice: words("x " * 500)
    backend.token_s = 0.02
    async with gateway.http() as http:
        call = asyncio.create_task(http.post(COMPLETIONS, json=BODY | {"stream": stream, "max_tokens": 400}))
        await until(lambda: any(not name.startswith("canary") for name in backend.running))
        call.cancel()
    await until(lambda: backend.cancelled, "the cancel")
    await until(lambda: gateway.app.gateway.client.num_requests == 0)


async def test_ready_says_what_is_missing(
    connect_bus: Connect, model_dir: Path, backend: FakeBackend
) -> None:
    await backend.stop()
    async with running_gateway(await connect_bus("gateway"), model_dir) as running, running.http() as http:
        await asyncio.sleep(0.1)
        answer = await http.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "no live router"})
        assert (await http.get("/health")).status_code == 200
        await backend.start()
        await until_ready(running)
        assert (await http.get("/ready")).json() == {"ready": True, "reason": ""}
        await backend.stop()
        await until(lambda: running.runtime.not_ready())


async def test_keys_are_required_and_tell_tenants_apart(
    connect_bus: Connect, model_dir: Path, backend: FakeBackend
) -> None:
    options = ["--api_keys", "k1=anna:2,k2=ben"]
    async with running_gateway(await connect_bus("gateway"), model_dir, *options) as running:
        await until_ready(running)
        async with running.http() as http:
            assert (await http.post(COMPLETIONS, json=BODY)).status_code == 401
            wrong = await http.get("/v1/models", headers={"Authorization": "Bearer k3"})
            assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
            assert (await http.get("/health")).status_code == 200
            backend.submitted.clear()
            for key in ("k1", "k2"):
                answer = await http.post(COMPLETIONS, json=BODY, headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code == 200
    anna, ben = backend.client_requests()
    assert (anna.tenant, anna.weight, ben.tenant, ben.weight) == ("anna", 2.0, "ben", 1.0)
    assert anna.cache_salt != ben.cache_salt


async def test_drain_finishes_what_runs_and_closes_the_port_when_balancers_had_time_to_notice(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    backend.token_s = 0.05

    async def read() -> str:
        body = BODY | {"stream": True}
        async with gateway.http() as http, http.stream("POST", COMPLETIONS, json=body) as answer:
            return completion_text([event async for event in events(answer)])

    reading = asyncio.create_task(read())
    await until(lambda: any(not name.startswith("canary") for name in backend.running))
    draining = asyncio.create_task(gateway.runtime.drain())
    await asyncio.sleep(0)
    async with gateway.http() as http:
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "draining")
        late = await http.post(COMPLETIONS, json=BODY)
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        assert await reading == TEXT
        await draining
        with pytest.raises(httpx.ConnectError):
            await http.post(COMPLETIONS, json=BODY)


async def test_a_reader_that_stops_reading_holds_up_nobody(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    backend.script = lambda request, choice: Script([(7, "x" * 20_000)] * 400)
    host, port = gateway.address.removeprefix("http://").split(":")
    body = json.dumps(BODY | {"stream": True, "max_tokens": 1000}).encode()
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (COMPLETIONS.encode(), len(body))
        + body
    )
    client = gateway.app.gateway.client
    await until(lambda: any(not name.startswith("canary") for name in backend.running), "its request")
    (run,) = (run for name, run in backend.running.items() if not name.startswith("canary"))
    await until(lambda: run.sent[0] == 400, "all output to be made")
    backend.script = lambda request, choice: words(TEXT)
    async with gateway.http() as http:
        answer = await http.post(COMPLETIONS, json=BODY)
    assert answer.json()["choices"][0]["text"] == TEXT
    assert client.num_requests >= 1, "the slow reader's is still there"
    writer.close()
    await until(lambda: client.num_requests == 0, "its end")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_tls_and_cors_are_served(
    connect_bus: Connect, model_dir: Path, backend: FakeBackend, tmp_path: Path
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    process = await asyncio.create_subprocess_exec(
        *command.split(), "-keyout", key, "-out", certificate, stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    options = ["--ssl_certfile", certificate, "--ssl_keyfile", key, "--allow_origins", "https://a.example"]
    async with running_gateway(await connect_bus("gateway"), model_dir, *options) as running:
        await until_ready(running)
        address = running.address.replace("http:", "https:")
        trust = ssl.create_default_context(cafile=certificate)
        async with httpx.AsyncClient(base_url=address, verify=trust, timeout=20) as http:
            origin = {"Origin": "https://a.example"}
            answer = await http.post(COMPLETIONS, json=BODY, headers=origin)
            preflight = await http.options(
                COMPLETIONS, headers=origin | {"Access-Control-Request-Method": "POST"}
            )
            stranger = await http.get("/health", headers={"Origin": "https://b.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert preflight.status_code == 200
    assert "access-control-allow-origin" not in stranger.headers


async def test_prompts_are_told_apart_by_the_template_and_special_tokens(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    async with gateway.http() as http:
        chat = (await http.post("/tokenize", json=CHAT | {"return_token_strs": True})).json()
        text = (await http.post("/detokenize", json={"tokens": chat["tokens"]})).json()["prompt"]
        assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert chat["count"] == len(chat["tokens"]) == len(chat["token_strs"])
        await http.post("/v1/chat/completions", json=CHAT)
    assert backend.client_requests()[-1].prompt_ids == chat["tokens"]


async def test_long_prompts_are_tokenized_off_the_loop_with_the_same_result(gateway: RunningGateway) -> None:
    async with gateway.http() as http:
        text = "fox over the lazy dog. " * 1000
        ids = (await http.post("/tokenize", json={"prompt": text})).json()["tokens"]
        assert (await http.post("/detokenize", json={"tokens": ids})).json()["prompt"] == text


async def test_metrics_name_what_dashboards_read(gateway: RunningGateway) -> None:
    async with gateway.http() as http:
        await http.post(COMPLETIONS, json=BODY)
        async with http.stream("POST", COMPLETIONS, json=BODY | {"stream": True}) as answer:
            assert [event async for event in events(answer)]
        # A request is counted when all of its answer has left, which its client may have read by then.
        await until(lambda: gateway.app.gateway.load.num_exchanges == 0, "the end of all requests")
        text = (await http.get("/metrics")).text
    for line in (
        'shoal_gateway_requests_total{route="/v1/completions",status="200"} 2.0',
        'vllm:generation_tokens_total{model_name="tiny"} 14.0',
        'vllm:time_to_first_token_seconds_count{model_name="tiny"} 1.0',
        'vllm:e2e_request_latency_seconds_count{model_name="tiny"} 2.0',
        "shoal_gateway_ready 1.0",
    ):
        assert line in text


async def test_best_of_gives_the_likeliest_choices(gateway: RunningGateway, backend: FakeBackend) -> None:
    # The fake's log probabilities fall with the id: the choice that begins with the least id is best.
    backend.script = lambda request, choice: words(f"choice {choice.index}", first_id=100 - 10 * choice.index)
    async with gateway.http() as http:
        answer = (await http.post(COMPLETIONS, json=BODY | {"best_of": 4, "n": 2})).json()
    assert [choice["text"] for choice in answer["choices"]] == ["choice 3", "choice 2"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["logprobs"] is None


async def test_echo_and_token_ids_are_given_where_asked_for(gateway: RunningGateway) -> None:
    async with gateway.http() as http:
        fields = {"echo": True, "return_token_ids": True, "prompt": "Once upon"}
        answer = (await http.post(COMPLETIONS, json=BODY | fields)).json()
        async with http.stream("POST", COMPLETIONS, json=BODY | fields | {"stream": True}) as stream:
            found = [event async for event in events(stream)]
    assert answer["choices"][0]["text"] == "Once upon" + TEXT == completion_text(found)
    assert answer["choices"][0]["token_ids"] == list(range(10, 17))
    assert found[0].data["choices"][0]["prompt_token_ids"] == answer["choices"][0]["prompt_token_ids"]


async def test_openapi_describes_the_bodies(gateway: RunningGateway) -> None:
    async with gateway.http() as http:
        document = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs")).status_code == 200
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert body == {"$ref": "#/components/schemas/ChatBody"}
    for model in ("ChatBody", "CompletionBody"):
        fields = document["components"]["schemas"][model]["properties"]
        assert "seconds" in fields["timeout"]["description"]
    assert "max_completion_tokens" in document["components"]["schemas"]["ChatBody"]["properties"]
