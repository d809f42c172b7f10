"""A TCP proxy on loopback that holds every answer back for a while: what it stands before is slow, not stopped.

A process of its own: python -m tests.fakes.proxy PORT TARGET_PORT DELAY_S
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.fakes.servers import die_with_parent, free_port

CHUNK = 1 << 16


@contextmanager
def slow_proxy(target_port: int, delay_s: float) -> Iterator[int]:
    """Its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.fakes.proxy", str(port), str(target_port), str(delay_s)]
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    try:
        yield port
    finally:
        process.kill()
        process.wait(10)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            await asyncio.sleep(delay_s)
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(port: int, target_port: int, delay_s: float) -> None:
    async def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)
        await asyncio.gather(copy(reader, far_writer, 0.0), copy(far_reader, writer, delay_s))

    server = await asyncio.start_server(on_connect, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
