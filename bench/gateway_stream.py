"""How many streamed tokens a second one gateway core carries.

    python -m bench.gateway_stream [--streams 64] [--tokens 400] [--step_s 0.03] [--dialect completions|chat]
        [--stream_retention 30]

A real gateway process on a real NATS; a fake frame source (this process's child) sends TextFrames with one token
of every stream per step, as fast as the gateway keeps up; a client process reads the events. The figure is the
tokens delivered per second of the gateway's own CPU time, beside the rate by the wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from services.common.bus import Message
from services.common.bus.nats import NatsBus, NatsSettings
from services.common.messages.codec import decode, encode
from services.common.messages.events import READY, Heartbeat, WorkerLoad
from services.common.messages.frames import LENGTH, RUNNING, TextFrame
from services.common.messages.request import GenerateRequest, SubmitReply, stream_id
from services.common.subjects import Subjects
from tests.fakes.servers import NatsServer, free_port
from tests.fakes.tiny_model import make_tokenizer

MODEL = "tiny"
HEARTBEAT_S = 0.4


async def _run_source(settings: NatsSettings, num_streams: int, step_s: float) -> None:
    """Answers submissions; once ``num_streams`` are there, steps through them all until they end."""
    bus, subjects = await NatsBus.connect(settings, "source"), Subjects()
    waiting: list[GenerateRequest] = []
    tasks: set[asyncio.Task[None]] = set()

    async def on_submit(message: Message) -> None:
        request = decode(GenerateRequest, message.data)
        await bus.publish(message.reply, encode(SubmitReply(True, "router-1")))
        batch = [request]
        if not request.request_id.startswith("canary"):
            waiting.append(request)
            if len(waiting) < num_streams:
                return
            batch = waiting[:]
            waiting.clear()
        task = asyncio.create_task(_send(bus, subjects, batch, step_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await bus.subscribe(subjects.submit(MODEL), on_submit, "routers")
    while True:
        for service in ("router", "worker", "detokenizer"):
            load = WorkerLoad(max_request_tokens=2048) if service == "worker" else None
            beat = Heartbeat(service, f"{service}-1", 1, READY, HEARTBEAT_S, MODEL, worker=load)
            await bus.publish(subjects.heartbeat(service, beat.instance_id), encode(beat))
        await asyncio.sleep(HEARTBEAT_S)


async def _send(bus: NatsBus, subjects: Subjects, batch: list[GenerateRequest], step_s: float) -> None:
    gateway, count = batch[0].gateway_id, len(batch)
    streams = [stream_id(request.request_id, 0) for request in batch]
    limit = batch[0].sampling.max_tokens
    for index in range(limit):
        frame = TextFrame(
            worker_id="worker-1",
            detokenizer_id="detokenizer-1",
            streams=streams,
            attempts=[request.attempt for request in batch],
            first=[index] * count,
            counts=[1] * count,
            ids=[100] * count,
            texts=[" token"] * count,
            text_offset=[6 * index] * count,
            finish=[LENGTH if index == limit - 1 else RUNNING] * count,
            cached_tokens=[0] * count,
        )
        await bus.publish(subjects.gateway_frames(gateway), encode(frame))
        await asyncio.sleep(step_s)


def _source(settings: NatsSettings, num_streams: int, step_s: float) -> None:
    asyncio.run(_run_source(settings, num_streams, step_s))


async def _read(port: int, path: str, body: bytes) -> tuple[int, int]:
    """(events, bytes) of one streamed answer, by a reader that costs next to nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    events = size = 0
    while data := await reader.read(1 << 16):
        events += data.count(b"\ndata: ")
        size += len(data)
    writer.close()
    return events, size


async def _measure(port: int, gateway: psutil.Process, args: argparse.Namespace) -> None:
    path = "/v1/completions" if args.dialect == "completions" else "/v1/chat/completions"
    prompt = (
        '"prompt":"Hi"' if args.dialect == "completions" else '"messages":[{"role":"user","content":"Hi"}]'
    )
    body = f'{{"model":"{MODEL}",{prompt},"stream":true,"max_tokens":{args.tokens}}}'.encode()
    before, started = gateway.cpu_times(), time.perf_counter()
    results = await asyncio.gather(*(_read(port, path, body) for _ in range(args.streams)))
    wall, after = time.perf_counter() - started, gateway.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    tokens, events = args.streams * args.tokens, sum(count for count, _ in results)
    print(f"{args.dialect}, {args.streams} streams of {args.tokens} tokens: {events} events")
    print(f"  {tokens / cpu:,.0f} tokens/s per gateway core ({cpu / tokens * 1e6:.1f} us each)")
    print(f"  {tokens / wall:,.0f} tokens/s by the wall clock ({wall:.2f} s)")


async def _until_ready(port: int) -> None:
    for _ in range(400):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if b" 200 " in await reader.readline():
                return
            writer.close()
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit("the gateway did not get ready")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--step_s", type=float, default=0.004, help="pause between tokens of a stream")
    parser.add_argument("--stream_retention", type=float, default=0.0)
    parser.add_argument("--dialect", choices=("completions", "chat"), default="completions")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tokenizer(Path(folder) / MODEL)
        with NatsServer(Path(folder)) as nats:
            source = multiprocessing.get_context("spawn").Process(
                target=_source, args=(nats.settings, args.streams, args.step_s)
            )
            source.start()
            port = free_port()
            words = ["--model_dir", str(model), "--port", str(port), "--nats_url", nats.settings.url]
            words += ["--log_level", "warning", "--stream_retention", str(args.stream_retention)]
            env = os.environ | {
                f"SHOAL_NATS_{name}": value
                for name, value in (("USER", nats.settings.user), ("PASSWORD", nats.settings.password))
                if value
            }
            gateway = subprocess.Popen([sys.executable, "-m", "services.gateway", *words], env=env)
            try:
                asyncio.run(_until_ready(port))
                for _ in range(3):
                    asyncio.run(_measure(port, psutil.Process(gateway.pid), args))
            finally:
                gateway.terminate()
                gateway.wait(10)
                source.terminate()
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores shared by all three"
    )


if __name__ == "__main__":
    main()
