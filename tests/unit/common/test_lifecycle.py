import asyncio
import os
import random
import signal

import pytest

from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.lifecycle import (
    Identity,
    ServiceRuntime,
    Timing,
    new_epoch,
    new_instance_id,
    run_until_signalled,
)
from services.common.messages.codec import decode, encode
from services.common.messages.events import Heartbeat, TraceReply, TraceRequest, WorkerLoad
from services.common.subjects import Subjects
from tests.fakes.waiting import until
from tests.simulation.loop import run_virtual

SUBJECTS = Subjects("test")


class Service:
    """An app that notes what is called and drains when told."""

    def __init__(self):
        self.calls = []
        self.reason = ""
        self.num_ticks, self.ticks_badly = 0, False
        self.can_finish = asyncio.Event()

    async def start(self):
        self.calls.append("start")

    def heartbeat(self):
        return WorkerLoad(running=2), {"things": 1.0}

    async def tick(self):
        self.num_ticks += 1
        if self.ticks_badly:
            raise RuntimeError("a tick that fails")

    def not_ready(self):
        return self.reason

    async def drain(self):
        self.calls.append("drain")
        await self.can_finish.wait()
        self.calls.append("drained")

    async def stop(self):
        self.calls.append("stop")


@pytest.fixture
async def stage():
    """(runtime, app, beats): a service that has not started, and the heartbeats that others hear."""
    broker, beats = MemoryBroker(), []
    ears = MemoryBus(broker, "ears")

    async def hear(message):
        beats.append(decode(Heartbeat, message.data))

    await ears.subscribe(SUBJECTS.heartbeats(), hear)
    app = Service()
    runtime = ServiceRuntime(
        Identity("worker", "w", 7, "m", "http://h"),
        MemoryBus(broker, "w"),
        SUBJECTS,
        app,
        Timing(heartbeat_s=0.05, lease_s=0.2, drain_timeout_s=0.3),
    )
    yield runtime, app, beats
    await runtime.stop()
    await ears.close()


async def test_heartbeats_tell_state_identity_and_load(stage):
    runtime, _, beats = stage
    assert runtime.not_ready() == "starting"
    await runtime.start()
    await until(lambda: beats and beats[-1].state == "ready")
    last = beats[-1]
    assert (last.service, last.instance_id, last.epoch, last.model) == ("worker", "w", 7, "m")
    assert (last.worker.running, last.load, last.pid) == (2, {"things": 1.0}, os.getpid())
    assert runtime.not_ready() == ""
    count = len(beats)
    await until(lambda: len(beats) > count + 2)


async def test_a_changed_load_is_told_early_and_not_more_than_once_in_10_ms(stage):
    runtime, _, beats = stage
    runtime.timing = Timing(heartbeat_s=3600, lease_s=14400)
    await runtime.start()
    await until(lambda: beats and beats[-1].state == "ready")
    count = len(beats)
    for _ in range(1000):
        runtime.beat_now()
        await asyncio.sleep(0)
    await until(lambda: len(beats) > count)
    await asyncio.sleep(0.05)
    assert len(beats) - count <= 5


async def test_the_app_ticks_each_interval_and_not_with_early_beats(stage):
    runtime, app, beats = stage
    runtime.timing = Timing(heartbeat_s=3600, lease_s=14400)
    await runtime.start()
    await until(lambda: beats and beats[-1].state == "ready")
    num_beats, num_ticks = len(beats), app.num_ticks
    runtime.beat_now()
    await until(lambda: len(beats) > num_beats)
    assert app.num_ticks == num_ticks


async def test_a_tick_that_fails_ends_neither_ticks_nor_beats(stage, caplog):
    runtime, app, beats = stage
    app.ticks_badly = True
    await runtime.start()
    await until(lambda: app.num_ticks > 2)
    count = len(beats)
    await until(lambda: len(beats) > count + 2)
    assert "a beat failed" in caplog.text


