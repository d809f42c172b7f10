"""Many streams at once, streams whose client leaves, and how few messages they take."""

from __future__ import annotations

import asyncio

import httpx

from services.cli import fleet
from services.common.bus import Message
from services.common.messages.codec import decode
from services.common.messages.frames import TokenFrame
from tests.e2e.metrics import of_workers, scrape, total
from tests.fakes.stack import Stack
from tests.fakes.waiting import until
from tests.faults.workload import differences, jobs, run_all


async def test_64_streams_at_once_are_complete_and_as_if_alone(stack: Stack):
    todo = jobs(stack.model, 64, max_tokens=48)
    together = await run_all(stack.base_urls, todo)
    few = todo[::4]
    alone = [(await run_all(stack.base_urls, [job]))[0] for job in few]
    assert [outcome.error for outcome in together if outcome.error] == []
    assert differences(together[::4], alone) == []


async def test_a_client_that_hangs_up_frees_its_blocks(stack: Stack, http: httpx.AsyncClient):
    addresses = [r["address"] for r in stack.services().values() if r["service"] == "worker"]

    def used() -> float:
        return sum(scrape(address)["shoal_worker_used_blocks"] for address in addresses)

    await until(lambda: used() == 0, "an idle start", 30)
    body = {"model": stack.model, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    for prompt in ([30] * 200, [31] * 2, [32] * 90):
        async with http.stream("POST", "/v1/completions", json=body | {"prompt": prompt}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    await until(lambda: used() > 0, "the blocks of a stream to be seen")
                    break
    await until(lambda: used() == 0, "the blocks to be free", 30)


async def test_a_client_that_hangs_up_before_the_first_token_frees_its_blocks(stack: Stack):
    body = {"model": stack.model, "max_tokens": 1000, "prompt": [33] * 1000, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=stack.base_urls[0], verify=False) as hasty:
        asking = [asyncio.create_task(hasty.post("/v1/completions", json=body)) for _ in range(4)]
        await asyncio.sleep(0.05)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    for name in ("shoal_worker_used_blocks", "shoal_worker_running_sequences"):
        await until(lambda name=name: total(stack, name) == 0, f"{name} to be 0")  # type: ignore[misc]


async def test_a_step_takes_at_most_one_message_to_each_detokenizer(stack: Stack):
    frames: dict[str, int] = {}
    rows = 0

    async def on_frame(message: Message) -> None:
        nonlocal rows
        frame = decode(TokenFrame, message.data)
        frames[frame.worker_id] = frames.get(frame.worker_id, 0) + 1
        rows += len(frame.streams)

    def steps() -> dict[str, float]:
        return {i: figures["shoal_worker_step_seconds_count"] for i, figures in of_workers(stack).items()}

    bus, subjects = await fleet.connect(stack.state["bus"], "counting")
    try:
        before = steps()
        await bus.subscribe(subjects.detokenizer_frames("x").replace(".x.", ".*."), on_frame)
        outcomes = await run_all(stack.base_urls, jobs(stack.model, 32, seed=9, max_tokens=40))
        assert not [o.error for o in outcomes if o.error]
        after = steps()
    finally:
        await bus.close()
    detokenizers = len(stack.state["services"]["detokenizer"])
    assert frames
    for worker_id, count in frames.items():
        assert count <= (after[worker_id] - before[worker_id] + 1) * detokenizers
    assert rows > 2 * sum(frames.values()), "frames carry many streams each"
