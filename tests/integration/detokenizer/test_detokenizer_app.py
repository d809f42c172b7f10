"""The detokenizer app on a real NATS, and the process as `up` starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.bus import Message
from services.common.bus.nats import NatsBus
from services.common.lifecycle import Identity, ServiceRuntime, Timing
from services.common.messages.codec import decode, encode
from services.common.messages.control import Cancel, Holdings, Replay
from services.common.messages.events import READY, STOPPED, Heartbeat
from services.common.messages.frames import LENGTH, RUNNING, StreamInfo, TextFrame, TokenFrame
from services.common.messages.request import StreamParams
from services.common.model_files import FastTokenizer, load_tokenizer
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.detokenizer.app import DetokenizerApp
from services.detokenizer.config import StreamLimits
from services.detokenizer.decoding import decoding_of
from tests.conftest import ConnectBus
from tests.fakes.servers import NatsServer, die_with_parent
from tests.fakes.tiny_model import make_tokenizer
from tests.fakes.waiting import until

SUBJECTS = Subjects("test")
TIMING = Timing(heartbeat_s=0.05, lease_s=0.2, drain_timeout_s=5.0)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> FastTokenizer:
    tokenizer = load_tokenizer(model_dir)
    assert isinstance(tokenizer, FastTokenizer)
    return tokenizer


class World:
    """A worker's and a gateway's ends around one detokenizer."""

    def __init__(
        self, near: NatsBus, far: NatsBus, tokenizer: FastTokenizer, timing: Timing = TIMING
    ) -> None:
        self.bus = near
        self.metrics = Metrics("detokenizer", "test")
        recorder = FlightRecorder()
        self.app = DetokenizerApp(
            "d1", far, SUBJECTS, timing, decoding_of(tokenizer), self.metrics, recorder, StreamLimits()
        )
        identity = Identity("detokenizer", "d1", 1)
        self.runtime = ServiceRuntime(identity, far, SUBJECTS, self.app, timing, recorder)
        self.texts: list[TextFrame] = []
        self.replays: list[Replay] = []
        self.cancels: list[Cancel] = []
        self.beats: list[Heartbeat] = []

    async def start(self) -> None:
        async def on_text(message: Message) -> None:
            self.texts.append(decode(TextFrame, message.data))

        async def on_replay(message: Message) -> None:
            self.replays.append(decode(Replay, message.data))

        async def on_cancel(message: Message) -> None:
            self.cancels.append(decode(Cancel, message.data))

        async def on_beat(message: Message) -> None:
            self.beats.append(decode(Heartbeat, message.data))

        for gateway in ("g1", "g2"):
            await self.bus.subscribe(SUBJECTS.gateway_frames(gateway), on_text)
        await self.bus.subscribe(SUBJECTS.worker_replay("w1"), on_replay)
        await self.bus.subscribe(SUBJECTS.worker_cancel("w1"), on_cancel)
        await self.bus.subscribe(SUBJECTS.heartbeats("detokenizer"), on_beat)
        await self.runtime.start()

    async def send(self, frame: TokenFrame) -> None:
        await self.bus.publish(SUBJECTS.detokenizer_frames("d1"), encode(frame))


@pytest.fixture
async def world(connect_bus: ConnectBus, tokenizer: FastTokenizer) -> AsyncIterator[World]:
    world = World(await connect_bus("test"), await connect_bus("detokenizer"), tokenizer)
    await world.start()
    yield world
    if world.runtime.state != STOPPED:
        await world.runtime.stop()


def about(gateway: str = "g1", **params: object) -> StreamInfo:
    return StreamInfo(gateway, StreamParams(**params))  # type: ignore[arg-type]


def frame(
    ids: list[int], first: int = 0, *, info: StreamInfo | None = None, finish: int = RUNNING
) -> TokenFrame:
    infos = {} if info is None else {0: info}
    return TokenFrame("w1", ["r:0"], [1], [first], [len(ids)], ids, [finish], [0], infos=infos)


async def test_each_token_frame_becomes_one_text_frame_per_gateway(
    world: World, tokenizer: FastTokenizer
) -> None:
    words = ["The quick brown fox", "日本語の文章 😀👍🏽", "русский язык"]
    ids = [tokenizer.encode(word) for word in words]
    streams, gateways = ["a:0", "b:0", "c:0"], ["g1", "g2", "g1"]
    steps = max(map(len, ids))
    for step in range(steps):
        rows = [i for i in range(3) if step < len(ids[i])]
        await world.send(
            TokenFrame(
                "w1",
                [streams[i] for i in rows],
                [1] * len(rows),
                [step] * len(rows),
                [1] * len(rows),
                [ids[i][step] for i in rows],
                [LENGTH if step + 1 == len(ids[i]) else RUNNING for i in rows],
                [0] * len(rows),
                infos={r: about(gateways[i]) for r, i in enumerate(rows) if step == 0},
            )
        )
    await until(lambda: sum(f.finish.count(LENGTH) for f in world.texts) == 3)
    texts = dict.fromkeys(streams, "")
    for text_frame in world.texts:
        for name, text in zip(text_frame.streams, text_frame.texts, strict=True):
            texts[name] += text
    assert [texts[name] for name in streams] == words
    in_g1 = max(len(ids[0]), len(ids[2]))
    assert len(world.texts) == in_g1 + len(ids[1])


async def test_a_gap_leads_to_a_replay_which_heals_the_stream(world: World, tokenizer: FastTokenizer) -> None:
    ids = tokenizer.encode("one two three")
    await world.send(frame(ids[:1], info=about()))
    await world.send(frame(ids[2:3], 2))
    await until(lambda: world.replays)
    assert world.replays == [Replay(["r:0"], [1], "d1")]
    await world.send(frame(ids, info=about(), finish=LENGTH))
    await until(lambda: world.texts and world.texts[-1].finish == [LENGTH])
    assert world.texts[-1].texts == ["one two three"]


async def test_a_stop_string_ends_the_stream_at_the_gateway_and_the_worker(
    world: World, tokenizer: FastTokenizer
) -> None:
    await world.send(frame(tokenizer.encode("one two three"), info=about(stop=[" two"])))
    await until(lambda: world.texts and world.cancels)
    assert (world.texts[0].texts, world.texts[0].stop_reasons) == (["one"], {0: " two"})
    assert (world.cancels[0].streams, world.cancels[0].stream_attempts) == (["r:0"], [1])


async def test_bytes_that_are_no_frame_are_counted_and_harmless(world: World) -> None:
    for data in (b"", b"\xc1\xff", b"\x80", b"\xdf" * 50):
        await world.bus.publish(SUBJECTS.detokenizer_frames("d1"), data)
    await world.send(frame([70], info=about()))
    await until(lambda: world.texts)
    assert world.metrics.registry.get_sample_value("shoal_detokenizer_malformed_frames_total") == 4


async def test_streams_of_a_gateway_that_fell_silent_are_forgotten(world: World) -> None:
    await world.send(frame([70], info=about()))
    await until(lambda: world.texts)
    await until(lambda: world.app.heartbeat()[1]["streams"] == 0)


async def test_a_silent_stream_is_told_of_until_it_is_cancelled(world: World) -> None:
    """The gateway's Cancel may overtake its first row; the worker frees its own part then, and says no more."""
    told: list[Holdings] = []

    async def on_holdings(message: Message) -> None:
        told.append(decode(Holdings, message.data))

    await world.bus.subscribe(SUBJECTS.gateway_holdings("g1"), on_holdings)
    await world.send(frame([70, 71], info=about()))
    beat = Heartbeat("gateway", "g1", 1, READY, TIMING.heartbeat_s)
    for _ in range(2):
        await until(lambda: told)
        assert told.pop() == Holdings("detokenizer", "d1", [], [], ["r:0"], [1], [2], [0])
        await world.bus.publish(SUBJECTS.heartbeat("gateway", "g1"), encode(beat))
    assert world.app.heartbeat()[1]["streams"] == 1
    cancel = Cancel(streams=["r:0"], stream_attempts=[1])
    await world.bus.publish(SUBJECTS.detokenizer_cancel("d1"), encode(cancel))
    await until(lambda: world.app.heartbeat()[1]["streams"] == 0)