async def test_readiness_follows_the_app_and_the_bus(stage):
    runtime, app, _ = stage
    await runtime.start()
    app.reason = "no workers"
    assert runtime.not_ready() == "no workers"
    runtime.bus._broker.is_up = False
    assert runtime.not_ready() == "NATS is away"
    runtime.bus._broker.is_up = True


async def test_draining_is_told_and_ends_at_the_timeout(stage):
    runtime, app, beats = stage
    await runtime.start()
    await runtime.drain()
    assert app.calls == ["start", "drain"]
    assert beats[-1].state == "draining"
    assert runtime.not_ready() == "draining"


async def test_stopping_is_told(stage):
    runtime, app, beats = stage
    await runtime.start()
    await runtime.stop()
    await until(lambda: beats and beats[-1].state == "stopped")
    assert app.calls == ["start", "stop"]


async def test_the_heartbeat_task_ends_when_cancelled_together_with_an_early_beat(stage):
    """wait_for of Python 3.11 loses such a cancellation."""
    runtime, _, _ = stage
    await runtime.start()
    for _ in range(20):
        task = asyncio.create_task(runtime._run_beats())
        await asyncio.sleep(0.02)
        runtime.beat_now()
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()


async def test_traces_are_answered_by_those_who_know_the_request(stage):
    runtime, _, _ = stage
    await runtime.start()
    runtime.recorder.record("q", "queued", line=3)
    asker, answers = MemoryBus(runtime.bus._broker, "asker"), []

    async def collect(message):
        answers.append(decode(TraceReply, message.data))

    await asker.subscribe("answers", collect)
    for request_id in ("unknown", "q"):
        await asker.publish(SUBJECTS.trace(), encode(TraceRequest(request_id)), "answers")
    await until(lambda: answers)
    assert [(e.event, e.fields) for e in answers[0].events] == [("queued", {"line": "3"})]
    assert len(answers) == 1
    await asker.close()


async def test_sigterm_drains_then_stops_with_0(stage):
    runtime, app, _ = stage
    app.can_finish.set()

    async def start():
        await runtime.start()
        return runtime

    ending = asyncio.create_task(run_until_signalled(start))
    await until(lambda: runtime.state == "ready")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await ending == 0
    assert app.calls == ["start", "drain", "drained", "stop"]


async def test_a_second_signal_stops_at_once(stage):
    runtime, app, _ = stage
    runtime.timing = Timing(drain_timeout_s=600)

    async def start():
        await runtime.start()
        return runtime

    ending = asyncio.create_task(run_until_signalled(start))
    await until(lambda: runtime.state == "ready")
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: "drain" in app.calls)
    os.kill(os.getpid(), signal.SIGINT)
    assert await ending == 0
    assert app.calls == ["start", "drain", "stop"]


async def test_a_signal_while_starting_ends_it():
    async def start():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    assert await run_until_signalled(start) == 0


def test_ids_and_epochs_differ_from_start_to_start():
    rng = random.Random(0)
    assert new_instance_id("worker", rng) != new_instance_id("worker", rng)
    first = new_epoch()
    assert first > 1_700_000_000 * 1_000_000
    assert new_epoch() >= first


@pytest.mark.parametrize(("drain_s", "stop_s"), [(1e6, 2.0), (1e6, 1e6), (10.0, 1e6), (1.0, 2.0)])
def test_drain_and_stop_together_take_no_longer_than_the_timeout(drain_s, stop_s):
    """By a virtual clock, with an app whose requests and whose end take as long as they like."""

    class Slow(Service):
        async def drain(self):
            await asyncio.sleep(drain_s)

        async def stop(self):
            await asyncio.sleep(stop_s)

    async def main(loop):
        bus = MemoryBus(MemoryBroker(), "w")
        runtime = ServiceRuntime(Identity("worker", "w", 7), bus, SUBJECTS, Slow(), Timing())
        await runtime.start()
        told_at = loop.time()
        await runtime.drain()
        await runtime.stop()
        return loop.time() - told_at

    took_s = run_virtual(main)
    assert took_s <= Timing().drain_timeout_s
    if drain_s + stop_s < 20:
        assert took_s == pytest.approx(drain_s + stop_s)
