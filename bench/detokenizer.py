"""How many tokens a second one core of the detokenizer carries: decode, text, stop strings, encode.

    PYTHONPATH=. python bench/detokenizer.py [--model_dir DIR] [--seconds 2]

The whole path of a frame except the socket: bytes of a TokenFrame in, bytes of the TextFrames out.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import tempfile
import time
from pathlib import Path

from services.common.bus import Message
from services.common.bus.base import MAX_PAYLOAD
from services.common.lifecycle import Timing
from services.common.messages.codec import encode
from services.common.messages.frames import StreamInfo, TokenFrame
from services.common.messages.request import StreamParams
from services.common.model_files import load_tokenizer
from services.common.subjects import Subjects
from services.common.telemetry import FlightRecorder, Metrics
from services.detokenizer.app import DetokenizerApp
from services.detokenizer.decoding import Decoding, decoding_of

TEXT = "The quick brown fox jumps over the lazy dog. 日本語の文章 😀 and then some more: def add(a, b): return a + b\n"
STOPS = [f"<stop {i}>" for i in range(15)] + ["\n\nUser:"]


class NullBus:
    """Counts what would be sent."""

    max_payload = MAX_PAYLOAD
    is_connected = True

    def __init__(self) -> None:
        self.num_bytes = 0

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.num_bytes += len(data)


def frames(ids: list[int], num_streams: int, num_steps: int, stops: list[str]) -> list[Message]:
    """One token a stream and step, as a worker sends them; streams are ids of a text from random places."""
    rng = random.Random(0)
    starts = [rng.randrange(len(ids)) for _ in range(num_streams)]
    streams = [f"cmpl-{i:024x}:0" for i in range(num_streams)]
    ones, zeros = [1] * num_streams, [0] * num_streams
    infos = {i: StreamInfo(f"g{i % 2}", StreamParams(stop=stops)) for i in range(num_streams)}
    made = []
    for step in range(num_steps):
        row_ids = [ids[(start + step) % len(ids)] for start in starts]
        frame = TokenFrame("w", streams, ones, [step] * num_streams, ones, row_ids, zeros, zeros)
        if step == 0:
            frame.infos = infos
        made.append(Message("", encode(frame)))
    return made


async def measure(decoding: Decoding, messages: list[Message], seconds: float) -> tuple[float, float]:
    """Tokens a second of CPU time, and microseconds a frame."""
    num_frames, spent = 0, 0.0
    while spent < seconds:
        app = DetokenizerApp(
            "d", NullBus(), Subjects(), Timing(), decoding, Metrics("detokenizer", ""), FlightRecorder()
        )  # type: ignore[arg-type]
        await app._on_frame(messages[0])
        began = time.process_time()
        for message in messages[1:]:
            await app._on_frame(message)
        spent += time.process_time() - began
        num_frames += len(messages) - 1
    return num_frames / spent, 1e6 * spent / num_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model_dir", help="a checkpoint with tokenizer.json; a tiny one is made when absent"
    )
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.model_dir:
            path = Path(arguments.model_dir)
        else:
            from tests.fakes.tiny_model import make_tokenizer

            path = make_tokenizer(Path(scratch))
        began = time.perf_counter()
        tokenizer = load_tokenizer(path)
        decoding = decoding_of(tokenizer)
        load_s = time.perf_counter() - began
    ids = tokenizer.encode(TEXT * 20, add_special_tokens=False)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, one core")
    print(
        f"tokenizer: {path.name}, loaded with its tables in {load_s:.2f} s; 1 token a stream and frame, 2 gateways"
    )
    for num_streams in (1, 64, 256):
        for stops in ([], STOPS):
            messages = frames(ids, num_streams, 400, stops)
            rate, frame_us = asyncio.run(measure(decoding, messages, arguments.seconds))
            print(
                f"{num_streams:4} streams, {len(stops):2} stop strings: "
                f"{rate * num_streams:10,.0f} tokens/s  {frame_us:8.0f} us/frame"
            )


if __name__ == "__main__":
    main()