async def test_draining_serves_until_its_streams_have_gone_elsewhere(
    connect_bus: ConnectBus, tokenizer: FastTokenizer
) -> None:
    timing = Timing(heartbeat_s=0.05, lease_s=1.5, drain_timeout_s=30.0)  # it counts as active for a lease
    world = World(await connect_bus("test"), await connect_bus("detokenizer"), tokenizer, timing)
    await world.start()
    await world.send(frame([70], info=about()))
    await until(lambda: world.texts)
    draining = asyncio.create_task(world.runtime.drain())
    await world.send(frame([71], 1))
    await until(lambda: len(world.texts) == 2)
    assert not draining.done()
    await draining
    await world.runtime.stop()
    await until(lambda: world.beats and world.beats[-1].state == STOPPED)


async def test_a_text_frame_over_the_buss_limit_is_split(
    world: World, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(world.bus), "max_payload", 3000)
    streams = [f"r{i}:0" for i in range(100)]
    many = TokenFrame(
        "w1", streams, [1] * 100, [0] * 100, [1] * 100, [70] * 100, [LENGTH] * 100, [0] * 100,
        infos=dict.fromkeys(range(100), about()),
    )  # fmt: skip
    actions_in = encode(many)
    monkeypatch.setattr(world.bus, "_check_size", lambda data: None)
    await world.bus.publish(SUBJECTS.detokenizer_frames("d1"), actions_in)
    await until(lambda: sum(len(f.streams) for f in world.texts) == 100)
    assert len(world.texts) > 1
    assert [name for f in world.texts for name in f.streams] == streams


def start_process(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.detokenizer", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
        env={k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")},
    )


def loaded_libraries(pid: int, name: str) -> list[str]:
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if name in line]


async def test_the_process_is_ready_serves_without_torch_and_drains_on_sigterm(
    nats_server: NatsServer, connect_bus: ConnectBus, model_dir: Path
) -> None:
    bus = await connect_bus("test")
    beats: list[Heartbeat] = []

    async def on_beat(message: Message) -> None:
        beats.append(decode(Heartbeat, message.data))

    await bus.subscribe(SUBJECTS.heartbeats("detokenizer"), on_beat)
    process = start_process([*nats_server.flags, "--namespace", "test", "--model_dir", str(model_dir)])
    try:
        await until(lambda: beats and beats[-1].state == READY)
        assert beats[-1].model == model_dir.name
        assert not loaded_libraries(process.pid, "torch")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
        await until(lambda: beats[-1].state == STOPPED, "its last heartbeat")
    finally:
        process.kill()
        process.communicate()


async def test_a_missing_model_is_one_line_and_exit_code_2(nats_server: NatsServer, tmp_path: Path) -> None:
    process = start_process([*nats_server.flags, "--model_dir", str(tmp_path / "nowhere")])
    _, errors = await asyncio.to_thread(process.communicate, None, 30)
    assert process.returncode == 2
    assert errors.splitlines() == [
        f"shoal detokenizer: --model_dir {tmp_path / 'nowhere'}: there is no such directory"
    ]
