"""A broken stream is taken up at another gateway after its Last-Event-ID, as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from services.common.errors import Unavailable
from services.common.messages.frames import ERROR
from tests.fakes.backend import FakeBackend, Script, words
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.servers import RedisServer
from tests.fakes.waiting import until

from .conftest import Connect, until_ready
from .kept import KEY, LONG, OTHER_KEY, broken_and_resumed, read, texts
from .sse import Event


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A test's own eyes on Redis."""
    with redis.Redis.from_url(redis_server.url, socket_timeout=1) as made:
        yield made


def ends(found: list[Event]) -> dict[int, tuple[str, str | None]]:
    """Why each choice ended."""
    choices = [c for event in found if event.data != "[DONE]" for c in event.data["choices"]]
    return {c["index"]: (c["finish_reason"], c["stop_reason"]) for c in choices if c["finish_reason"]}


@pytest.mark.parametrize("after", [1, 12])
async def test_a_completion_goes_on_elsewhere(
    gateways: list[RunningGateway], backend: FakeBackend, after: int
) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "stream_options": {"include_usage": True}}
    before, rest = await broken_and_resumed(gateways, "/v1/completions", body, after=after)
    assert texts(before) + texts(rest) == LONG
    assert rest[-1].data == "[DONE]"
    assert rest[-2].data["usage"]["completion_tokens"] == 40
    assert rest[0].data["id"] == before[0].data["id"]
    resumed = backend.client_requests()[-1]
    assert resumed.gateway_id == "gateway-2"
    assert resumed.choices[0].seed == backend.client_requests()[0].choices[0].seed


async def test_a_chat_goes_on_without_a_second_role(gateways: list[RunningGateway]) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
    before, rest = await broken_and_resumed(gateways, "/v1/chat/completions", body, after=9)
    assert texts(before) + texts(rest) == LONG
    roles = [event for event in before + rest[:-1] if "role" in event.data["choices"][0]["delta"]]
    assert len(roles) == 1


async def test_a_finished_stream_is_given_out_from_its_log(
    gateways: list[RunningGateway], backend: FakeBackend
) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "stream": True}
    async with gateways[0].http(**KEY) as http, http.stream("POST", "/v1/completions", json=body) as answer:
        address = answer.headers["x-stream-path"]
        whole = await read(answer)
    num_submitted = len(backend.client_requests())
    async with gateways[1].http(**KEY) as http:
        async with http.stream("GET", address, headers={"Last-Event-ID": whole[5].id}) as answer:
            rest = await read(answer)
        async with http.stream("GET", address) as answer:
            again = await read(answer)
    assert texts(whole[:6]) + texts(rest) == LONG == texts(again)
    assert len(backend.client_requests()) == num_submitted


async def test_a_choice_that_had_ended_keeps_its_reason_and_is_not_made_again(
    gateways: list[RunningGateway], backend: FakeBackend
) -> None:
    ended = words("w0 w1 w2 w3 w4 w5", stop_reason="END", cached_tokens=2)
    backend.script = lambda request, choice: ended if choice.index == 0 else words(LONG, cached_tokens=2)
    usage = {"stream_options": {"include_usage": True}}
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "n": 2, "stop": ["END"], **usage}
    async with gateways[0].http(**KEY) as http:
        answer = http.stream("POST", "/v1/completions", json=body | {"stream": True})
        async with answer as whole:
            calm = await read(whole)
    before, rest = await broken_and_resumed(gateways, "/v1/completions", body, after=4, then=30)
    assert all(event.data["choices"][0]["finish_reason"] is None for event in before), "it missed the end"
    assert ends(before + rest) == ends(calm) == {0: ("stop", "END"), 1: ("stop", None)}
    assert rest[-2].data["usage"] == calm[-2].data["usage"]
    assert [choice.index for choice in backend.client_requests()[-1].choices] == [1]


async def test_a_stream_that_failed_fails_in_the_same_way_again(
    gateways: list[RunningGateway], backend: FakeBackend
) -> None:
    backend.script = lambda request, choice: Script([(5, "a"), (6, "b")], ERROR, error="out of luck")
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100}
    _, rest = await broken_and_resumed(gateways, "/v1/completions", body, after=1)
    assert rest[-2].data["error"]["message"] == "out of luck"


async def test_a_gateway_that_stops_gives_up_all_but_kept_streams(gateways: list[RunningGateway]) -> None:
    """A client that can come back is better off with a connection that breaks than with an error."""
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "stream": True}
    ended = {}
    for retention in (0, 30):
        asked = body | {"stream_retention": retention}
        async with (
            gateways[0].http(**KEY) as http,
            http.stream("POST", "/v1/completions", json=asked) as answer,
        ):
            gateways[0].app.gateway.client.give_up(Unavailable("this gateway stops"))
            ended[retention] = await read(answer)
    assert ended[0][-2].data["error"]["message"] == "this gateway stops"
    assert texts(ended[30]) == LONG


