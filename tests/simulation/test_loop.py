"""The virtual loop keeps the promises that simulations rest on."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.loop import Process, Stuck, VirtualLoop, run_virtual


def test_an_hour_passes_at_once_and_timers_fire_in_order() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def note(name: str, delay: float) -> None:
            await asyncio.sleep(delay)
            seen.append((name, round(loop.time(), 6)))

        await asyncio.gather(note("hour", 3600), note("second", 1), note("now", 0))
        return seen

    assert run_virtual(main) == [("now", 0.0), ("second", 1.0), ("hour", 3600.0)]


def test_waiting_for_what_never_comes_is_an_error() -> None:
    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck):
        run_virtual(main)


def test_wait_for_times_out_in_virtual_time() -> None:
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 7.5)
        return loop.time()

    assert run_virtual(main) == 7.5


async def count(seen: list[float], loop: VirtualLoop) -> None:
    """Notes the time every second, in a task of a task."""

    async def tick() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                seen.append(loop.time())
        finally:
            seen.append(-1)

    await asyncio.create_task(tick())


def test_a_paused_process_does_nothing_and_finds_its_timers_late() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        seen: list[float] = []
        process = Process("p", loop)
        process.run(count(seen, loop))
        await asyncio.sleep(2.5)
        process.pause()
        await asyncio.sleep(4)
        assert seen == [1, 2]
        process.resume()
        await asyncio.sleep(1.5)
        return seen

    assert run_virtual(main) == [1, 2, 6.5, 7.5]


def test_a_killed_process_never_runs_again_not_even_its_finally() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        seen: list[float] = []
        process, other = Process("p", loop), Process("q", loop)
        process.run(count(seen, loop))
        rest: list[float] = []
        other.run(count(rest, loop))
        await asyncio.sleep(1.5)
        process.kill()
        for task in process.tasks:
            task.cancel()
        await asyncio.sleep(2)
        assert rest == [1, 2, 3]
        return list(seen)

    assert run_virtual(main) == [1]


def test_a_message_wakes_the_reader_in_its_own_process() -> None:
    """What one process puts into a queue of another is handled by the other, and so not while it is paused."""

    async def main(loop: VirtualLoop) -> list[str]:
        inbox: asyncio.Queue[str] = asyncio.Queue()
        seen: list[str] = []

        async def read() -> None:
            while True:
                seen.append(await inbox.get())

        async def write() -> None:
            await inbox.put("hello")

        reader, writer = Process("reader", loop), Process("writer", loop)
        reader.run(read())
        await asyncio.sleep(0)
        reader.pause()
        await writer.run(write())
        await asyncio.sleep(10)
        assert seen == []
        reader.resume()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return seen

    assert run_virtual(main) == ["hello"]