async def test_a_stream_that_is_taken_up_keeps_its_deadline(
    gateways: list[RunningGateway], backend: FakeBackend
) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "timeout": 20}
    await broken_and_resumed(gateways, "/v1/completions", body, after=12)
    first, second = backend.client_requests()
    assert second.timeout_s < first.timeout_s <= 20


async def test_a_request_says_for_how_long_its_stream_is_kept(
    gateways: list[RunningGateway], client: redis.Redis
) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 3, "stream": True}
    async with gateways[0].http(**KEY) as http:
        for asked, kept in ((None, 20), (0, 0), (0.0, 0), (90, 90), (5.5, 5.5)):
            fields = body | {"stream_retention": asked}
            async with http.stream("POST", "/v1/completions", json=fields) as answer:
                name = answer.headers.get("x-stream-path", "").rpartition("/")[2]
                await read(answer)
            assert bool(name) == bool(kept), asked
            if kept:
                key, least = f"shoal:stream:{name}", max(1, (kept - 10) * 1000)
                await until(lambda key=key, least=least: client.pttl(key) >= least, "its log")  # type: ignore[misc]
                assert client.pttl(key) <= kept * 1000
    assert len(client.keys("shoal:stream:*")) <= 3, "what was not to be kept is nowhere"


async def test_where_nothing_is_kept_by_default_a_request_can_ask_for_it(
    connect_bus: Connect, model_dir: Path, gateways: list[RunningGateway]
) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "stream": True}
    async with AsyncExitStack() as stack:
        made = []
        for name, *options in (("a",), ("b",), ("c", "--max_stream_retention", "0")):
            running = running_gateway(await connect_bus(name), model_dir, *options, instance_id=name)
            made.append(await stack.enter_async_context(running))
            await until_ready(made[-1])
        before, rest = await broken_and_resumed(
            made[:2], "/v1/completions", body | {"stream_retention": 30}, after=12
        )
        assert texts(before) + texts(rest) == LONG
        async with made[0].http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
            assert "x-stream-path" not in answer.headers
            await read(answer)
        async with made[2].http() as http:
            refused = await http.post("/v1/completions", json=body | {"stream_retention": 1})
            nothing = await http.get("/v1/streams/any")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream_retention")
    assert "--max_stream_retention" in refused.json()["error"]["message"]
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize("after", [1, 2, 12])
async def test_a_prompt_s_scores_are_given_once_over_a_takeover(
    gateways: list[RunningGateway], backend: FakeBackend, after: int
) -> None:
    """A choice that the client has nothing of begins with them at the other gateway too."""
    body = {"model": MODEL, "prompt": list(range(65, 80)), "echo": True, "logprobs": 1, "max_tokens": 100}
    body |= {"n": 2, "seed": 3}
    async with gateways[0].http(**KEY) as http:
        whole = (await http.post("/v1/completions", json=body)).json()["choices"]
    before, rest = await broken_and_resumed(gateways, "/v1/completions", body, after=after)
    found = [c for event in before + rest[:-1] for c in event.data["choices"]]
    for choice in whole:
        chunks = [c for c in found if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in chunks) == choice["text"]
        for name, column in choice["logprobs"].items():
            assert [item for c in chunks for item in c["logprobs"][name]] == column
    begun = {c["index"] for event in before for c in event.data["choices"]}
    assert backend.client_requests()[-1].prompt_logprobs == (-1 if begun == {0, 1} else 1)


async def test_a_scored_prompt_s_only_event_is_given_once(gateways: list[RunningGateway]) -> None:
    body = {"model": MODEL, "prompt": [65, 66, 67], "echo": True, "logprobs": 1, "max_tokens": 0}
    before, rest = await broken_and_resumed(gateways, "/v1/completions", body, after=1)
    assert before[0].data["choices"][0]["finish_reason"] == "length"
    assert [event.data for event in rest] == ["[DONE]"]


async def test_streams_of_others_and_unknown_ones_are_not_found(gateways: list[RunningGateway]) -> None:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 3, "stream": True}
    async with gateways[0].http() as http:
        async with http.stream("POST", "/v1/completions", json=body, headers=KEY) as answer:
            address = answer.headers["x-stream-path"]
            await read(answer)
        assert (await http.get(address, headers=OTHER_KEY)).status_code == 404
        assert (await http.get("/v1/streams/nothing", headers=KEY)).status_code == 404
        wrong = await http.get(address, headers=KEY | {"Last-Event-ID": "7:1.1"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")
